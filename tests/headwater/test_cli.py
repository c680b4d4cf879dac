"""The command line: help, settings, exit codes, output; against a real Kafka where it speaks to one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from connectors.kafka import Cluster, ensure_topics, producer
from headwater.cli import app
from headwater.exits import Exit
from schemas.avro.records import Key, Notification, ReadBody, RequestKind, ResponseCode, ResponsePayload
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath

COMMANDS = [
    "kafka start",
    "kafka stop",
    "kafka status",
    "topics create",
    "gateway",
    "bootstrap serve",
    "bootstrap check",
    "bootstrap log",
    "replicate",
    "sink run",
    "sink sqlite",
    "sink list",
    "sink describe",
    "replay",
    "deadletter list",
    "deadletter show",
    "deadletter retry",
    "sensor",
    "station",
    "devices",
    "device",
    "commands",
    "health",
    "read",
    "observe",
    "cancel",
    "discover",
    "write",
    "execute",
    "trigger-update",
    "trigger-bootstrap",
    "disable",
    "create",
    "delete",
    "attributes",
    "request",
    "firmware pull",
    "firmware push",
    "campaign create",
    "campaign status",
    "campaign pause",
    "campaign resume",
    "campaign abort",
    "campaign run",
    "tail",
    "schemas list",
    "schemas show",
    "schemas export",
    "schemas serve",
    "apikeys create",
    "apikeys list",
    "apikeys revoke",
    "credentials add",
    "credentials list",
    "credentials remove",
    "credentials import",
    "models list",
    "models show",
    "models import",
    "stores influxdb",
    "stores orientdb",
    "demo",
]
VERBS = {
    "read": ["dev", "/3/0/0"],
    "observe": ["dev", "/3303/0/5700"],
    "cancel": ["dev", "/3303/0/5700"],
    "discover": ["dev", "/3"],
    "write": ["dev", "/1/0/1", "300"],
    "execute": ["dev", "/3/0/4", "0='a'"],
    "trigger-update": ["dev"],
    "trigger-bootstrap": ["dev"],
    "disable": ["dev"],
    "create": ["dev", "/3303", "5601=1"],
    "delete": ["dev", "/3303/1"],
    "attributes": ["dev", "/3303/0/5700", "pmin=1&pmax=10"],
}
KINDS = {
    "cancel": "observeCancel",
    "attributes": "writeAttributes",
    "trigger-update": "execute",
    "trigger-bootstrap": "execute",
    "disable": "execute",
}
#: Where it is not what was given.
PATHS = {"trigger-update": "/1/0/8", "trigger-bootstrap": "/1/0/9", "disable": "/1/0/4"}


def run(*arguments: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin, env=env)


def headwater(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "headwater.cli", *arguments]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"headwater {command}" in result.output


def test_gateway_says_what_keys_its_options_need() -> None:
    for option in (
        ["--no-insecure"],
        ["--coaps", "127.0.0.1:5684"],
        ["--make-credentials"],
        ["--import-credentials", "devices.csv"],
    ):
        result = run("gateway", "--id", "g", *option)
        assert result.exit_code == Exit.USAGE
        assert "--credentials FILE" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--coaps-cert", "a.pem"], "belong together"),
        (["--coaps-key", "a.key"], "belong together"),
        (["--coaps-ca", "ca.pem"], "give --coaps-cert and --coaps-key too"),
        (["--coaps-cert", "a.pem", "--coaps-key", "a.key"], "--credentials FILE"),
    ],
)
def test_gateway_says_what_belongs_to_its_certificate(options: list[str], says: str) -> None:
    result = run("gateway", "--id", "g", *options)
    assert result.exit_code == Exit.USAGE
    assert says in " ".join(result.output.split())


def test_help_shows_what_looks_like_markup() -> None:
    assert '[gateway.endpoints."sensor-*"]' in run("gateway", "--help").stdout


def test_help_names_every_command_and_the_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command.split()[0] in result.output
    assert "Exit codes" in result.output


def test_documentation_has_every_command_and_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for command in COMMANDS:
        assert f"headwater {command}" in text
    for code in Exit:
        assert f"| {code.value} |" in text


def test_help_on_a_terminal_that_is_not_utf_8_is_no_traceback() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(headwater("--help"), capture_output=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0
    assert b"Exit codes" in done.stdout
    assert done.stderr == b""


def test_json_for_a_stdout_that_is_not_utf_8_says_the_same() -> None:
    program = "from headwater.output import print_json; print_json({'unit': '\\u00b0C'})"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, env=environment, check=True)
    assert json.loads(done.stdout) == {"unit": "\u00b0C"}


@pytest.mark.parametrize(("file", "words"), [("none/x.db", "there is no folder none"), (".", "it is a folder")])
def test_store_that_cannot_be_there_is_told_before_anything_runs(file: str, words: str) -> None:
    result = run("sink", "sqlite", "--gateway", "gw", "--kafka", "127.0.0.1:1", "--file", file)
    assert result.exit_code == Exit.CANNOT_START
    assert words in result.output


def test_help_loads_neither_kafka_nor_coap_nor_avro() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from headwater.cli import app; "
        "CliRunner().invoke(app, ['read', '--help']); "
        "print(sorted({'confluent_kafka', 'aiocoap', 'fastavro', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["read", "dev", "/3/0/x", "--gateway", "gw"], "no id between"),
        (["read", "dev", "/3", "--gateway", "no spaces here"], "gateway id"),
        (["read", "dev", "/3"], "--gateway"),
        (["read", "dev", "/3", "--gateway", "gw", "--kafka", "nowhere"], "HOST:PORT"),
        (["read", "dev", "/3", "--gateway", "gw", "--kafka", "host:99999"], "no port"),
        (["read", "dev", "/3", "--gateway", "gw", "--timeout", "soon"], "timeout"),
        (["write", "dev", "/3303/0/5700", "warm", "--gateway", "gw"], "a number is expected"),
        (["write", "dev", "/30000/0/1", "1", "--gateway", "gw"], "--type"),
        (["create", "dev", "/3303/0/5700", "1", "--gateway", "gw"], "create takes"),
        (["request", "--file", "nowhere.json", "--gateway", "gw"], "nowhere.json"),
        (["tail", "observations"], "--gateway"),
        (["tail", "nonsense", "--gateway", "gw"], "no topic"),
        (["sensor", "--endpoint", "s", "--server", "here"], "HOST:PORT"),
        (["sensor", "--endpoint", "s", "--server", "127.0.0.1:0"], "port 0"),
        (["read", "dev", "/3", "--gateway", "gw", "--kafka", "127.0.0.1:9092,127.0.0.1:00"], "port 0"),
        (["gateway", "--id", "gw", "--observe", "*/3"], "pattern"),
        (["gateway", "--id", "gw", "--coap", "127.0.0.1:0", "--observe", "*/3"], "pattern"),
        (["replay", "--from", "soon"], "no time"),
        (["replay", "--from", "-1h", "--to", "-2h"], "--from is not before --to"),
        (["replay", "--sink", "sqlite", "--gateway", "gw"], "--sinks"),
        (["replay", "--sink", "oracle", "--gateway", "gw"], "no sink 'oracle'"),
        (["replay", "--sink", "influxdb", "--file", "x.db", "--gateway", "gw"], "--file is the sink sqlite"),
        (["replay", "--max-size-mb", "5", "--gateway", "gw"], "--max-size-mb"),
        (["replay", "--file", "x.db"], "--gateway"),
        (["deadletter", "show", "1:x", "--gateway", "gw"], "PARTITION:OFFSET"),
        (["deadletter", "list", "--gateway", "*"], "gateway id"),
        (["sink", "describe", "sqlight"], "did you mean 'sqlite'"),
        (["sink", "run", "nowhere.toml"], "headwater sink describe"),
        (["sink", "run"], "no file sinks.toml"),
        (["kafka", "start", "--name", "third"], "--port"),
        (["kafka", "stop", "--name", "../edge"], "not a broker name"),
        (["kafka", "start", "--heap", "lots"], "not a size"),
        (["reed"], "No such command"),
    ],
)
def test_wrong_use_is_said_in_words_with_exit_code_2(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == Exit.USAGE
    assert words in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("verb", VERBS)
def test_kafka_that_does_not_answer_is_exit_code_3(verb: str) -> None:
    result = run(verb, *VERBS[verb], "--gateway", "gw", "--kafka", "127.0.0.1:1", "--timeout", "1")
    assert result.exit_code == Exit.UNREACHABLE
    assert "no Kafka answers at 127.0.0.1:1" in result.output


def test_debug_shows_the_traceback() -> None:
    arguments = ["read", "dev", "/3", "--gateway", "gw", "--kafka", "127.0.0.1:1", "--timeout", "1", "--debug"]
    done = subprocess.run(headwater(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" in done.stderr
    assert "Unreachable" in done.stderr


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    """Seen by which Kafka is said not to answer."""
    arguments = ["read", "dev", "/3", "--gateway", "gw", "--timeout", "1"]
    (tmp_path / "headwater.toml").write_text('[common]\nkafka = "127.0.0.1:2"\n')
    environment = {"HEADWATER_KAFKA": "127.0.0.1:3"}
    assert "at 127.0.0.1:2 " in run(*arguments).output
    assert "at 127.0.0.1:3 " in run(*arguments, env=environment).output
    assert "at 127.0.0.1:4 " in run(*arguments, "--kafka", "127.0.0.1:4", env=environment).output


def test_own_variable_of_a_command_beats_the_general_one() -> None:
    environment = {"HEADWATER_KAFKA": "127.0.0.1:3", "HEADWATER_READ_KAFKA": "127.0.0.1:5", "HEADWATER_GATEWAY": "gw"}
    assert "at 127.0.0.1:5 " in run("read", "dev", "/3", "--timeout", "1", env=environment).output
    assert "at 127.0.0.1:3 " in run("discover", "dev", "/3", "--timeout", "1", env=environment).output


@pytest.mark.parametrize("place", [["--config", "mine.toml", "read"], ["read", "--config", "mine.toml"]])
def test_settings_file_may_be_given_in_front_and_behind(tmp_path: Path, place: list[str]) -> None:
    (tmp_path / "mine.toml").write_text('gateway = "gw"\n[read]\nkafka = "127.0.0.1:6"\ntimeout = 1\n')
    assert "at 127.0.0.1:6 " in run(*place, "dev", "/3").output


def test_unknown_setting_in_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "headwater.toml").write_text('[read]\nkafak = "127.0.0.1:2"\n')
    result = run("read", "dev", "/3", "--gateway", "gw")
    assert result.exit_code == Exit.USAGE
    assert "'read.kafak' is not a setting" in " ".join(result.output.replace("│", " ").split())


def test_option_has_the_name_of_its_flag_in_environment_and_file(tmp_path: Path) -> None:
    """Also where the code calls it otherwise: seen by the folder that is looked at."""
    flag = str(tmp_path / "by-flag")
    (tmp_path / "headwater.toml").write_text('[kafka.status]\ndir = "by-file"\n')
    environment = {"HEADWATER_KAFKA_STATUS_DIR": "by-environment"}
    assert run("kafka", "status").output.endswith("by-file\n")
    assert run("kafka", "status", env=environment).output.endswith("by-environment\n")
    assert run("kafka", "status", "--dir", flag, env=environment).output.endswith("by-flag\n")


def test_every_option_can_be_set_in_the_environment_by_the_name_of_its_flag() -> None:
    top: Any = typer.main.get_command(app)
    for command in COMMANDS:
        found = top
        for word in command.split():
            found = found.commands[word]
        for option in (param for param in found.params if param.param_type_name == "option" and param.name != "help"):
            long = next(flag for flag in option.opts if flag.startswith("--"))
            name = "_".join(["HEADWATER", *command.replace("-", " ").split(), *long.strip("-").split("-")]).upper()
            assert name in option.envvar, (command, long)


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("read", "kafka = 9092"),
        ("read", "gateway = []"),
        ("read", "kafka = true"),
        ("read", 'kafka = ["127.0.0.1:1"]'),
        ("read", "timeout = true"),
        ("read", "timeout = 2026-01-01"),
        ("replicate", "bandwidth = false"),
        ("replicate", "bandwidth = -1"),
        ("replicate", "topic = 5"),
        ("sensor", "count = 2.5"),
        ("sensor", 'queue = "sometimes"'),
    ],
)
def test_setting_of_another_kind_is_said_in_words_with_exit_code_2(tmp_path: Path, command: str, setting: str) -> None:
    (tmp_path / "headwater.toml").write_text(f"[{command}]\n{setting}\n")
    arguments = {"read": ["dev", "/3", "--ticket", "t"], "replicate": ["--edge", "x:1"], "sensor": ["--endpoint", "s"]}
    own = [] if setting.startswith("gateway") or command == "sensor" else ["--gateway", "gw"]
    result = run(command, *arguments[command], *own)
    assert result.exit_code == Exit.USAGE, result.output
    assert setting.split()[0] in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_number_in_the_file_is_taken_as_if_it_were_typed(tmp_path: Path) -> None:
    text = 'gateway = 7\n[read]\nkafka = "127.0.0.1:6"\ntimeout = 1\nticket = 12\n[replicate]\nbandwidth = 64000\n'
    (tmp_path / "headwater.toml").write_text(text)
    assert "at 127.0.0.1:6 " in run("read", "dev", "/3").output
    same = run("replicate", "--edge", "nowhere")
    assert "HOST:PORT" in same.output  # it got past the bandwidth to the flag that is wrong


def test_malformed_patterns_by_endpoint_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "headwater.toml").write_text('[gateway.endpoints."s-*"]\nobserv = ["/3"]\n')
    result = run("gateway", "--id", "gw")
    assert result.exit_code == Exit.USAGE
    assert "s-*" in result.output


def test_completion_knows_the_commands() -> None:
    environment = os.environ | {
        "_HEADWATER_COMPLETE": "complete_bash",
        "COMP_WORDS": "headwater re",
        "COMP_CWORD": "1",
    }
    program = "import sys; sys.argv = ['headwater']; from headwater.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert {"read", "replicate", "request"} <= set(done.stdout.split())


def test_server_whose_name_nobody_knows_is_named() -> None:
    result = run("sensor", "--endpoint", "s", "--server", "no-such-host.invalid:5683")
    assert result.exit_code == Exit.CANNOT_START
    assert "no-such-host.invalid:5683" in result.output


def test_sensor_stops_in_order_when_it_is_told_to(tmp_path: Path) -> None:
    """Without a gateway: it tries to register, and ends with 0 on SIGTERM and on Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        journal = tmp_path / f"journal-{number}"
        command = headwater("sensor", "--endpoint", "s", "--server", "127.0.0.1:9", "--journal", str(journal))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                while not journal.exists():
                    assert process.poll() is None
                process.send_signal(number)
                assert process.wait(20) == 0
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["read", "dev", "/3", "--ticket", "mine"], Exit.INTERRUPTED),
        (["devices"], Exit.INTERRUPTED),
        (["devices", "--watch"], Exit.OK),
        (["commands", "dev"], Exit.INTERRUPTED),
        (["tail", "observations"], Exit.OK),
        (["topics", "create"], Exit.INTERRUPTED),
        (["deadletter", "list"], Exit.INTERRUPTED),
        (["deadletter", "show", "0:1"], Exit.INTERRUPTED),
        (["deadletter", "retry", "--file", "x.db"], Exit.INTERRUPTED),
        (["replay", "--file", "x.db"], Exit.INTERRUPTED),
    ],
)
def test_ctrl_c_is_answered_while_a_silent_kafka_is_waited_for(arguments: list[str], code: Exit) -> None:
    """Kafka's client alone would wait for ten seconds, and hold Ctrl-C back for as long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = ["--gateway", "gw", "--kafka", f"127.0.0.1:{silent.getsockname()[1]}"]
        with subprocess.Popen(headwater(*arguments, *place), stderr=subprocess.PIPE, text=True) as process:
            try:
                silent.settimeout(30)
                held, _ = silent.accept()
                with held:
                    process.send_signal(signal.SIGINT)
                    assert process.wait(8) == code
                assert process.stderr is not None
                told = process.stderr.read()
                assert ("mine" in told) is ("mine" in arguments)
                assert ("interrupted" in told) is (code is Exit.INTERRUPTED)
            finally:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gateway_that_waits_for_a_silent_kafka_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """The thread in which it waits returns much later than a process has to end."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kafka = f"127.0.0.1:{silent.getsockname()[1]}"
        place = ["--coap", "127.0.0.1:0", "--metrics", "0", "--state", str(tmp_path / "state")]
        command = headwater("gateway", "--id", "gw", "--kafka", kafka, *place)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                silent.settimeout(30)
                held, _ = silent.accept()
                with held:
                    process.send_signal(number)
                    assert process.wait(30) == 0
                assert process.stderr is not None
                assert "did not stop" not in process.stderr.read()
            finally:
                process.kill()


