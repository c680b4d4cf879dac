"""How a long-running command runs and ends: SIGTERM or Ctrl-C stops it in order, a second one at once.

Owns the process's signals. What is run takes a stop event and drains by itself; it has less than ten seconds for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from headwater.exits import Exit

#: What a process has to stop after it was told to, in seconds: of ten, so that it is gone before those who wait lose
#: patience.
GRACE = 9.5
#: What calls in threads have to return once everything else has stopped, in seconds.
_LAST_CALLS = 1.0

T = TypeVar("T")


class Ending:
    """How far a process has come that was told to stop."""

    def __init__(self) -> None:
        #: All that was run has returned, and nothing remains to be said.
        self.done = False


@contextmanager
def stopped_by_signals(stop: Callable[[], None], grace: float = GRACE) -> Iterator[Ending]:
    """Call ``stop`` on the first SIGTERM or SIGINT; end the process at once on a second one, or after ``grace``
    seconds: as a bug, unless it is ``done`` and Python waits only for threads that nobody else waits for.

    ``stop`` is called in a thread of its own. A signal may interrupt the main thread wherever it is, also where it
    holds the very lock that ``stop`` needs: an event's, for one, that it is about to wait for. And that thread is told
    by the signal itself (`signal.set_wakeup_fd`): one that comes a moment before the main thread begins to wait, or
    that the kernel gives to another thread, wakes nobody, and Python's handlers run in the main thread alone.
    """
    told = False
    ending = Ending()
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    numbers = (signal.SIGINT, signal.SIGTERM)

    def listen() -> None:
        heard_before = False
        while heard := os.read(ear, 1):
            if heard[0] not in numbers:
                continue
            if heard_before:
                # Also where the main thread is in a call into C, and so runs no handler.
                os._exit(Exit.INTERRUPTED)
            heard_before = True
            threading.Thread(target=obey, name="stopping", daemon=True).start()
        os.close(ear)

    def obey() -> None:
        with contextlib.suppress(RuntimeError):  # its event loop is closed already
            stop()
        time.sleep(grace)
        _give_up(grace, ending)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(Exit.INTERRUPTED)
        told = True
        # An event loop with handlers of its own may have taken the place of our file descriptor.
        if (listening := signal.set_wakeup_fd(-1)) != mouth:
            os.write(mouth, bytes([number]))
        signal.set_wakeup_fd(listening, warn_on_full_buffer=False)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    before = {number: signal.signal(number, on_signal) for number in numbers}
    told_before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    try:
        yield ending
    finally:
        signal.set_wakeup_fd(told_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(mouth)


def _give_up(grace: float, ending: Ending) -> None:
    if ending.done and not threading.main_thread().is_alive():
        os._exit(Exit.OK)
    sys.stderr.write(f"error: it did not stop within {grace:g} s and was ended\n")
    sys.stderr.flush()
    os._exit(Exit.BUG)


class _Threads(ThreadPoolExecutor):
    """The threads of an event loop, which knows what is under way in them."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="headwater")
        self.under_way: set[Future[Any]] = set()

    def submit(self, call: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        future = super().submit(call, *args, **named)
        self.under_way.add(future)
        future.add_done_callback(self.under_way.discard)
        return future

    def ended(self, timeout: float) -> bool:
        """True if nothing is under way any more ``timeout`` seconds from now, or before."""
        return not wait(set(self.under_way), timeout).not_done


def run_until_stopped(make: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run ``make(stop)`` in an event loop; a signal sets ``stop``, and the coroutine is then to return by itself.

    Once it has, a call that still waits in a thread (for a Kafka that is dead) does not hold up the end.
    """

    async def main() -> T:
        loop = asyncio.get_running_loop()
        threads = _Threads()
        loop.set_default_executor(threads)
        stop = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(stop.set)

        with stopped_by_signals(tell):
            result = await make(stop)
            if stop.is_set() and not threads.ended(_LAST_CALLS):
                # All is closed, and nobody waits for the answer; but Python would wait for the thread.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(Exit.OK)
            return result

    return asyncio.run(main())


def run_thread_until_stopped(run: Callable[[threading.Event], T], grace: float = GRACE) -> T:
    """As `run_until_stopped`, for what runs without an event loop."""
    stop = threading.Event()
    with stopped_by_signals(stop.set, grace) as ending:
        result = run(stop)
        # A result is still to be told, and may be a failure.
        ending.done = result is None
        return result
