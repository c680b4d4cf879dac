"""How a process ends that was told to stop, and something of it does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater.exits import Exit

ROOT = Path(__file__).parents[2]

START = """
import sys, threading
from headwater.running import run_thread_until_stopped

def run(stop):
    print("runs", flush=True)
    stop.wait()
"""
HANGS = "    threading.Event().wait()\n"
LEAVES_A_THREAD = "    threading.Thread(target=threading.Event().wait).start()\n"
FAILS = "    return 1\n"
END = "\nsys.exit(run_thread_until_stopped(run, grace={grace}))\n"


@contextmanager
def _process(program: str) -> Iterator[subprocess.Popen[str]]:
    """The program, once it has said that it runs; it does not outlive the test."""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
            yield process
        finally:
            process.kill()


#: The signal comes while the main thread is in the middle of the event's own wait.
HOLDS_THE_LOCK = """
import signal, sys, time
from headwater.running import run_thread_until_stopped

def run(stop):
    came = []
    obey = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *what: (obey(*what), came.append(what)))
    with stop._cond:
        print("runs", flush=True)
        while not came:
            time.sleep(0.01)
        time.sleep(0.2)
    stop.wait()
"""


def test_a_signal_stops_what_holds_the_lock_of_the_event_that_it_waits_for() -> None:
    with _process(HOLDS_THE_LOCK + END.format(grace=30)) as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (Exit.OK, "")


#: The kernel gives the signal to a thread that is not the main one, which waits.
WAKES_NOBODY = """
import signal, sys, threading
from headwater.running import run_thread_until_stopped

def run(stop):
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
    print("runs", flush=True)
    stop.wait()
"""


def test_a_signal_stops_a_main_thread_that_it_did_not_wake() -> None:
    with _process(WAKES_NOBODY + END.format(grace=30)) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (Exit.OK, "")


#: The grace is waited for only by what is stuck. What ends well within it needs one that a busy machine keeps.
@pytest.mark.parametrize(
    ("does", "grace", "code"),
    [
        ("", 60, Exit.OK),
        (HANGS, 0.5, Exit.BUG),
        # All that was to be done is done, but Python waits for the thread.
        (LEAVES_A_THREAD, 5, Exit.OK),
        # What was to be told by the exit code is not known to be well.
        (LEAVES_A_THREAD + FAILS, 0.5, Exit.BUG),
    ],
)
def test_only_what_is_stuck_ends_as_a_bug(does: str, grace: float, code: Exit) -> None:
    with _process(START + does + END.format(grace=grace)) as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("did not stop" in said) == (code == Exit.BUG)