# --- with Kafka ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(kafka: Cluster, gateway_id: str) -> str:
    ensure_topics(kafka, Topics(gateway_id).partitions())
    return gateway_id


def told(value: float) -> Notification:
    path = Lwm2mPath(3303, 0, 5700)
    resource = Resource(path=path, type=ResourceType.FLOAT, value=value)
    return Notification(
        ticket="t",
        observation_id="o",
        server_id="gw",
        ep="dev",
        path=str(path),
        timestamp=1000,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=resource)),
    )


def produce(kafka: Cluster, topic: str, *values: bytes) -> None:
    client = producer(kafka)
    for value in values:
        client.produce(topic, key=encode(Key(ep="dev")), value=value, headers=[("coap.mid", b"\x01\x02")])
    assert client.flush(20) == 0


@pytest.mark.kafka
def test_topics_are_created_once_with_the_partitions_asked_for(kafka: Cluster, gateway_id: str) -> None:
    arguments = ["topics", "create", "--gateway", gateway_id, "--kafka", kafka.bootstrap, "--output", "json"]
    first = run(*arguments, "--observations", "4")
    assert first.exit_code == 0
    made = {row["topic"]: row for row in json.loads(first.stdout)}
    assert made[f"iot.{gateway_id}.observations"] == {
        "topic": f"iot.{gateway_id}.observations",
        "partitions": 4,
        "created": True,
    }
    assert made[f"iot.{gateway_id}.management.req"]["partitions"] == 1
    again = run(*arguments)
    assert again.exit_code == 0
    assert not any(row["created"] for row in json.loads(again.stdout))
    differing = run(*arguments, "--observations", "5")
    assert differing.exit_code == Exit.REFUSED
    assert "has 4 partitions" in differing.output


