"""The embedded Apache Kafka: it runs, its data lives on, and what stands in its way is told."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from connectors import kafka
from headwater.servers import broker, kafka_jars, processes
from headwater.servers.broker import AlreadyRunning, BrokerError, Failed, LinkListener, PortTaken
from tests.kafka_brokers import BrokerFactory, end_with_this_process
from tests.ports import held_port

pytestmark = pytest.mark.kafka


def _write(cluster: kafka.Cluster, topic: str, value: bytes) -> None:
    producer = kafka.producer(cluster)
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def test_broker_answers_and_its_data_survives_stop_and_kill(broker_factory: BrokerFactory) -> None:
    edge = broker_factory("edge")
    kafka.ensure_topics(edge.cluster, {"kept": 3})
    _write(edge.cluster, "kept", b"before the stop")
    edge.stop()
    assert broker.status("edge", edge.directory) is None
    edge.restart()
    _write(edge.cluster, "kept", b"before the kill")
    edge.kill()
    assert broker.status("edge", edge.directory) is None
    edge.restart()
    assert kafka.partition_counts(edge.cluster, ["kept"]) == {"kept": 3}
    values = sorted(m.value() or b"" for m in kafka.read_to_end(edge.cluster, ["kept"], timeout=30))
    assert values == [b"before the kill", b"before the stop"]


def test_what_stands_in_the_way_of_a_start_is_told(broker_factory: BrokerFactory, tmp_path: Path) -> None:
    edge = broker_factory("edge")
    with pytest.raises(AlreadyRunning, match=f"already runs in .* port {edge.port}"):
        broker.start("edge", held_port(), edge.directory)
    assert edge.running is not None
    with pytest.raises(PortTaken, match=rf"port {edge.port} .* by process {edge.running.pid} \(java\)"):
        broker.start("second", edge.port, tmp_path)
    assert broker.status("edge", edge.directory) == edge.running


def test_clients_behind_a_link_are_told_the_links_port(broker_factory: BrokerFactory) -> None:
    link = LinkListener(port=held_port(), advertised_port=held_port())
    cloud = broker_factory("cloud", link=link)
    assert _told_ports(f"127.0.0.1:{link.port}") == [link.advertised_port]
    assert _told_ports(cloud.cluster.bootstrap) == [cloud.port]


def _told_ports(bootstrap: str) -> list[int]:
    """The ports that a client is told; a broker that has just come up may still leave itself out."""
    client = kafka.admin(kafka.Cluster(bootstrap=bootstrap))
    deadline = time.monotonic() + 20
    while not (told := client.list_topics(timeout=10).brokers) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [node.port for node in told.values()]


def test_a_recycled_process_id_is_not_taken_for_the_broker(tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    folder.mkdir()
    # This test's own process has the id, but it began at another time than the note says.
    note = {"pid": os.getpid(), "started": "1", "host": "127.0.0.1", "port": 9082}
    (folder / "broker.pid").write_text(json.dumps(note))
    assert broker.status("edge", tmp_path) is None
    assert broker.stop("edge", tmp_path) is False
    assert not (folder / "broker.pid").exists()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": null}', '{"pid": "x", "started": 1}'])
def test_a_mangled_pid_file_is_a_broker_that_does_not_run(tmp_path: Path, note: str) -> None:
    folder = tmp_path / "edge"
    folder.mkdir()
    (folder / "broker.pid").write_text(note)
    assert broker.status("edge", tmp_path) is None
    assert broker.stop("edge", tmp_path) is False


def test_a_broker_that_cannot_start_shows_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    folder = tmp_path / "edge" / "data"
    folder.mkdir(parents=True)
    (folder / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=77\n")
    with pytest.raises(Failed, match="node") as failure:
        broker.start("edge", held_port(), tmp_path)
    assert "broker.log" in str(failure.value)
    assert broker.status("edge", tmp_path) is None


@pytest.mark.parametrize(
    ("name", "port", "heap", "said"),
    [
        ("../edge", 9082, "256m", "not a broker name"),
        ("", 9082, "256m", "not a broker name"),
        ("edge", 0, "256m", "between 1 and 65535"),
        ("edge", 65536, "256m", "between 1 and 65535"),
        ("edge", 9082, "lots", "not a size"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path: Path, name: str, port: int, heap: str, said: str) -> None:
    with pytest.raises(BrokerError, match=said):
        broker.start(name, port, tmp_path, heap=heap)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BrokerError, match="cannot use"):
        broker.start("edge", held_port(), tmp_path / "file")


def test_several_processes_may_ask_for_the_jars_at_once_and_a_broken_download_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tuple(sorted(kafka_jars.pinned_jars(), key=lambda jar: jar.size)[:3])
    monkeypatch.setattr(kafka_jars, "pinned_jars", lambda: small)
    leftover = tmp_path / f"kafka-{kafka_jars.KAFKA_VERSION}.part-killed"
    leftover.mkdir()
    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor(3) as pool:
        folders = set(
            pool.map(lambda _: kafka_jars.ensure_jars(tmp_path, lambda done, total: seen.append((done, total))), "abc")
        )
    assert folders == {tmp_path / f"kafka-{kafka_jars.KAFKA_VERSION}"}
    assert {file.name for file in folders.pop().iterdir()} == {jar.filename for jar in small}
    total = sum(jar.size for jar in small)
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert len(seen) == len(small) + 1  # fetched once, though three asked
    assert not leftover.exists()

    wrong = (kafka_jars.Jar(group="org.slf4j", artifact="slf4j-simple", version="1.7.36", size=15333, sha256="0" * 64),)
    monkeypatch.setattr(kafka_jars, "pinned_jars", lambda: wrong)
    with pytest.raises(kafka_jars.DownloadFailed, match="not the pinned"):
        kafka_jars.ensure_jars(tmp_path / "other")
    assert [file.name for file in (tmp_path / "other").iterdir()] == [f"kafka-{kafka_jars.KAFKA_VERSION}.lock"]


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (["demo", "--dir"], signal.SIGINT, 0),
        (["demo", "--dir"], signal.SIGTERM, 0),
        (["kafka", "start", "--dir"], signal.SIGINT, 130),
    ],
)
def test_download_on_a_silent_network_can_be_stopped(
    tmp_path: Path, command: list[str], number: signal.Signals, code: int
) -> None:
    """A proxy that takes connections and never says a word; each would else be waited for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
        with subprocess.Popen(
            [sys.executable, "-m", "headwater.cli", *command, str(tmp_path / "its")],
            env=environment | {"HEADWATER_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                silent.settimeout(60)
                held, _ = silent.accept()
                with held:
                    process.send_signal(number)
                    assert process.wait(30) == code
                assert process.stderr is not None
                assert "did not stop" not in process.stderr.read()
            finally:
                process.kill()
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [f"kafka-{kafka_jars.KAFKA_VERSION}.lock"]


def test_waiting_for_another_process_that_downloads_can_be_stopped(tmp_path: Path) -> None:
    with (tmp_path / f"kafka-{kafka_jars.KAFKA_VERSION}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(kafka_jars.DownloadStopped, match="another process"):
            kafka_jars.ensure_jars(tmp_path, stopped=lambda: True)


def test_brokers_of_a_killed_test_run_end_by_themselves(tmp_path: Path) -> None:
    """The fixtures' own brokers: a broker of `headwater kafka start` lives on, as the next test holds."""
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        "import time\n"
        "def test_that_is_killed(kafka, broker_factory):\n"
        "    own = broker_factory('own')\n"
        "    print(kafka.bootstrap, own.cluster.bootstrap, flush=True)\n"
        "    time.sleep(600)\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-s", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    options = ["-p", "tests.conftest", "--basetemp", str(tmp_path / "base"), "-p", "no:cacheprovider", str(inner)]
    with subprocess.Popen([*command, *options], cwd=root, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            places = next((line for line in run.stdout if line.startswith("127.0.0.1:")), "").split()
            ports = [int(place.rpartition(":")[2]) for place in places]
            brokers = [processes.listener(port) for port in ports]
            assert len(brokers) == 2
            assert all(brokers)
        finally:
            run.kill()
    gone = time.monotonic() + 30
    while any(processes.listener(port) for port in ports) and time.monotonic() < gone:
        time.sleep(0.05)
    assert [processes.listener(port) for port in ports] == [None, None]


def test_broker_that_a_person_starts_lives_on_after_the_command(tmp_path: Path) -> None:
    end_with_this_process("mine", tmp_path)  # only should this very process be killed before it has stopped it
    port = held_port()
    command = ["kafka", "start", "--name", "mine", "--port", str(port), "--dir", str(tmp_path), "--heap", "128m"]
    subprocess.run([sys.executable, "-m", "headwater.cli", *command], timeout=120, check=True, capture_output=True)
    running = broker.status("mine", tmp_path)
    try:
        assert running is not None
        assert kafka.partition_counts(running.cluster, []) == {}
    finally:
        assert broker.stop("mine", tmp_path, timeout=10)


def test_a_free_port_is_free_and_a_listener_is_named() -> None:
    port = processes.free_port()
    assert processes.listener(port) is None
    with socket.create_server(("127.0.0.1", port)):
        whose = processes.listener(port)
    assert whose is not None
    assert whose[0] == os.getpid()
