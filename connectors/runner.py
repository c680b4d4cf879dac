"""The runner of sinks: one or several in a process, each a loop in a thread, and all of them end within ten seconds.

Owns the threads, the HTTP face and the end. What a loop does with records is `connectors.sink_loop`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog
from prometheus_client import REGISTRY

from connectors.hanging import LeftBehind, within
from connectors.health import serve_health
from connectors.process_metrics import Component, with_process
from connectors.share import Partition
from connectors.sink_loop import END_S, SinkLoop
from connectors.sink_settings import ALL_GATEWAYS, SinkSettings, Source
from connectors.sinks.sink import SinkConfigError, SinkKind

__all__ = ["ALL_GATEWAYS", "Runner", "SinkSettings", "Source", "run_sink", "run_sinks"]

_log = structlog.get_logger("headwater.sink")

#: Of the ten seconds that a process has to stop: from when on a call into the store is left behind.
STORE_S = 7.0


def run_sink(settings: SinkSettings, stop: threading.Event) -> None:
    """Run one sink until ``stop`` is set (or, for dead letters, all are read); it then drains within ten seconds.

    Raises:
        SinkConfigError: the sink's options are wrong.
        KafkaException: the consumer is beyond repair.
        OSError: the metrics port is taken.
    """
    run_sinks([settings], stop)


def run_sinks(every: Sequence[SinkSettings], stop: threading.Event) -> None:
    """Run several sinks in one process, a thread each; where one fails all stop, and its error is raised.

    The HTTP face is that of the first which has a ``metrics_port``. Raises as `run_sink`.
    """
    runners = [Runner(settings) for settings in every]
    failures: list[Exception] = []

    def run(runner: Runner) -> None:
        try:
            runner.run(stop)
        except SinkConfigError as exc:
            where = runner.settings.where
            failures.append(SinkConfigError(f"{where}: {exc}") if where else exc)
            stop.set()
        except Exception as exc:  # noqa: BLE001  raised again in the caller's thread
            failures.append(exc)
            stop.set()

    def waiting() -> str | None:
        return next((why for runner in runners if (why := runner.waiting_for())), None)

    face = next((settings for settings in every if settings.metrics_port is not None), None)
    health = None
    if face is not None and face.metrics_port is not None:
        health = serve_health(
            face.metrics_port,
            host=face.metrics_host,
            keys=face.metrics_keys,
            registry=with_process(
                REGISTRY,
                Component.SINK,
                {settings.gateway for settings in every},
                waiting,
                tls=[settings.kafka.tls for settings in every],
            ),
            live=lambda: next((why for runner in runners if (why := runner.stuck())), None),
            ready=waiting,
        )
    threads = [threading.Thread(target=run, args=(runner,), name=runner.settings.group_id) for runner in runners]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        if health is not None:
            health.close()
    if failures:
        raise failures[0]


class Runner:
    """One sink. `run` is called once, all else from any thread."""

    def __init__(self, settings: SinkSettings, kind: SinkKind | None = None) -> None:
        """``kind`` stands in for the row of `SINKS`: a sink of one's own."""
        self.settings = settings
        self._loop = SinkLoop(settings, kind)

    @property
    def stored(self) -> int:
        """Records that the store took (again, where they came again)."""
        return self._loop.stored

    @property
    def buried(self) -> int:
        """Records that became dead letters."""
        return self._loop.buried

    @property
    def partitions(self) -> frozenset[Partition]:
        """Those that the group has given it, as of now."""
        return self._loop.partitions

    def stuck(self) -> str | None:
        """Why the process should be started anew, or None."""
        return self._loop.stuck()

    def waiting_for(self) -> str | None:
        """What keeps the sink from working now, or None."""
        return self._loop.waiting_for()

    def run(self, stop: threading.Event) -> None:
        """See `run_sink`. The loop has a thread of its own, which is left behind if a store hangs at the end."""
        failures: list[BaseException] = []

        def loop() -> None:
            try:
                self._loop.run(stop)
            except LeftBehind:
                return
            except BaseException as exc:  # noqa: BLE001  raised again in the caller's thread
                failures.append(exc)

        thread = threading.Thread(target=loop, name=f"{self.settings.group_id} loop", daemon=True)
        thread.start()
        while thread.is_alive() and not stop.is_set() and self._loop.failure is None:
            thread.join(0.2)
        self._loop.told_to_stop(time.monotonic())
        thread.join(STORE_S)
        while thread.is_alive() and not self._leave_behind():
            # Whatever it is that takes so long, it is not the store.
            thread.join(0.1)
        failure = failures[0] if failures else self._loop.failure
        if failure is not None:
            raise failure

    def _leave_behind(self) -> bool:
        """Go without the answer of the store that is being asked; False if none is."""
        asked = self._loop.calls.leave_behind()
        if asked is None:
            return False
        # From here on the loop does nothing more, whenever the store lets it go.
        batch = self._loop.under_way if asked == "write" else []
        first = {}
        if batch:
            first = dict(zip(("topic", "partition"), batch[0].place, strict=True), offset=batch[0].offset)
        _log.warning(
            "the store did not answer in time for the end"
            + ("; what it has not acknowledged will be written again" if batch else ""),
            sink=self._loop.sink,
            asked=asked,
            records=len(batch),
            **first,
        )
        if asked != "close":
            # Others, or this one started anew, then get the partitions at once. Before its close the loop has left by
            # itself, or still tries to: Kafka's client must not be closed by two threads.
            within(END_S - STORE_S, self._loop.leave_group)
        return True
