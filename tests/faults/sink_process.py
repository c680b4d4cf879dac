"""A sink as a process of its own, which may kill itself between the write and the commit.

Arguments: bootstrap, gateway id, sink, its options (JSON), records a batch, and how many writes it lives for (0: for
good).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from connectors.kafka import Cluster
from connectors.runner import Runner, SinkSettings
from connectors.sinks import SINKS, Sink, SinkRecord


class Mortal:
    """Writes for real, and dies with SIGKILL once the last of its writes is durable."""

    def __init__(self, inner: Sink, lives: int) -> None:
        self._inner = inner
        self._lives = lives

    def write(self, records: Sequence[SinkRecord]) -> None:
        self._inner.write(records)
        self._lives -= 1
        if self._lives == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        self._inner.close()


def main(bootstrap: str, gateway: str, sink: str, options: str, batch: str, lives: str) -> None:
    kind = SINKS[sink]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())

    def open_mortal(options: Mapping[str, object]) -> Sink:
        return Mortal(kind.open(options), int(lives))

    settings = SinkSettings(
        sink=sink,
        gateway=gateway,
        kafka=Cluster(bootstrap=bootstrap),
        options=json.loads(options),
        batch_records=int(batch),
        linger_s=0.05,
        # The shortest that Kafka takes: here, members die all the time.
        session_s=6.0,
    )
    Runner(settings, replace(kind, open=open_mortal)).run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
