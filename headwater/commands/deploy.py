"""``headwater deploy``: a fleet on Docker Swarm out of one file: what would change, change it, how it is, remove it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import ask, command, complain
from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption

if TYPE_CHECKING:
    from headwater.deploy.apply import Report, Work
    from headwater.deploy.convergence import Status
    from headwater.deploy.fleet import Fleet
    from headwater.deploy.material import Material
    from headwater.deploy.plan import Action, Plan

PANEL = "Fleet"

FleetArgument = Annotated[
    Path, typer.Argument(metavar="FLEET.yaml", help="The file that describes the fleet; docs/deploy.md has one.")
]
StacksOption = Annotated[
    Path | None,
    typer.Option("--stacks", metavar="DIR", help="The stack files; else the file's `stacks`, else ./stacks."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
WaitOption = Annotated[
    float, typer.Option("--timeout", metavar="S", min=1, max=86400, help="How long services may take to come up.")
]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(help="A fleet on Docker Swarm, out of one file.", no_args_is_help=True)
    for name, function in (("plan", plan), ("apply", apply), ("status", status), ("remove", remove)):
        command(group, name, group="deploy")(function)
    app.add_typer(group, name="deploy", rich_help_panel=PANEL)


def plan(file: FleetArgument, stacks: StacksOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show what `apply` would do, and change nothing. Exit code 0: nothing; 10: something; 1: something cannot be done.

    \b
    Examples:
    headwater deploy plan fleet.yaml
    headwater deploy plan fleet.yaml --output json | jq -r '.actions[].name'
    """
    work = _work(file, stacks, 0)
    found = _plan(work)
    _show_plan(found, output)
    if any(one.fatal for one in found.problems):
        raise typer.Exit(Exit.REFUSED)
    if found.actions:
        raise typer.Exit(Exit.CHANGES)


