"""How a sink ends whose store does not answer: in time, with 0, and with nothing lost."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from connectors.kafka import Cluster, KafkaException
from connectors.runner import Runner, SinkSettings
from connectors.sinks import SinkKind, SinkRecord
from tests.sink_harness import PATIENCE_S, eventually, make_topics, produce
from tests.sink_samples import notification, resource
from tests.webhook_receiver import SECRET, receiver

ROOT = Path(__file__).parents[2]


def sink(folder: Path, kafka: Cluster, gateway: str, url: str) -> subprocess.Popen[str]:
    file = folder / "sinks.toml"
    file.write_text(f'[webhook]\nurl = "{url}"\nsecret = "{SECRET}"\ntimeout_s = 100\n', "utf-8")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "headwater.cli", "sink", "run", str(file)),
            *("--gateway", gateway, "--kafka", kafka.bootstrap),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.kafka
def test_a_store_that_hangs_at_the_end_is_left_behind_and_gets_its_batch_again(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics = make_topics(kafka, gateway_id)
    produce(kafka, topics.observations, [notification(resource("/3303/0/5700", 1.5))])
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung.settimeout(PATIENCE_S)
        process = sink(tmp_path, kafka, gateway_id, f"http://127.0.0.1:{hung.getsockname()[1]}/")
        try:
            connection, _ = hung.accept()
            with connection:
                # The batch is on its way, and never answered.
                connection.settimeout(PATIENCE_S)
                assert connection.recv(1)
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait(PATIENCE_S)
    assert process.returncode == 0
    # A topic that is only just there, or a slow Kafka, may be told too.
    (line,) = (line for line in said.splitlines() if "the store did not answer" in line)
    assert "will be written again" in line
    for part in ("write", topics.observations):
        assert part in line

    path, inbox = receiver().inbox()
    process = sink(tmp_path, kafka, gateway_id, f"http://127.0.0.1:{receiver().port}{path}")
    try:
        eventually(lambda: [value["value"] for event in inbox.events.values() for value in event["values"]], [1.5])
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


class HangsAtItsClose:
    """A store that is longer at its close than anybody waits for."""

    def __init__(self) -> None:
        self.came_back = False

    def write(self, records: Sequence[SinkRecord]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        threading.Event().wait(PATIENCE_S)
        self.came_back = True


def test_what_ended_a_sink_is_told_also_where_its_store_then_hangs() -> None:
    store = HangsAtItsClose()
    kind = SinkKind(name="sqlite", open=lambda _options: store, topics=(), sample_config="")
    # Kafka's client refuses the settings.
    settings = SinkSettings(
        sink="sqlite", gateway="gw", kafka=Cluster(bootstrap="127.0.0.1:1"), group="hangs", session_s=-1.0
    )
    with pytest.raises(KafkaException, match=r"session\.timeout\.ms"):
        Runner(settings, kind).run(threading.Event())
    assert not store.came_back
