"""Do what a plan says, one step after the other, and wait until it has come to something.

Owns the order, and what happens when a step fails: its place is left alone from there on, and the others go on. Every
step is whole by itself and looks for nothing that a step before has left in memory; so after Ctrl-C, a lost connection
or a failure the same command goes on from where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from headwater.deploy.convergence import State, Status
from headwater.deploy.desired import Desired, Files, desired
from headwater.deploy.fleet import Fleet
from headwater.deploy.material import Material, make_certificate, make_password
from headwater.deploy.plan import ALL, Action, Kind, Plan, Problem, Verb, plan
from headwater.deploy.swarm import Swarm, SwarmError
from security.errors import SecurityError

#: Told as things happen, one line each.
Tell = Callable[[str], None]

#: Seconds between two looks, and how long what was stopped may hold its networks.
_LOOK_S, _LET_GO_S = 1.0, 90.0


@dataclass(slots=True)
class Report:
    """What came of it."""

    done: list[Action] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    services: list[Status] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not any(one.fatal for one in self.problems) and all(
            one.state in (State.WELL, State.DONE) for one in self.services
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One application of a fleet: ``look`` gives what is on this machine as it is now."""

    fleet: Fleet
    files: Files
    swarm: Swarm
    look: Callable[[], Material]
    tell: Tell
    timeout: float


def make_material(work: Work, first: Plan) -> None:
    """Make the certificates and passwords of a plan.

    Raises:
        SecurityError, OSError: it cannot be.
    """
    held = {one.identity.principal: one.identity for one in work.look().identities.values()}
    for action in first.actions:
        match action.kind:
            case Kind.CERTIFICATE:
                make_certificate(held[action.name], work.fleet.pki)
            case Kind.PASSWORD:
                make_password(work.fleet.secrets / action.name)
            case _:
                continue
        work.tell(f"{action.kind.value} {action.name} made")


def apply(work: Work, select: Callable[[Plan], Plan], volumes: bool = False) -> Report:
    """Make what is missing here, plan anew with it, and do it. ``select`` leaves out what is not meant.

    Raises:
        SwarmError, SecurityError: nothing could be done at all.
    """
    material = work.look()
    wanted = desired(work.fleet, material, work.files)
    first = select(plan(wanted, work.swarm.observe(), material))
    if any(action.kind in (Kind.CERTIFICATE, Kind.PASSWORD) for action in first.actions):
        make_material(work, first)
        material = work.look()
        wanted = desired(work.fleet, material, work.files)
        first = select(plan(wanted, work.swarm.observe(), material))
    report = Report(problems=list(first.problems))
    later = [action for action in first.actions if _is_last(action)]
    carry_out(work.swarm, [one for one in first.actions if one not in later], wanted, report, work, volumes=volumes)
    failed = {one.place for one in report.problems if one.fatal}
    report.services = wait(work, {stack.name for stack in wanted.stacks if stack.place not in failed})
    if report.is_well:
        # Until then a service may have to go back to what it had.
        carry_out(work.swarm, later, wanted, report, work)
    else:
        report.left += [f"{one.kind.value} {one.name}" for one in later]
    return report


def carry_out(
    swarm: Swarm, actions: Collection[Action], wanted: Desired, report: Report, work: Work, *, volumes: bool = False
) -> None:
    """Do these actions; what fails is a problem of its place, where nothing more is done."""
    failed: set[str] = set()
    broken: set[Action] = set()

    @contextmanager
    def noted(action: Action) -> Iterator[None]:
        try:
            yield
        except (SwarmError, SecurityError, OSError) as exc:
            failed.add(action.place)
            broken.add(action)
            report.problems.append(Problem(place=action.place, text=f"{action.kind.value} {action.name}: {exc}"))
            work.tell(f"{action.kind.value} {action.name}: failed")

    # All are told to end before any is waited for: each takes as long as its slowest service.
    for action in actions:
        if action.kind is Kind.STACK and action.verb is Verb.DELETE:
            with noted(action):
                swarm.remove_stack(action.name)
    for action in actions:
        if action in broken or (action.place in failed and action.place != ALL):
            continue
        with noted(action):
            if _do(swarm, action, wanted, work, volumes=volumes):
                report.done.append(action)
                work.tell(f"{action.verb.value} {action.kind.value} {action.name}")
            else:
                report.left.append(f"{action.kind.value} {action.name}")


def _is_last(action: Action) -> bool:
    return action.verb is Verb.DELETE and action.kind in (Kind.SECRET, Kind.CONFIG)


