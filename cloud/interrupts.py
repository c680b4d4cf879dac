"""Waiting that can be interrupted: Ctrl-C is answered at once, also while Kafka's client waits in C for a dead broker.

Python runs a signal's handler only between two of its own steps, so a call into C holds Ctrl-C back until it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Outcome(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._done = threading.Event()
        self._result: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as exc:  # noqa: BLE001  # raised again where it is waited for
            self._error = exc
        self._done.set()

    def wait(self) -> T:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


def interruptible(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises. On KeyboardInterrupt it is left to end by itself, in a thread that keeps no
    process alive; so ``call`` must own what it works with until it has returned.
    """
    outcome = _Outcome(call)
    threading.Thread(target=outcome.run, daemon=True).start()
    return outcome.wait()