@pytest.mark.kafka
@pytest.mark.parametrize("verb", VERBS)
def test_verb_without_an_answer_is_exit_code_4_and_its_request_is_in_the_topic(
    kafka: Cluster, gateway: str, verb: str
) -> None:
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap]
    result = run(verb, *VERBS[verb], *place, "--timeout", "0.5", "--ticket", "mine", "--expires", "60")
    assert result.exit_code == Exit.TIMEOUT
    assert "is the gateway running" in result.output
    sent = run("tail", "requests", *place, "--from-beginning", "-n", "1", "-o", "json")
    record = json.loads(sent.stdout)
    assert (record["ep"], record["ticket"]) == ("dev", "mine")
    assert record["payload"]["kind"] == KINDS.get(verb, verb)
    assert record["payload"]["path"] == (PATHS.get(verb) or VERBS[verb][1])
    assert record["expires"] > 1_700_000_000_000


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("arguments", "kind", "paths"),
    [
        (["read", "dev", "/3/0/0", "3303"], "readComposite", ["/3/0/0", "/3303"]),
        (["read", "dev", "/"], "readComposite", ["/"]),
        (["observe", "dev", "/3/0/0", "/3303/0/5700"], "observeComposite", ["/3/0/0", "/3303/0/5700"]),
        (["cancel", "dev", "/3/0/0", "/3303/0/5700"], "observeCompositeCancel", ["/3/0/0", "/3303/0/5700"]),
    ],
)
def test_several_paths_are_one_composite_operation(
    kafka: Cluster, gateway: str, arguments: list[str], kind: str, paths: list[str]
) -> None:
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap]
    result = run(*arguments, *place, "--timeout", "0.5", "--format", "senml-json")
    assert result.exit_code == Exit.TIMEOUT
    sent = json.loads(run("tail", "requests", *place, "--from-beginning", "-n", "1", "-o", "json").stdout)
    assert (sent["payload"]["kind"], sent["payload"]["path"], sent["paths"]) == (kind, "/", paths)
    assert sent["payload"]["contentFormat"] == "SENML_JSON"
    line = run("tail", "requests", *place, "--from-beginning", "-n", "1", "-o", "table").stdout
    assert f"{kind} {' '.join(paths)}" in line