def _do(swarm: Swarm, action: Action, wanted: Desired, work: Work, *, volumes: bool) -> bool:
    """False if it has to wait until something is not used any more."""
    is_made = action.verb is not Verb.DELETE
    match action.kind:
        case Kind.LABEL:
            node, _, key = action.name.partition(" ")
            value = {**wanted.labels.get(node, {}), "io.headwater.fleet": wanted.fleet}.get(key)
            swarm.set_label(node, key, value if is_made else None)
        case Kind.NETWORK if is_made:
            swarm.make_network(action.name, wanted.fleet, encrypted=wanted.encrypted)
        case Kind.NETWORK:
            return _patiently(lambda: swarm.remove_network(action.name))
        case Kind.SECRET if is_made:
            swarm.make_secret(action.name, wanted.fleet, wanted.secrets[action.name].file.read_bytes())
        case Kind.SECRET:
            return swarm.remove_secret(action.name)
        case Kind.CONFIG:
            return swarm.remove_config(action.name)
        case Kind.STACK if is_made:
            stack = next(one for one in wanted.stacks if one.name == action.name)
            # Removed a moment ago, it may still be ending, and two servers on one volume lose what one of them writes.
            if not _patiently(lambda: swarm.leaving(stack.name) == 0):
                raise SwarmError("containers of before still run though their services were removed: apply again later")
            files = [work.files.folder / one for one in stack.files]
            swarm.deploy(stack.name, files, stack.variables, work.fleet.resolve_images)
        case Kind.STACK:
            is_gone = _patiently(lambda: swarm.running_of(action.name) == 0)
            for name in swarm.volumes(action.name) if volumes and is_gone else ():
                if not _patiently(lambda name=name: swarm.remove_volume(name)):  # type: ignore[misc]  # bound now
                    raise SwarmError(f"its volume {name} is still in use: docker volume rm {name}")
                work.tell(f"- volume {name}")
        case _:
            pass
    return True


def _patiently(is_done: Callable[[], bool]) -> bool:
    """What was stopped takes a moment to let go."""
    until = time.monotonic() + _LET_GO_S
    while not is_done():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True


def wait(work: Work, stacks: Collection[str]) -> list[Status]:
    """Look until every service of ``stacks`` is well or has failed, or the time is up; what was seen last."""
    until = time.monotonic() + work.timeout
    told: set[tuple[str, str]] = set()
    while True:
        seen = [one for one in work.swarm.status(work.fleet.fleet) if one.stack in stacks]
        # Each thing once: what starts anew every few seconds fails in the same way each time.
        for line in [(f"{one.stack}_{one.service}", _line(one)) for one in seen]:
            if line not in told:
                told.add(line)
                work.tell(f"  {line[0]}: {line[1]}")
        if all(one.state is not State.WAITING for one in seen):
            return [_with_log(work.swarm, one) for one in seen]
        if time.monotonic() > until:
            return [_with_log(work.swarm, one) for one in seen]
        time.sleep(_LOOK_S)


def _with_log(swarm: Swarm, status: Status) -> Status:
    """One that did not come up, with the last that it said itself."""
    if status.state in (State.WELL, State.DONE):
        return status
    said = swarm.last_words(f"{status.stack}_{status.service}", status.task)
    return replace(status, error="; ".join(filter(None, (status.error, f"it said: {said}" if said else ""))))


def _line(status: Status) -> str:
    count = "" if status.state is State.DONE else f" {status.running}/{status.wanted}"
    return f"{status.state.value}{count}" + (f", {status.error}" if status.error else "")


def stack_files(folder: Path, names: Collection[str], profiles: Mapping[str, str], more: Collection[Path]) -> Files:
    """Read the stack files of a folder, the settings of these profiles, and what the configs are made of: files of the
    folder, and ``more``. With each profile comes the field that names it.

    Raises:
        StackFileError: one is not there, or not right.
    """
    from headwater.deploy.stackfile import StackFileError, read

    if not folder.is_dir():
        raise StackFileError(f"there is no folder of stack files {folder}: say where it is with --stacks")
    return Files(
        folder=folder,
        stacks={name: read(folder / f"{name}.yml") for name in names},
        profiles={name: _profile(folder / "settings" / f"{name}.env", place) for name, place in profiles.items()},
        contents={path: path.read_bytes() for path in (*sorted(folder.rglob("*")), *more) if _may_be_config(path)},
    )


def _profile(path: Path, named_by: str) -> dict[str, str]:
    from headwater.deploy.stackfile import StackFileError, settings

    try:
        return settings(path)
    except StackFileError as exc:
        raise StackFileError(f"{named_by}: {exc}") from exc


def _may_be_config(path: Path) -> bool:
    return path.suffix in (".yml", ".yaml", ".json", ".toml") and path.is_file()
