"""The sinks on the command line: which there are, several from a file, dead letters, replay; on a real Kafka."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.dead_letters import DeadLetter, DeadLetterOffice, RawRecord
from connectors.kafka import Cluster, ensure_topics, producer
from connectors.sink_settings import RunnerOptions, sinks_from_toml
from connectors.sinks import SINKS
from headwater.cli import app
from headwater.commands.sinks import description
from headwater.exits import Exit
from schemas.avro import serde
from schemas.avro.records import Key, Notification
from schemas.avro.topics import Topics
from tests.ports import held_port
from tests.sink_harness import PATIENCE_S, count, dead_letters, eventually, make_topics, produce, rows
from tests.sink_samples import new, notification, resource

NUMBERS = "SELECT number FROM history ORDER BY number"


def run(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), env=env)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "headwater.cli", *arguments]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def ended(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=PATIENCE_S)
    return started.returncode, out, err


def retried(*arguments: str) -> tuple[int, str]:
    """Exit code and stdout of a retry; it logs, so it is a process of its own."""
    with process("deadletter", "retry", *arguments) as started:
        code, out, _ = ended(started)
    return code, out


def some(number: int, start: int = 0) -> list[Notification]:
    return [notification(resource("/3303/0/5700", float(i)), timestamp=i) for i in range(start, start + number)]


def at_kafka(kafka: Cluster, gateway: str) -> list[str]:
    return ["--gateway", gateway, "--kafka", kafka.bootstrap]


# --- which there are -------------------------------------------------------------------------------------------------


def test_the_list_has_every_sink_with_what_it_stores_and_needs() -> None:
    told = {row["name"]: row for row in json.loads(run("sink", "list", "-o", "json").stdout)}
    assert told.keys() == SINKS.keys()
    assert told["sqlite"] == {
        "name": "sqlite",
        "stores": "History and the asset graph in one SQLite file.",
        "topics": ["registrations", "observations", "replies", "joined"],
        "extra": None,
        "library": None,
        "installed": True,
    }
    table = run("sink", "list").output
    for row in told.values():
        assert row["name"] in table
        assert row["stores"] in table
        assert row["installed"]


def test_what_a_sink_needs_is_an_extra_of_its_name() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert {name for name, kind in SINKS.items() if kind.library} <= extras.keys()
    # And nobody forgets to say so: the module of a sink with an extra is not there without it.
    assert {name for name in SINKS if name in extras} == {name for name, kind in SINKS.items() if kind.library}


def test_a_library_that_is_not_installed_is_told() -> None:
    text = description(replace(SINKS["sqlite"], library="no_such_library"))
    assert "pip install 'headwater[sqlite]' (not installed here)" in text


@pytest.mark.parametrize("name", sorted(SINKS))
def test_what_describe_shows_is_a_file_that_run_takes(name: str, kafka_nowhere: Cluster) -> None:
    shown = run("sink", "describe", name)
    assert shown.exit_code == 0
    (found,) = sinks_from_toml(shown.stdout, gateway="gw1", kafka=kafka_nowhere)
    (sample,) = sinks_from_toml(SINKS[name].sample_config, gateway="gw1", kafka=kafka_nowhere)
    assert (found.sink, found.options) == (name, sample.options)
    # And so it is with each line of it that is one of the runner's.
    line = rf"^# ((?:{'|'.join(RunnerOptions.model_fields)}) = .*)$"
    text, changed = re.subn(line, r"\1", shown.stdout, flags=re.MULTILINE)
    assert changed == len(RunnerOptions.model_fields)
    (full,) = sinks_from_toml(text, gateway="gw1", kafka=kafka_nowhere)
    assert (full.gateway, full.batch_records, full.batch_bytes, full.linger_s) == ("rock64", 2000, 4 * 1024 * 1024, 0.2)


@pytest.fixture
def kafka_nowhere() -> Cluster:
    return Cluster(bootstrap="127.0.0.1:1")


def test_completion_knows_the_sinks() -> None:
    for words in ("headwater sink describe sq", "headwater replay --sink sq"):
        environment = os.environ | {
            "_HEADWATER_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        program = "import sys; sys.argv = ['headwater']; from headwater.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        assert done.stdout.split() == ["sqlite"]


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "sinks.toml: no sink is configured"),
        ("[sqlite", "sinks.toml: the configuration of the sinks is no TOML"),
        ('[sqlite]\nfile = "x.db"\ncolour = 3\n', "sinks.toml: [sqlite]: the sink sqlite has no option 'colour'"),
        (
            '[[sqlite]]\nfile = "a"\n[[sqlite]]\ngroup = "b"\n',
            "[[sqlite]] number 2: the sink sqlite needs the option file",
        ),
        ('[sqlite]\nfile = "x.db"\nlinger_s = "soon"\n', "[sqlite]: linger_s of the sink sqlite"),
        ('[[sqlite]]\nfile = "a"\n[[sqlite]]\nfile = "b"\n', "share a consumer group"),
        ('[sqlite]\nfile = "x.db"\ngateway = "no spaces"\n', "[sqlite]: gateway id 'no spaces'"),
        ('[sqlite]\nfile = "x.db"\npassword_env = "GONE"\n', "[sqlite]: password_env: the environment has no"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_table_and_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "sinks.toml").write_text(text)
    result = run("sink", "run", "--gateway", "gw", "--kafka", "127.0.0.1:1")
    assert result.exit_code == Exit.USAGE, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_file_without_a_gateway_anywhere_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\n')
    result = run("sink", "run", "sinks.toml")
    assert result.exit_code == Exit.USAGE
    assert "no gateway" in result.output
    assert "--gateway" in result.output


def test_a_file_of_sinks_that_is_taken_for_the_settings_is_told_where_it_goes(tmp_path: Path) -> None:
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\n')
    result = run("replay", "--config", "sinks.toml", "--sink", "sqlite", "--gateway", "gw")
    assert result.exit_code == Exit.USAGE
    assert "given with --sinks" in " ".join(result.output.replace("│", " ").split())


def test_a_metrics_port_that_is_taken_is_told(tmp_path: Path) -> None:
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (["run", "sinks.toml"], ["sqlite", "--file", "x.db"]):
            result = run("sink", *words, "--gateway", "gw", "--kafka", "127.0.0.1:1", "--metrics", port)
            assert result.exit_code == Exit.CANNOT_START
            assert f"127.0.0.1:{port}" in result.output
            assert "--metrics" in result.output


@pytest.mark.kafka
def test_one_process_runs_every_sink_of_the_file_and_stops_in_order(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    first, second = make_topics(kafka, f"{gateway_id}-a"), make_topics(kafka, f"{gateway_id}-b")
    (tmp_path / "sinks.toml").write_text(
        f"""
        [[sqlite]]
        file = "a.db"
        group = "{gateway_id}-first"
        batch_records = 7
        [[sqlite]]
        file = "b.db"
        gateway = "{gateway_id}-b"
        """
    )
    produce(kafka, first.observations, some(30))
    produce(kafka, second.observations, some(20))
    port = held_port()
    place = at_kafka(kafka, f"{gateway_id}-a")
    with process("sink", "run", "sinks.toml", *place, "--metrics", str(port)) as sink:
        eventually(count(tmp_path / "a.db"), 30)
        eventually(count(tmp_path / "b.db"), 20)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            metrics = answer.read().decode()
        assert f'group="{gateway_id}-first",sink="sqlite"' in metrics
        assert f'group="headwater-sink-sqlite-{gateway_id}-b",sink="sqlite"' in metrics
        sink.send_signal(signal.SIGTERM)
        code, _, err = ended(sink)
    assert (code, "Traceback" in err) == (0, False)
    # Started again it goes on where it was.
    produce(kafka, first.observations, some(5, 30))
    with process("sink", "run", "sinks.toml", *place) as sink:
        eventually(count(tmp_path / "a.db"), 35)
        sink.send_signal(signal.SIGINT)
        assert ended(sink)[0] == 0


@pytest.mark.kafka
def test_all_gateways_are_served_and_new_ones_as_they_appear(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    group = f"all-{gateway_id}"
    (tmp_path / "sinks.toml").write_text(f'[sqlite]\nfile = "all.db"\ngroup = "{group}"\n')
    mine = f"SELECT count(*) FROM history JOIN sources s ON s.id = source WHERE topic LIKE 'iot.{gateway_id}%'"
    produce(kafka, make_topics(kafka, f"{gateway_id}-a").observations, some(4))
    with process("sink", "run", *at_kafka(kafka, "*")) as sink:
        eventually(lambda: rows(tmp_path / "all.db", mine), [(4,)])
        produce(kafka, make_topics(kafka, f"{gateway_id}-new.north").observations, some(3))
        eventually(lambda: rows(tmp_path / "all.db", mine), [(7,)])
        sink.send_signal(signal.SIGTERM)
        assert ended(sink)[0] == 0


# --- dead letters ----------------------------------------------------------------------------------------------------


@pytest.fixture
def buried(kafka: Cluster, gateway_id: str) -> str:
    """A gateway with three dead letters: of a decoder, of the SQLite sink, and of another sink."""
    topics = make_topics(kafka, gateway_id)
    good = serde.encode(some(1)[0])
    letters = [
        (b"junk \x1b[2J", "decode", "no wire\nformat"),
        (good, "sink:sqlite", "disk on fire"),
        (good, "sink:other", "not this"),
    ]
    office = DeadLetterOffice(kafka)
    for offset, (value, stage, error) in enumerate(letters):
        raw = RawRecord(
            topic=topics.observations,
            partition=1,
            offset=100 + offset,
            timestamp=1_000 + offset,
            headers=(("coap.mid", b"\x01\x02"),),
            key=serde.encode(Key(ep="ep-1")),
            value=value,
        )
        assert office.deliver([DeadLetter(record=raw, error=error, stage=stage)], lambda: True)
    office.close()
    return gateway_id


def listed(kafka: Cluster, gateway: str, *more: str) -> list[dict[str, Any]]:
    result = run("deadletter", "list", *at_kafka(kafka, gateway), *more)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.kafka
def test_dead_letters_are_listed_with_why_and_where_from(kafka: Cluster, buried: str) -> None:
    every = listed(kafka, buried)
    assert [(one["partition"], one["offset"], one["stage"]) for one in every] == [
        (0, 0, "decode"),
        (0, 1, "sink:sqlite"),
        (0, 2, "sink:other"),
    ]
    assert every[1]["reason"] == "disk on fire"
    assert every[1]["ep"] == "ep-1"
    assert every[1]["origin"] == {
        "topic": f"iot.{buried}.observations",
        "partition": 1,
        "offset": 101,
        "timestamp": 1001,
    }
    assert [one["offset"] for one in listed(kafka, buried, "--stage", "sink")] == [1, 2]
    assert [one["offset"] for one in listed(kafka, buried, "--stage", "sink:other")] == [2]
    assert len(listed(kafka, buried, "--since", "-1h")) == 3
    assert [one["offset"] for one in listed(kafka, buried, "--since", str(every[2]["timestamp"]))][-1] == 2
    assert listed(kafka, buried, "--since", "2999-01-01") == []
    table = run("deadletter", "list", *at_kafka(kafka, buried), "-o", "table").output
    assert "disk on fire" in table
    assert f"iot.{buried}.observations 1:101" in table
    assert "no wire·format" in table


@pytest.mark.kafka
def test_a_dead_letter_is_shown_decoded_or_in_hex_with_the_reason(kafka: Cluster, buried: str) -> None:
    shown = json.loads(run("deadletter", "show", "0:1", *at_kafka(kafka, buried), "-o", "json").stdout)
    assert shown["record"]["rep"]["body"]["content"]["value"] == 0.0
    assert (shown["reason"], shown["error"], shown["headers"]) == ("disk on fire", None, {"coap.mid": 258})
    assert '"path": "/3303/0/5700"' in run("deadletter", "show", "1", *at_kafka(kafka, buried)).output
    junk = run("deadletter", "show", "0", *at_kafka(kafka, buried))
    assert junk.exit_code == 0
    assert "cannot be decoded" in junk.output
    assert "6a 75 6e 6b 20 1b 5b 32 4a" in junk.output
    assert "junk ·[2J" in junk.output
    raw = json.loads(run("deadletter", "show", "0", *at_kafka(kafka, buried), "-o", "json").stdout)
    assert (raw["record"], raw["valueHex"]) == (None, b"junk \x1b[2J".hex())


@pytest.mark.kafka
@pytest.mark.parametrize("place", ["0:3", "3", "7:0", "0:99999999999999"])
def test_a_dead_letter_that_is_not_there_is_told_with_what_is(kafka: Cluster, buried: str, place: str) -> None:
    result = run("deadletter", "show", place, *at_kafka(kafka, buried))
    assert result.exit_code == Exit.USAGE
    assert "offsets 0 to 2" in result.output or "no partition 7; it has 1" in result.output


@pytest.mark.kafka
def test_with_several_partitions_an_offset_alone_is_not_enough(kafka: Cluster, gateway_id: str) -> None:
    ensure_topics(kafka, {Topics(gateway_id).deadletter: 2})
    produce(kafka, Topics(gateway_id).deadletter, [b"by hand"], partition=1)
    result = run("deadletter", "show", "0", *at_kafka(kafka, gateway_id))
    assert (result.exit_code, "has 2 partitions: say which, as in 0:0" in result.output) == (Exit.USAGE, True)
    # A letter that nobody of ours wrote has neither stage nor origin.
    (one,) = listed(kafka, gateway_id)
    assert (one["partition"], one["stage"], one["origin"]) == (1, None, None)
    assert "by hand" in run("deadletter", "show", "1:0", *at_kafka(kafka, gateway_id)).output


@pytest.mark.kafka
def test_a_gateway_without_dead_letters_has_none(kafka: Cluster, gateway_id: str) -> None:
    topics = Topics(gateway_id)
    ensure_topics(kafka, {topics.observations: 1})
    assert listed(kafka, gateway_id) == []
    assert "has no dead letters" in run("deadletter", "list", *at_kafka(kafka, gateway_id), "-o", "table").output
    again = run("deadletter", "retry", *at_kafka(kafka, gateway_id), "--file", "x.db")
    assert (again.exit_code, "has no dead letters" in again.output) == (0, True)


@pytest.mark.kafka
def test_retry_stores_what_can_be_and_counts_what_is_refused_again(kafka: Cluster, buried: str, tmp_path: Path) -> None:
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\ngateway = "*"\ngroup = "archive"\n')
    again = [*at_kafka(kafka, buried), "--sink", "sqlite", "-o", "json"]
    code, out = retried(*again)
    told = json.loads(out)
    assert told == {"sink": "sqlite", "gateway": buried, "stored": 1, "refused": 1, "complete": True}
    assert code == Exit.REFUSED
    origin = 'SELECT topic, "partition", "offset" FROM history JOIN sources s ON s.id = source'
    assert rows(tmp_path / "x.db", origin) == [(f"iot.{buried}.observations", 1, 101)]
    # What was refused again is a letter of its own, for the next time; the other sink's is left alone.
    assert [letter.stage for letter in dead_letters(kafka, buried)] == ["decode", "sink:sqlite", "sink:other", "decode"]
    second = json.loads(retried(*again)[1])
    assert (second["stored"], second["refused"]) == (0, 1)
    assert "0 stored, 1 refused again" in retried(*at_kafka(kafka, buried), "--sink", "archive")[1]
    assert rows(tmp_path / "x.db", "SELECT count(*) FROM history") == [(1,)]


@pytest.mark.kafka
def test_several_letters_of_one_record_are_one_try_and_do_not_multiply(kafka: Cluster, gateway_id: str) -> None:
    topics = make_topics(kafka, gateway_id)
    raw = RawRecord(topic=topics.observations, partition=0, offset=7, timestamp=1, headers=(), key=None, value=b"junk")
    office = DeadLetterOffice(kafka)
    assert office.deliver([DeadLetter(record=raw, error="no", stage="decode")] * 4, lambda: True)
    office.close()
    _, out = retried(*at_kafka(kafka, gateway_id), "--file", "x.db", "-o", "json")
    assert json.loads(out)["refused"] == 1
    assert len(dead_letters(kafka, gateway_id)) == 5


@pytest.mark.kafka
def test_retry_of_a_sink_that_cannot_be_opened_names_table_and_key(kafka: Cluster, buried: str, tmp_path: Path) -> None:
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\ncolour = 1\n')
    for words in (["deadletter", "retry"], ["replay"]):
        result = run(*words, *at_kafka(kafka, buried), "--sink", "sqlite")
        assert result.exit_code == Exit.USAGE
        assert "[sqlite]: the sink sqlite has no option 'colour'" in result.output


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_replay_of_a_span_into_another_file_with_counts(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    topics = make_topics(kafka, gateway_id)
    sender = producer(kafka)
    day = 1_772_366_400_000  # 2026-03-01T12:00:00Z
    for hours in range(10):
        value = serde.encode(some(1, hours)[0])
        sender.produce(topics.observations, value=value, partition=hours % 2, timestamp=day + hours * 3_600_000)
    sender.produce(topics.observations, value=b"junk", partition=0, timestamp=day + 7 * 3_600_000)
    assert sender.flush(30) == 0
    place = ["--sink", "sqlite", "--file", "x.db", *at_kafka(kafka, gateway_id)]
    span = ["--from", "2026-03-01T14:00:00Z", "--to", "2026-03-01T17:00:00+00:00"]
    result = run("replay", *span, *place, "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["stored"], told["refused"], told["complete"]) == (3, 0, True)
    assert (told["from"], told["to"]) == (day + 2 * 3_600_000, day + 5 * 3_600_000)
    assert rows(tmp_path / "x.db", NUMBERS) == [(2.0,), (3.0,), (4.0,)]
    whole = run("replay", *place)
    assert whole.exit_code == Exit.REFUSED
    assert "from the beginning to now: 10 records stored, 1 refused" in whole.output
    assert f"iot.{gateway_id}.observations 0:5" in whole.output
    assert rows(tmp_path / "x.db", NUMBERS) == [(float(i),) for i in range(10)]
    assert dead_letters(kafka, gateway_id) == []


@pytest.mark.kafka
def test_the_sink_to_replay_is_found_in_the_file_by_name_or_group(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    produce(kafka, make_topics(kafka, gateway_id).observations, some(6))
    (tmp_path / "mine.toml").write_text(
        f'[[sqlite]]\nfile = "a.db"\n[[sqlite]]\nfile = "b.db"\ngateway = "{gateway_id}"\ngroup = "archive"\n'
    )
    kafka_only = ["--kafka", kafka.bootstrap, "--sinks", "mine.toml"]
    two = run("replay", "--sink", "sqlite", *kafka_only, "--gateway", gateway_id)
    assert (two.exit_code, "--sink sqlite fits 2; it has: sqlite, sqlite (group archive)" in two.output) == (2, True)
    none = run("replay", "--sink", "influxdb", *kafka_only, "--gateway", gateway_id)
    assert (none.exit_code, "fits none" in none.output) == (2, True)
    done = run("replay", "--sink", "archive", *kafka_only, "--gateway", gateway_id)
    assert done.exit_code == 0, done.output
    assert count(tmp_path / "b.db")() == 6
    assert not (tmp_path / "a.db").exists()


@pytest.mark.kafka
@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_cut_short_in_the_middle_and_run_again_it_makes_the_same_store(
    kafka: Cluster, gateway_id: str, tmp_path: Path, number: signal.Signals
) -> None:
    topics = make_topics(kafka, gateway_id)
    produce(kafka, topics.registrations, [new()])
    for partition in range(2):
        produce(kafka, topics.observations, some(2000, 2000 * partition), partition=partition)
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\nbatch_records = 1\n')
    arguments = ["replay", "--sink", "sqlite", *at_kafka(kafka, gateway_id)]
    stored = count(tmp_path / "x.db")
    with process(*arguments, "-o", "json") as first:
        eventually(lambda: stored() > 50, True)
        first.send_signal(number)
        code, out, err = ended(first)
    assert 50 < stored() < 4000
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == Exit.INTERRUPTED
        assert f"iot.{gateway_id}.observations" in err
        assert "Run it again" in err
        told = json.loads(out)
        assert not told["complete"]
        assert sum(place["next"] - place["from"] for place in told["partitions"]) == told["stored"] < 4001
    (tmp_path / "sinks.toml").write_text('[sqlite]\nfile = "x.db"\n')
    again = run(*arguments, "-o", "json")
    assert json.loads(again.stdout)["stored"] == 4001
    assert rows(tmp_path / "x.db", NUMBERS) == [(float(i),) for i in range(4000)]
    assert rows(tmp_path / "x.db", "SELECT count(*) FROM endpoints") == [(1,)]
