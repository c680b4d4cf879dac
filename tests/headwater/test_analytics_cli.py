"""The analytics jobs on the command line: which there are, their options as flags and as a file, what is shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analytics.job import parse_options
from analytics.jobs import JOBS
from connectors.kafka import Cluster, ensure_topics, producer, read_to_end
from headwater.cli import app
from headwater.exits import Exit
from schemas.avro.records import Key, Notification, ReadBody, RequestKind, ResponseCode, ResponsePayload
from schemas.avro.serde import decode, encode, to_json
from schemas.avro.topics import TopicKind, Topics
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as LwM2MPath

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["analytics", *arguments])


def test_every_job_is_listed_and_described() -> None:
    listed = json.loads(run("list", "--output", "json").stdout)
    assert [row["name"] for row in listed] == list(JOBS)
    assert all(row["does"] and row["output"] and row["options"] for row in listed)
    assert "max-temperature" in run("list").stdout
    for name in JOBS:
        shown = run("describe", name).stdout
        # As it is printed it is a file of options.
        assert isinstance(parse_options(JOBS[name], tomllib.loads(shown)), JOBS[name].options)
        assert f"headwater analytics run {name} " in shown


def test_every_option_of_a_job_is_in_its_help() -> None:
    for name, kind in JOBS.items():
        told = CliRunner().invoke(app, ["analytics", "run", name, "--help"], env={"COLUMNS": "200"}).stdout
        for option, field in kind.options.model_fields.items():
            assert f"--{(field.alias or option).replace('_', '-')}" in told
        assert "Examples:" in told


@pytest.mark.parametrize("arguments", [["list"], ["describe", "filter"], ["run", "filter", "--help"]])
def test_which_jobs_there_are_is_told_without_their_libraries(arguments: list[str]) -> None:
    done = _without_libraries(arguments)
    assert (done.returncode, done.stderr) == (Exit.OK, "")


@pytest.mark.parametrize("name", JOBS)
def test_a_job_whose_libraries_are_missing_says_how_to_come_by_them(name: str) -> None:
    done = _without_libraries(["run", name, "--gateway", "g"])
    assert done.returncode == Exit.CANNOT_START
    assert done.stderr == "error: quixstreams is not installed: pip install 'headwater[analytics]'\n"


def _without_libraries(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.modules['quixstreams'] = sys.modules['sqlglot'] = None; from headwater.cli import main;"
        f" sys.argv = ['headwater', 'analytics', *{arguments!r}]; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["describe", "max-temperatur"], "did you mean 'max-temperature'"),
        (["run", "max-temperature", "--gateway", "g", "--window", "soon"], "'soon' is no span of time"),
        (["run", "max-temperature", "--gateway", "g", "--function", "median"], "--function"),
        (["run", "max-temperature", "--gateway", "g", "--hop", "10s", "--sliding"], "exclude each other"),
        (["run", "max-temperature", "--gateway", "g", "--options", "none.toml"], "No such file"),
        (["run", "max-temperature"], "--gateway"),
        (["run", "max-temperature", "--gateway", "a b"], "gateway id"),
    ],
)
def test_what_is_wrong_is_told_in_words(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == Exit.USAGE
    assert words in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_a_file_with_an_unknown_option_is_told_which_there_are(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_text('windows = "30s"\n')
    result = run("run", "max-temperature", "--gateway", "g", "--options", str(file))
    assert result.exit_code == Exit.USAGE
    assert "no option 'windows'; it has" in result.output


def test_a_flag_beats_the_file_also_where_its_name_is_a_word_of_python(tmp_path: Path) -> None:
    file = tmp_path / "join.toml"
    file.write_text('code = "none.py"\nseries = ["/3303/0/5700", "/3304/0/5700"]\nas = "/3300/0/5700"\n')
    given = ("run", "join", "--gateway", "g", "--options", str(file), "--as")
    assert "none.py cannot be read" in run(*given, "/3303/100/5700").output
    assert "no resource" in run(*given, "/3303").output


def three_readings(kafka: Cluster, gateway: str) -> None:
    """50 and 60 in ten seconds, and one that closes their window."""
    ensure_topics(kafka, Topics(gateway).partitions())
    sender = producer(kafka)
    path = LwM2MPath(3304, 0, 5700)
    for at, value in ((0, 50.0), (1, 60.0), (100, 1.0)):
        time = 1_790_000_010_000 + at * 1000
        content = Resource(path=path, type=ResourceType.FLOAT, value=value)
        rep = ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=content))
        record = Notification(
            ticket="t", observation_id="o", server_id=gateway, ep="a", path=str(path), timestamp=time, rep=rep
        )
        sender.produce(Topics(gateway).observations, key=encode(Key(ep="a")), value=encode(record), timestamp=time)
    sender.flush(10)


def lines_of(number: int, kafka: Cluster, gateway: str, *arguments: str) -> list[dict[str, Any]]:
    """What a job shows first; it is then told to end, and must do so well."""
    command = [sys.executable, "-m", "headwater.cli", "analytics", "run", *arguments]
    command += ["--gateway", gateway, "--kafka", kafka.bootstrap]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        try:
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline()) for _ in range(number)]
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == Exit.OK, errors
    assert "Warning" not in errors
    return lines


@pytest.mark.kafka
def test_results_are_lines_of_json_and_sigterm_ends_the_job(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    three_readings(kafka, gateway_id)
    file = tmp_path / "windows.toml"
    file.write_text('path = "/3304"\nfunction = "max"\nwindow = "10s"\n')
    told = ["--options", str(file), "--function", "mean", "--to", f"{gateway_id}.mean", "--state", str(tmp_path / "s")]
    (line,) = lines_of(1, kafka, gateway_id, "max-temperature", *told)
    assert (line["ep"], line["path"], line["rep"]["body"]["content"]["value"]) == ("a", "/3304/0/5700-mean", 55.0)


@pytest.mark.kafka
def test_aggregates_are_shown_and_in_their_topic(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    three_readings(kafka, gateway_id)
    lines = lines_of(2, kafka, gateway_id, "aggregate", "--window", "10s", "--state", str(tmp_path / "state"))
    assert {(line["ep"], line["path"], line["count"], line["mean"], line["last"]) for line in lines} == {
        ("a", None, 2, 55.0, 60.0),
        ("a", "/3304/0/5700", 2, 55.0, 60.0),
    }
    found = read_to_end(kafka, [Topics(gateway_id).name(TopicKind.AGGREGATES)])
    assert [to_json(decode(one.value() or b"")) for one in found] == lines