@pytest.mark.kafka
def test_several_values_are_one_composite_write(kafka: Cluster, gateway: str) -> None:
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap]
    values = ["/3/0/14", "-02", "1/0", "1=300,6=true"]
    assert run("write", "dev", *values, *place, "--timeout", "0.5").exit_code == Exit.TIMEOUT
    sent = json.loads(run("tail", "requests", *place, "--from-beginning", "-n", "1", "-o", "json").stdout)
    assert (sent["payload"]["kind"], sent["payload"]["path"]) == ("writeComposite", "/")
    written = [(one["path"], one["value"]) for one in sent["payload"]["body"]["resources"]]
    assert written == [("/3/0/14", "-02"), ("/1/0/1", 300), ("/1/0/6", True)]
    line = run("tail", "requests", *place, "--from-beginning", "-n", "1", "-o", "table").stdout
    assert "writeComposite /3/0/14 /1/0/1 /1/0/6" in line
    odd = run("write", "dev", *values, "/1/0/2", *place)
    assert odd.exit_code == Exit.USAGE
    assert "a value is missing" in odd.output


@pytest.mark.kafka
def test_request_is_read_from_stdin_in_its_json_form(kafka: Cluster, gateway: str) -> None:
    text = (
        '{"serverId": "server1", "ep": "EP", "ticket": "ticket#5", "payload": {"kind": "execute", "path": "/3/0/4", '
        '"contentFormat": "TLV", "body": {"io.zeelos.leshan.avro.request.AvroExecuteRequest": '
        '{"parameters": "param1,param2"}}}}'
    )
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap]
    assert run("request", "--file", "-", *place, "--timeout", "0.5", stdin=text).exit_code == Exit.TIMEOUT
    sent = json.loads(run("tail", "requests", *place, "--from-beginning", "-n", "1").stdout)
    assert (sent["serverId"], sent["ticket"]) == ("server1", "ticket#5")
    assert sent["payload"]["body"] == {"parameters": "param1,param2"}


