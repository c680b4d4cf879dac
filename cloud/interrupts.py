"""Waiting that can be interrupted: Ctrl-C is answered at once, also while Kafka's client waits in C for a dead broker.

Python runs a signal's handler only between two of its own steps, so a call into C holds Ctrl-C back until it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def interruptible(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises. On KeyboardInterrupt it is left to end by itself, in a thread that keeps no
    process alive; so ``call`` must own what it works with until it has returned.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as exc:  # noqa: BLE001  # raised again where it is waited for
            outcome.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()
