"""Whether a stack has come to what it shall be, and why not: from services and tasks as Docker tells them. Pure.

Owns the judgement. A service is well when as many tasks of its newest specification run as are wanted; one that runs
once, when a task of it has completed. One that was rolled back has failed, whatever runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How a service is. ``WAITING`` may become anything; the others are an answer."""

    WELL = "running"
    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task: the state it is in and the one it shall be in, in Docker's words; ``error`` is Docker's, and the
    exit code that of its container, if it ended. ``at`` orders tasks by their age."""

    state: str
    desired: str
    id: str = ""
    error: str = ""
    exit_code: int | None = None
    node: str = ""
    current: bool = True
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A service: how many of its tasks run, how many shall, the last thing that went wrong and the id of the task that
    it went wrong with, if there is one."""

    stack: str
    service: str
    state: State
    running: int
    wanted: int
    error: str = ""
    image: str = ""
    task: str = ""


#: What Docker says of an update that has ended badly.
_BACK = ("rollback_started", "rollback_completed", "rollback_paused", "paused")
#: Of a task that ended.
_ENDED = ("failed", "rejected", "shutdown", "complete", "orphaned", "remove")


def judge(
    stack: str, service: str, *, image: str, wanted: int, once: bool, update: str, tasks: Sequence[Task]
) -> Status:
    """How a service is. ``update`` is the state of its last update in Docker's words, empty if there was none."""
    live = [task for task in tasks if task.state == "running" and task.desired == "running" and task.current]
    wrong = None if len(live) >= wanted and not once else _gone_wrong(tasks)

    def told(state: State, words: str = "") -> Status:
        said = "; ".join(part for part in (words, wrong and _words(wrong)) if part)
        return Status(
            stack=stack,
            service=service,
            state=state,
            running=len(live),
            wanted=wanted,
            error=said,
            image=image,
            task=wrong.id if wrong else "",
        )

    if once:
        newest = max((task for task in tasks if task.current), key=lambda task: task.at, default=None)
        if wanted == 0 or (newest is not None and newest.state == "complete"):
            wrong = None
            return told(State.DONE)
        return told(State.WAITING, "" if tasks else "it was not started yet")
    if update in _BACK:
        # Of the specification that it was taken back from.
        wrong = _gone_wrong([task for task in tasks if not task.current]) or _gone_wrong(tasks)
        return told(State.FAILED, f"the update was taken back ({update.replace('_', ' ')})")
    if update in ("updating", "rollback_updating"):
        return told(State.WAITING, "the update goes on")
    if len(live) >= wanted:
        return told(State.WELL)
    return told(State.WAITING, "" if tasks else "no node was found for it yet")


def _gone_wrong(tasks: Sequence[Task]) -> Task | None:
    """The youngest task that ended badly, or that waits for something."""
    # What has failed says more than what is about to fail in the same way.
    youngest_first = sorted(tasks, key=lambda one: (one.state != "starting", one.at), reverse=True)
    return next((task for task in youngest_first if _words(task)), None)


def _words(task: Task) -> str:
    where = f" on {task.node}" if task.node else ""
    if task.error and task.state != "running":
        code = f" (exit code {task.exit_code})" if task.exit_code else ""
        return f"{task.state}{where}: {task.error}{code}"
    if task.state in _ENDED and task.exit_code:
        return f"{task.state}{where}: it ended with exit code {task.exit_code}"
    if task.state == "starting" and task.desired == "running":
        return f"starting{where}: its health check has not passed yet"
    return ""