@pytest.mark.kafka
def test_request_that_is_none_is_said_with_its_place(kafka: Cluster, gateway: str) -> None:
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap]
    for text in ("{", "[]", '{"ep": "e", "ticket": "t", "payload": {"kind": "raed", "path": "/3"}}'):
        result = run("request", "--file", "-", *place, stdin=text)
        assert result.exit_code == Exit.USAGE, result.output
        assert "Traceback" not in result.output
    assert "raed" in result.output


@pytest.mark.kafka
def test_tail_gives_one_json_object_a_line_and_says_what_it_cannot_decode(kafka: Cluster, gateway: str) -> None:
    topic = Topics(gateway).observations
    produce(kafka, topic, encode(told(1.5)), b"no record", encode(told(2.5)))
    result = run("tail", topic, "--kafka", kafka.bootstrap, "--from-beginning", "-n", "3")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["rep"]["body"]["content"]["value"] for line in lines if "rep" in line] == [1.5, 2.5]
    assert lines[0]["_kafka"]["key"] == {"ep": "dev"}
    assert lines[0]["_kafka"]["headers"] == {"coap.mid": 258}
    assert "error" in lines[1]
    assert lines[1]["valueBase64"] == "bm8gcmVjb3Jk"


@pytest.mark.kafka
def test_tail_ends_with_0_on_ctrl_c_and_when_its_reader_goes(kafka: Cluster, gateway: str) -> None:
    topic = Topics(gateway).observations
    produce(kafka, topic, *(encode(told(float(number))) for number in range(200)))
    command = headwater("tail", topic, "--kafka", kafka.bootstrap, "--from-beginning")
    for number in (signal.SIGINT, None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                assert process.stdout.readline()
                if number is not None:
                    process.send_signal(number)
                else:
                    process.stdout.close()
                    produce(kafka, topic, encode(told(0.0)))
                assert process.wait(20) == 0
                assert "Traceback" not in process.stderr.read()
            finally:
                process.kill()


@pytest.mark.kafka
def test_devices_without_any_and_an_unknown_device(kafka: Cluster, gateway: str) -> None:
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap]
    assert json.loads(run("devices", *place, "-o", "json").stdout) == []
    unknown = run("device", "nobody", *place)
    assert unknown.exit_code == Exit.REFUSED
    assert "no device 'nobody'" in unknown.output


@pytest.mark.kafka
def test_missing_topic_names_what_makes_it(kafka: Cluster, gateway_id: str) -> None:
    dead = [["deadletter", "list"], ["deadletter", "show", "0"], ["deadletter", "retry", "--file", "x.db"]]
    for arguments in (
        ["devices"],
        ["commands"],
        ["read", "dev", "/3"],
        ["tail", "replies"],
        ["replay", "--file", "x.db"],
        *dead,
    ):
        result = run(*arguments, "--gateway", gateway_id, "--kafka", kafka.bootstrap)
        assert result.exit_code == Exit.UNREACHABLE
        assert gateway_id in result.output


@pytest.mark.kafka
def test_the_folder_of_a_gateways_state_is_no_state_of_commands(
    kafka: Cluster, gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_STATE", str(tmp_path))
    (tmp_path / "headwater.toml").write_text(f'state = "{tmp_path}"\n')
    place = ["--gateway", gateway, "--kafka", kafka.bootstrap, "--config", str(tmp_path / "headwater.toml")]
    shown = run("commands", "dev", *place, "--state", "queued", "-o", "json")
    assert (shown.exit_code, json.loads(shown.stdout)) == (Exit.OK, [])
