"""Ctrl-C while Kafka's client waits for a broker that does not answer."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from cloud.interrupts import interruptible
from connectors.kafka import Cluster, partition_counts


@pytest.mark.timeout(60)
def test_waiting_for_a_silent_kafka_is_interrupted_at_once() -> None:
    """The call itself would take ten minutes, and Ctrl-C would wait with it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def interrupt_once_it_waits() -> None:
            held, _ = silent.accept()
            with held:
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt_once_it_waits, daemon=True).start()
        cluster = Cluster(bootstrap=f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(KeyboardInterrupt):
            interruptible(lambda: partition_counts(cluster, ["any"], timeout=600))


@pytest.mark.timeout(60)
def test_signal_that_another_thread_is_given_ends_the_wait_as_well() -> None:
    """Which wakes nobody: just as one that comes a moment before the wait begins."""
    end = threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Timer(0.5, interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            interruptible(end.wait)
    finally:
        end.set()


def test_result_and_error_of_the_call_come_through() -> None:
    assert interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)
