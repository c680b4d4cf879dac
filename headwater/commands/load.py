"""``headwater load``: many virtual devices that put a load on a gateway and measure it, in the manner of JMeter.

Owns the kinds of load, their help, and how a load ends. The devices are `gateway.devices.load`'s.
"""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.base import command, complain
from headwater.commands.device_server import DeviceServer
from headwater.commands.load_options import LoadOptions, profile_shares
from headwater.commands.load_report import report
from headwater.commands.processes import PANEL
from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption
from headwater.terminal import printable

if TYPE_CHECKING:
    from gateway.devices.load.plan import Share

#: What a load that was told to stop has for its open exchanges, its de-registrations and its files, in seconds; and
#: with an audit, which goes on as long as values come. A second Ctrl-C ends either at once.
_GRACE_S, _AUDIT_GRACE_S = 30.0, 3600.0
_HELP = (
    "Put a load on a gateway with virtual devices, and measure it, in the manner of JMeter.\n\n"
    "A thread is one device: it registers, does its loops with one request open at a time, and de-registers. What is "
    "not answered is said again as CoAP has it, so a sample fails after 62 to 93 seconds of silence, or at once where "
    "the gateway says no. Ctrl-C ends a load in order: what is open is waited for some seconds, the devices "
    "de-register, and all is written.\n"
    """
\b
Examples:
headwater load register --threads 1000 --ramp-up 10 --server 127.0.0.1:5683
headwater load notify --threads 1000 --loops 100 --delay 1000 --jtl load.jtl --report load.html
headwater load notify --threads 100 --duration 60 --audit --gateway rock64 --kafka 127.0.0.1:9092
headwater load mixed mix.yaml --threads 500 --duration 300
headwater load report load.jtl --html load.html
"""
)


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(help=_HELP, no_args_is_help=True)
    for name, function in (
        ("register", register_),
        ("update", update),
        ("notify", notify),
        ("send", send),
        ("answer", answer),
        ("mixed", mixed),
        ("report", report),
    ):
        command(group, name, group="load")(function)
    app.add_typer(group, name="load", rich_help_panel=PANEL)


def register_(where: DeviceServer, options: LoadOptions, output: OutputOption = Output.TABLE) -> None:
    """Register and de-register anew in each loop.

    \b
    Examples:
    headwater load register --threads 1000 --ramp-up 10 --server 127.0.0.1:5683
    headwater load register --threads 10000 --ramp-up 60 --keep
    """
    from gateway.devices.load.plan import Kind, Share

    _run(where, options, output, (Share(kind=Kind.REGISTER, delay=options.delay / 1000),))


def update(where: DeviceServer, options: LoadOptions, output: OutputOption = Output.TABLE) -> None:
    """Update the registration in each loop.

    \b
    Examples:
    headwater load update --threads 100 --loops 50 --delay 200
    """
    from gateway.devices.load.plan import Kind, Share

    _run(where, options, output, (Share(kind=Kind.UPDATE, delay=options.delay / 1000),))


def notify(
    where: DeviceServer,
    options: LoadOptions,
    non: Annotated[bool, typer.Option("--non", help="Without asking for acknowledgements (NON).")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Notify an observed value in each loop: the device's clock in epoch microseconds.

    The gateway has to observe the devices: headwater gateway --observe '/3303/*/5700'.

    \b
    Examples:
    headwater load notify --threads 1000 --loops 100 --delay 1000 --jtl load.jtl --report load.html
    headwater load notify --threads 100 --duration 60 --audit --gateway rock64 --kafka 127.0.0.1:9092
    headwater load notify --non --threads 100 --duration 60 --delay 100
    """
    from gateway.devices.load.plan import Kind, Share

    _run(where, options, output, (Share(kind=Kind.NOTIFY, delay=options.delay / 1000, confirmable=not non),))


def send(where: DeviceServer, options: LoadOptions, output: OutputOption = Output.TABLE) -> None:
    """Send a value that nobody asked for in each loop: LwM2M Send, POST /dp in SenML CBOR.

    \b
    Examples:
    headwater load send --threads 50 --loops 100 --audit --gateway rock64
    headwater load send --threads 50 --duration 60 --server coaps://gateway --psk-list devices.csv
    """
    from gateway.devices.load.plan import Kind, Share

    _run(where, options, output, (Share(kind=Kind.SEND, delay=options.delay / 1000),))


def answer(where: DeviceServer, options: LoadOptions, output: OutputOption = Output.TABLE) -> None:
    """Have each device read by way of Kafka in each loop, and answer it; a sample is from request to reply.

    The reply has to have the very value that the device answered.

    \b
    Examples:
    headwater load answer --threads 100 --loops 10 --gateway rock64 --kafka 127.0.0.1:9092
    """
    from gateway.devices.load.plan import Kind, Share

    _run(where, options, output, (Share(kind=Kind.ANSWER, delay=options.delay / 1000),))


def mixed(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE.yaml", help="What it is a mix of.")],
    where: DeviceServer,
    options: LoadOptions,
    output: OutputOption = Output.TABLE,
) -> None:
    """Mix the kinds by the weights of a file: in each loop each device does one of them.

    A weight by kind, or {weight: N, delay: MS}; of notify also confirmable: true or false. delay is for all that have
    none of their own, --delay where the file has none. With register a device de-registers and registers anew.

    \b
    Examples:
    headwater load mixed mix.yaml --threads 500 --duration 300
    \b
    mix.yaml:
    notify: {weight: 80, delay: 500}
    update: 10
    send: 5
    register: 5
    delay: 1000
    """
    _run(where, options, output, profile_shares(profile, options.delay))


def _run(where: DeviceServer, options: LoadOptions, output: Output, shares: tuple[Share, ...]) -> None:
    from gateway.devices.load.engine import CannotLoad
    from gateway.devices.load.jtl import JtlError
    from headwater.commands.load_shown import ended_json, print_ended
    from headwater.load_run import LoadRun, run_load
    from headwater.output import print_json
    from headwater.reach import cluster
    from headwater.running import run_thread_until_stopped

    plan, reached, auditing = options.plan(shares), where.place, options.auditing
    run = LoadRun(
        plan=plan,
        server=reached,
        keys=where.keys(plan.endpoints) or {},
        reading=(cluster(options.kafka, options.kafka_tls), options.gateway) if plan.read and options.gateway else None,
        auditing=auditing,
        written=options.written,
        summary=options.summary,
        seed=options.seed,
    )
    as_json = output is Output.JSON
    tell = partial(typer.echo, err=as_json)
    shown = (lambda ended: None) if as_json else print_ended
    try:
        ended = run_thread_until_stopped(
            lambda stop: run_load(run, stop, tell, shown), _GRACE_S if auditing is None else _AUDIT_GRACE_S
        )
    except socket.gaierror as exc:
        raise Stop(Exit.CANNOT_START, f"--server {reached}: {exc.strerror}; is the host's name right?") from exc
    except (CannotLoad, JtlError) as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    if as_json:
        print_json(ended_json(ended))
    elif ended.audit is not None:
        typer.echo(printable(ended.audit.text(), keep="\n"))
    for one in ended.trouble:
        complain(one)
    audited = auditing is None or (ended.audit is not None and ended.audit.good)
    if not audited or ended.trouble or ended.error_percent > options.max_errors:
        raise typer.Exit(Exit.REFUSED)