def apply(
    file: FleetArgument,
    yes: YesOption = False,
    timeout: WaitOption = 600,
    stacks: StacksOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the Swarm what the file says, and wait until all services run. Asks first, unless --yes.

    It can be stopped and started again at any moment, and what is right already is left alone. What goes wrong at one
    gateway does not stop the others; exit code 1 says that something did.

    \b
    Examples:
    headwater deploy apply fleet.yaml
    headwater deploy apply fleet.yaml --yes --timeout 900
    """
    from headwater.deploy.apply import apply as do

    work = _work(file, stacks, timeout)
    found = _plan(work)
    if output is Output.TABLE:
        _show_plan(found, output)
    if found.actions:
        ask(yes, f"{len(found.actions)} changes to the Swarm")
    _finish(do(work, lambda one: one), output, found)


def status(file: FleetArgument, stacks: StacksOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show every service of the fleet: how many run, how many shall, the last error. Exit code 1 if not all is well.

    \b
    Examples:
    headwater deploy status fleet.yaml
    headwater deploy status fleet.yaml --output json | jq -r '.services[] | select(.state != "running")'
    """
    from headwater.deploy.convergence import State

    work = _work(file, stacks, 0)
    seen = work.swarm.status(work.fleet.fleet)
    names = {one.name for one in _desired(work).stacks}
    missing = sorted(names - {one.stack for one in seen})
    _show_services(seen, missing, output)
    if missing or any(one.state not in (State.WELL, State.DONE) for one in seen):
        raise typer.Exit(Exit.REFUSED)


def remove(
    file: FleetArgument,
    gateway: Annotated[
        str | None, typer.Option("--gateway", metavar="GW", help="Only this gateway, and its rights in the cloud.")
    ] = None,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Its data too, as far as it lies on the node where this runs.")
    ] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="With --gateway: revoke its certificates, for ever.")
    ] = False,
    yes: YesOption = False,
    timeout: WaitOption = 600,
    stacks: StacksOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take the fleet, or one gateway, from the Swarm. Certificates, passwords and volumes stay, unless you say so.

    A gateway that still stands in the file comes back with the next `apply`; taking it out of the file and `apply` does
    the same as this. Its rights in the cloud go with it, so its certificates open nothing there; with --revoke they are
    denied for ever, and if the gateway comes back it gets new ones under another principal.

    \b
    Examples:
    headwater deploy remove fleet.yaml --gateway rock64
    headwater deploy remove fleet.yaml --volumes --yes
    """
    from headwater.deploy.apply import Report, carry_out
    from headwater.deploy.apply import apply as do
    from headwater.deploy.plan import removal, without

    if revoke and gateway is None:
        raise Stop(Exit.USAGE, "--revoke is for one gateway: say which with --gateway")
    work = _work(file, stacks, timeout)
    if gateway is None:
        found = removal(work.fleet.fleet, work.swarm.observe())
        if output is Output.TABLE:
            _show_plan(found, output)
        if found.actions:
            ask(yes, "This takes the whole fleet from the Swarm" + (", with its data" if volumes else ""))
        report = Report()
        carry_out(work.swarm, found.actions, _desired(work), report, work, volumes=volumes)
        _finish(report, output, found)
        return
    if gateway not in work.fleet.gateways:
        there = ", ".join(work.fleet.gateways) or "none"
        raise Stop(Exit.USAGE, f"there is no gateway {gateway!r} in {file}; there are: {there}")
    work = _lacking(work, gateway)

    def only(whole: Plan) -> Plan:
        return without(whole, gateway)

    found = only(_plan(work))
    if output is Output.TABLE:
        _show_plan(found, output)
    if found.actions or revoke:
        ask(yes, f"This takes gateway {gateway} from the Swarm" + (", with its data" if volumes else ""))
    if revoke:
        for principal in _revoke(work, gateway):
            work.tell(f"certificate {principal} revoked")
    _finish(do(work, only, volumes=volumes), output, found)


# ---- what they have in common


def _work(file: Path, stacks: Path | None, timeout: float) -> Work:
    """Everything that is read before anything is done.

    Raises:
        Stop: the file, the stack files or what is secret here is not right, or there is no Swarm.
    """
    from headwater.deploy.apply import Work, stack_files
    from headwater.deploy.device_files import check
    from headwater.deploy.fleet import FleetError, load
    from headwater.deploy.stackfile import StackFileError
    from headwater.deploy.swarm import Swarm, SwarmError

    try:
        fleet = _based(load(file), file.absolute().parent, stacks)
        profiles = {one.profile: f"gateways.{name}.profile" for name, one in reversed([*fleet.gateways.items()])}
        profiles |= {fleet.cloud.profile: "cloud.profile"}
        more = [job.options for one in fleet.gateways.values() for job in one.analytics.values() if job and job.options]
        for gateway in fleet.gateways.values():
            if gateway.bootstrap is not None:
                _check_bootstrap(gateway.bootstrap.config)
                more.append(gateway.bootstrap.config)
        for name, gateway in fleet.gateways.items():
            check(name, gateway)
        files = stack_files(fleet.stacks or Path("stacks"), STACKS, profiles, more)
    except ModuleNotFoundError as exc:
        raise Stop(Exit.CANNOT_START, "YAML cannot be read here: pip install 'headwater[deploy]'") from exc
    except (FleetError, StackFileError) as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc
    try:
        swarm = Swarm()
    except SwarmError as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    return Work(
        fleet=fleet,
        files=files,
        swarm=swarm,
        look=_look_of(fleet),
        tell=_tell,
        timeout=timeout,
    )


def _check_bootstrap(config: Path) -> None:
    """
    Raises:
        Stop: a bootstrap server would not start with it.
    """
    from gateway.bootstrap.config import load
    from gateway.bootstrap.yaml_tree import ConfigError

    try:
        load(config)
    except ConfigError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc


def _look_of(fleet: Fleet) -> Callable[[], Material]:
    """What looks at what a fleet has on this machine."""
    from headwater.deploy.desired import identities
    from headwater.deploy.device_files import device_files
    from headwater.deploy.material import look

    wanted = identities(fleet)
    files = [file for gateway in fleet.gateways.values() for file in device_files(gateway).values()]
    return lambda: look(wanted, fleet.pki, fleet.secrets, files)


#: Those that are added to a gateway's.
_ADDED = (
    "gateway/certificate",
    "gateway/authorities",
    "gateway/credentials",
    "gateway/bootstrap-certificate",
    "gateway/bootstrap-authorities",
)
#: The stack files that a fleet may use.
STACKS = (
    *_ADDED,
    "analytics",
    "campaigns",
    "cloud",
    "connectors",
    "gateway",
    "monitoring",
    "monitoring/alert-webhook",
    "replicator",
)


def _based(fleet: Fleet, folder: Path, stacks: Path | None) -> Fleet:
    """The fleet with all paths absolute: those of the file are relative to it."""
    from headwater.deploy.fleet import Job

    chosen = stacks or (folder / fleet.stacks if fleet.stacks else None)
    if chosen is None:
        chosen = next((one for one in (Path("stacks"), folder / "stacks") if one.is_dir()), Path("stacks"))
    gateways = {
        name: gateway.model_copy(
            update={
                "analytics": {
                    job: given.model_copy(update={"options": folder / given.options})
                    if isinstance(given, Job) and given.options
                    else given
                    for job, given in gateway.analytics.items()
                },
                "x509": gateway.x509 and gateway.x509.within(folder),
                "credentials": gateway.credentials and folder / gateway.credentials,
                "bootstrap": gateway.bootstrap
                and gateway.bootstrap.model_copy(
                    update={
                        "config": folder / gateway.bootstrap.config,
                        "x509": gateway.bootstrap.x509 and gateway.bootstrap.x509.within(folder),
                    }
                ),
            }
        )
        for name, gateway in fleet.gateways.items()
    }
    update = {
        "stacks": chosen.absolute(),
        "pki": folder / fleet.pki,
        "secrets": folder / fleet.secrets,
        "gateways": gateways,
    }
    return fleet.model_copy(update=update)


def _lacking(work: Work, gateway: str) -> Work:
    gateways = {name: one for name, one in work.fleet.gateways.items() if name != gateway}
    fleet = work.fleet.model_copy(update={"gateways": gateways})
    return replace(work, fleet=fleet, look=_look_of(fleet))


def _revoke(work: Work, gateway: str) -> list[str]:
    from security.authority import Authority
    from security.identities import OF_GATEWAY

    authority = Authority(work.fleet.pki)
    gone = []
    for identity in authority.identities():
        if identity.role in OF_GATEWAY and identity.name == gateway and not authority.record().is_revoked(identity):
            authority.revoke(identity, reason=f"gateway {gateway} was removed")
            gone.append(identity.principal)
    return gone


def _desired(work: Work) -> Any:
    from headwater.deploy.desired import desired
    from headwater.deploy.stackfile import StackFileError

    try:
        return desired(work.fleet, work.look(), work.files)
    except StackFileError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc


def _plan(work: Work) -> Plan:
    from headwater.deploy.plan import plan as make

    return make(_desired(work), work.swarm.observe(), work.look())


def _tell(line: str) -> None:
    from headwater.terminal import printable

    typer.echo(printable(line), err=True)


def _show_plan(found: Plan, output: Output) -> None:
    from headwater.output import console, print_json, table

    if output is Output.JSON:
        print_json(
            {
                "changes": len(found.actions),
                "actions": [
                    {"verb": one.verb.name.lower(), "kind": one.kind.value, "name": one.name, "place": one.place,
                     "why": one.why}
                    for one in found.actions
                ],
                "problems": [{"place": one.place, "text": one.text, "fatal": one.fatal} for one in found.problems],
            }
        )  # fmt: skip
        return
    for one in found.problems:
        complain(f"{one.place}: {one.text}")
    if found.actions:
        rows = _rows(found.actions)
        console().print(table(("", "what", "name", "where", "why"), rows))
    elif not any(one.fatal for one in found.problems):
        typer.echo("nothing to change")


def _rows(actions: Iterable[Action]) -> list[tuple[str, str, str, str, str]]:
    """A line each; what is left of before, which may be dozens, a line a kind and place."""
    from headwater.deploy.plan import Kind, Verb

    rows = []
    left: Counter[tuple[str, str, str]] = Counter()
    for one in actions:
        if one.verb is Verb.DELETE and one.kind in (Kind.SECRET, Kind.CONFIG):
            left[one.kind.value, one.place, one.why] += 1
        else:
            rows.append((one.verb.value, one.kind.value, one.name, one.place, one.why))
    rows += [("-", kind, f"{count} of before", place, why) for (kind, place, why), count in left.items()]
    return rows


def _show_services(seen: list[Status], missing: list[str], output: Output) -> None:
    from headwater.output import console, print_json, table

    if output is Output.JSON:
        print_json({"services": [_service_json(one) for one in seen], "missing": missing})
        return
    rows = [
        (one.stack, one.service, one.state.value, f"{one.running}/{one.wanted}", one.image, one.error) for one in seen
    ]
    rows += [(stack, "", "not deployed", "", "", "") for stack in missing]
    console().print(table(("stack", "service", "state", "running", "image", "last error"), rows))


def _service_json(one: Status) -> dict[str, object]:
    return {
        "stack": one.stack,
        "service": one.service,
        "state": one.state.value,
        "running": one.running,
        "wanted": one.wanted,
        "image": one.image,
        "error": one.error,
    }


def _finish(report: Report, output: Output, shown: Plan) -> None:
    """Show what came of it beside what the plan showed already, and end with 1 if not all is well."""
    from headwater.output import print_json

    if output is Output.JSON:
        print_json(
            {
                "done": len(report.done),
                "left": report.left,
                "problems": [{"place": one.place, "text": one.text, "fatal": one.fatal} for one in report.problems],
                "services": [_service_json(one) for one in report.services],
            }
        )
    else:
        for problem in (one for one in report.problems if one not in shown.problems):
            complain(f"{problem.place}: {problem.text}")
        from headwater.deploy.convergence import State

        for one in report.services:
            if one.state not in (State.WELL, State.DONE):
                complain(
                    f"{one.stack}_{one.service}: {one.running} of {one.wanted} run; {one.error or one.state.value}"
                )
        if report.left:
            what = report.left[0] if len(report.left) == 1 else f"{len(report.left)} secrets, configs or networks"
            typer.echo(
                f"{what} of before: still in use, or not all services came up; the next apply takes them", err=True
            )
    if not report.is_well:
        raise typer.Exit(Exit.REFUSED)
