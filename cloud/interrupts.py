"""Waiting that can be interrupted: Ctrl-C is answered at once, also while Kafka's client waits in C for a dead broker.

Python runs a signal's handler only between two of its own steps, so a call into C holds Ctrl-C back until it returns.
So does a wait without an end, if the signal comes just before it begins or another thread is given it: hence the steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

#: The longest that Ctrl-C can be held back, in seconds.
_STEP_S = 0.2


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
    while wait([outcome], timeout=_STEP_S).not_done:
        pass
    return outcome.result()
