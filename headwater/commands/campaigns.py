"""``headwater firmware``: a new image for one device, to its end; ``headwater campaign``: for many, in stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import command
from headwater.commands.verbs import PANEL
from headwater.exits import Exit, Stop
from headwater.options import (
    EndpointArgument,
    MetricsHostOption,
    MetricsKeysOption,
    MetricsOption,
    Output,
    OutputOption,
    Where,
)
from headwater.terminal import printable

if TYPE_CHECKING:
    from cloud.campaigns.log import Campaign
    from cloud.campaigns.machine import Device
    from cloud.campaigns.objects import Method
    from schemas.files import File


class MethodName(Enum):
    """`cloud.campaigns.objects.Method` as people type it; its own class so that the help loads nothing."""

    AUTO = "auto"
    PULL = "pull"
    PUSH = "push"


class ObjectNumber(Enum):
    """The object that takes the image."""

    FIRMWARE = "5"
    SOFTWARE = "9"


ImageArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The image.", exists=True, dir_okay=False)]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The campaign's name.")]
ObjectOption = Annotated[ObjectNumber, typer.Option("--object", help="5: firmware; 9: software.")]
InstanceOption = Annotated[
    int, typer.Option("--instance", metavar="N", min=0, max=65534, help="Which of its instances.")
]
PatienceOption = Annotated[
    float,
    typer.Option("--patience", metavar="S", min=1, max=31_536_000, help="Seconds after which a device has failed."),
]


def register(app: typer.Typer) -> None:
    """Add both groups to ``app``."""
    firmware = typer.Typer(help="A new image for one device, followed to its end.", no_args_is_help=True)
    # What is wrong with Kafka, or with a record, is told on stderr.
    command(firmware, "pull", group="firmware", logs=True)(pull)
    command(firmware, "push", group="firmware", logs=True)(push)
    app.add_typer(firmware, name="firmware", rich_help_panel=PANEL)
    campaign = typer.Typer(help="New images for many devices, in stages.", no_args_is_help=True)
    functions: dict[str, Callable[..., None]] = {
        "create": create,
        "status": status,
        "pause": pause,
        "resume": resume,
        "abort": abort,
        "run": run,
    }
    for verb, function in functions.items():
        command(campaign, verb, group="campaign", logs=True)(function)
    app.add_typer(campaign, name="campaign", rich_help_panel=PANEL)


def pull(
    ep: EndpointArgument,
    file: ImageArgument,
    where: Where,
    object: ObjectOption = ObjectNumber.FIRMWARE,
    instance: InstanceOption = 0,
    patience: PatienceOption = 86_400,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have a device fetch an image from its gateway and update itself; each step is told as it comes.

    Ctrl-C leaves it as it is: the device goes on with what it has begun, and the same command goes on from there.

    \b
    Examples:
    headwater firmware pull sensor-1 sensor-2.1.0.bin --gateway rock64
    headwater firmware pull sensor-1 app.bin --object 9 --instance 1 --gateway rock64
    """
    from cloud.campaigns.objects import Method

    _one(ep, file, where, Method.PULL, object, instance, patience, output)


def push(
    ep: EndpointArgument,
    file: ImageArgument,
    where: Where,
    object: ObjectOption = ObjectNumber.FIRMWARE,
    instance: InstanceOption = 0,
    patience: PatienceOption = 86_400,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a device an image in blocks and have it update itself; each step is told as it comes.

    Ctrl-C leaves it as it is: the gateway goes on with what it has begun, and the same command goes on from there.

    \b
    Examples:
    headwater firmware push sensor-1 sensor-2.1.0.bin --gateway rock64
    """
    from cloud.campaigns.objects import Method

    _one(ep, file, where, Method.PUSH, object, instance, patience, output)


def _one(
    ep: str,
    path: Path,
    where: Where,
    method: Method,
    object_: ObjectNumber,
    instance: int,
    patience: float,
    output: Output,
) -> None:
    from cloud.campaigns.log import plan_record, read, say
    from cloud.campaigns.machine import Phase, Task
    from cloud.campaigns.plan import Plan, Runner, Standing, device_fields, overview
    from cloud.campaigns.worker import TakenOver, Worker

    file = _send_file(where, path)
    task = Task(object_id=int(object_.value), instance=instance, method=method, patience=round(patience * 1000))
    book = read(where.cluster, where.gateway)
    known = next(
        (
            one.plan
            for one in book.campaigns.values()
            if (one.plan.runner, one.plan.endpoints) == (Runner.COMMAND, (ep,))
            and (one.plan.file.sha256, one.plan.task.object_id, one.plan.task.instance, one.plan.task.method)
            == (file.sha256, task.object_id, task.instance, task.method)
            and overview(one.plan, one.control, one.devices).standing in (Standing.RUNNING, Standing.PAUSED)
        ),
        None,
    )
    if known is None:
        now = time.time_ns() // 1_000_000
        if (other := book.taken(now).get(ep)) is not None:
            raise Stop(
                Exit.REFUSED,
                f"{ep} is on the way to another image, by the campaign {other}: wait for its end, or end it with "
                f"headwater campaign abort {other} --gateway {where.gateway}",
            )
        known = Plan(
            name=f"one-{now}-{file.sha256[:8]}",
            gateway=where.gateway,
            file=file,
            endpoints=(ep,),
            stages=(1,),
            threshold=1.0,
            task=task,
            created=now,
            runner=Runner.COMMAND,
        )
        say(where.cluster, where.gateway, plan_record(known))
    shown: set[tuple[int, str]] = set()
    failures: list[BaseException] = []

    def tell(_: Campaign, device: Device) -> None:
        for at, words in device.trace:
            if (at, words) not in shown and output is Output.TABLE:
                typer.echo(printable(f"{time.strftime('%H:%M:%S', time.localtime(at / 1000))} {ep} {words}"))
            shown.add((at, words))

    worker = Worker(where.cluster, where.gateway, only=known.name, told=tell)
    stop = threading.Event()

    def work() -> None:
        try:
            worker.run(stop, until_done=True)
        except BaseException as exc:  # noqa: BLE001  raised again in the main thread
            failures.append(exc)

    thread = threading.Thread(target=work, name="campaign", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        stop.set()
        thread.join(5.0)
        raise Stop(
            Exit.INTERRUPTED,
            f"interrupted; {ep} goes on with what it has begun. The same command goes on from there, and "
            f"headwater campaign abort {known.name} --gateway {where.gateway} ends it",
        ) from None
    if failures:
        if isinstance(failures[0], TakenOver):
            raise Stop(Exit.REFUSED, str(failures[0]))
        raise failures[0]
    device = worker.book.campaigns[known.name].devices[ep]
    if output is Output.JSON:
        from headwater.output import print_json

        print_json(device_fields(device))
    if device.phase is not Phase.UPDATED:
        raise Stop(Exit.REFUSED, f"{ep} was not updated: {device.words}")


def _send_file(where: Where, path: Path) -> File:
    from cloud.files import load, send
    from cloud.interrupts import interruptible
    from schemas.files import NoPiece

    try:
        file, data = load(path)
    except NoPiece as exc:
        raise Stop(Exit.USAGE, f"{path}: {exc}") from exc
    interruptible(lambda: send(where.cluster, where.gateway, file, data))
    return file


def create(
    name: NameArgument,
    file: ImageArgument,
    where: Where,
    endpoint: Annotated[
        list[str] | None, typer.Option("--endpoint", metavar="EP", help="A device, by its name; repeatable.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", metavar="GLOB", help="All devices registered now of such a name: sensor-*."),
    ] = None,
    stages: Annotated[
        str, typer.Option("--stages", metavar="N,N%,…", help="How many devices are in the stages up to each.")
    ] = "1,10%,100%",
    error_threshold: Annotated[
        str, typer.Option("--error-threshold", metavar="N%", help="More failures than this of a stage stop it.")
    ] = "10%",
    method: Annotated[
        MethodName, typer.Option("--method", help="auto: as each device says that it can.")
    ] = MethodName.AUTO,
    object: ObjectOption = ObjectNumber.FIRMWARE,
    instance: InstanceOption = 0,
    patience: PatienceOption = 86_400,
) -> None:
    """Create a campaign: an image for many devices. `headwater campaign run` carries it out.

    A stage begins when all devices of the one before have ended, and too many failures stop it: then no other device
    begins, and none is told to install what it has.

    \b
    Examples:
    headwater campaign create spring sensor-2.1.0.bin --pattern 'sensor-*' --gateway rock64
    headwater campaign create fix fix.bin --endpoint press-1 --endpoint press-2 --stages 1,100% --gateway rock64
    headwater campaign create apps app.bin --pattern '*' --object 9 --method pull --gateway rock64
    """
    from cloud.campaigns import plan as plans
    from cloud.campaigns.log import plan_record, read, say
    from cloud.campaigns.machine import Task
    from cloud.campaigns.objects import Method
    from cloud.interrupts import interruptible

    if bool(endpoint) == bool(pattern):
        raise Stop(Exit.USAGE, "say for which devices: --endpoint EP (repeatable), or --pattern GLOB")
    endpoints = tuple(dict.fromkeys(endpoint)) if endpoint else _registered(where, pattern or "*")
    if not endpoints:
        raise Stop(Exit.USAGE, f"no device that is registered at {where.gateway} has a name like {pattern}")
    if name in interruptible(lambda: read(where.cluster, where.gateway)).campaigns:
        raise Stop(Exit.USAGE, f"there is a campaign {name} already; take another name")
    try:
        planned = plans.Plan(
            name=name,
            gateway=where.gateway,
            file=_send_file(where, file),
            endpoints=endpoints,
            stages=plans.stages(stages, len(endpoints)),
            threshold=plans.percentage(error_threshold),
            task=Task(
                object_id=int(object.value),
                instance=instance,
                method=Method(method.value),
                patience=round(patience * 1000),
            ),
            created=time.time_ns() // 1_000_000,
        )
    except plans.InvalidCampaign as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc
    say(where.cluster, where.gateway, plan_record(planned))
    typer.echo(
        printable(
            f"campaign {name}: {planned.file.name} for {len(endpoints)} devices in {len(planned.stages)} stages; "
            f"headwater campaign run --gateway {where.gateway} carries it out"
        )
    )


def _registered(where: Where, pattern: str) -> tuple[str, ...]:
    from cloud.inventory import Inventory, State

    with Inventory(where.cluster, where.gateway, last=0) as inventory:
        while not inventory.caught_up:
            inventory.refresh()
        found = inventory.picture.devices.values()
        return tuple(sorted(one.ep for one in found if one.state is State.ONLINE and fnmatchcase(one.ep, pattern)))


def status(
    where: Where,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One campaign, with each of its devices.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the campaigns of a gateway; of one of them where each device stands, and why.

    \b
    Examples:
    headwater campaign status --gateway rock64
    headwater campaign status spring --gateway rock64
    headwater campaign status spring --gateway rock64 --output json | jq '.devices[] | select(.phase == "failed")'
    """
    from cloud.campaigns.log import read
    from cloud.interrupts import interruptible
    from headwater.output import console, print_json, table

    book = interruptible(lambda: read(where.cluster, where.gateway))
    if name is None:
        every = [_summary(one) for one in book.campaigns.values()]
        if output is Output.JSON:
            print_json(every)
            return
        rows = [
            [str(one[column]) for column in ("name", "file", "standing", "words", "updated", "failed", "devices")]
            for one in every
        ]
        console().print(table(("campaign", "image", "", "", "updated", "failed", "devices"), rows))
        return
    campaign = _of(book.campaigns, name)
    summary = _summary(campaign)
    taken = book.taken(time.time_ns() // 1_000_000)
    details = [_device(campaign, ep, taken.get(ep)) for ep in campaign.plan.endpoints]
    if output is Output.JSON:
        print_json({**summary, "devices": details})
        return
    typer.echo(printable(f"{name}: {summary['file']}, {summary['standing']} ({summary['words']})"))
    lines = [(one["ep"], one["phase"], one["words"], one["at"]) for one in details]
    console().print(table(("device", "", "", "since"), lines))


def _of(campaigns: dict[str, Campaign], name: str) -> Campaign:
    if name not in campaigns:
        known = ", ".join(sorted(campaigns)) or "none"
        raise Stop(Exit.USAGE, f"there is no campaign {name}; there are: {known}")
    return campaigns[name]


def _summary(campaign: Campaign) -> dict[str, Any]:
    from cloud.campaigns.machine import Phase
    from cloud.campaigns.plan import overview

    plan = campaign.plan
    seen = overview(plan, campaign.control, campaign.devices)
    return {
        "name": plan.name,
        "file": plan.file.name,
        "sha256": plan.file.sha256,
        "object": plan.task.object_id,
        "method": plan.task.method.value,
        "standing": seen.standing.value,
        "words": seen.words,
        "stage": seen.stage + 1,
        "stages": list(plan.stages),
        "updated": seen.counts.get(Phase.UPDATED, 0),
        "failed": seen.counts.get(Phase.FAILED, 0),
        "devices": len(plan.endpoints),
    }


def _device(campaign: Campaign, ep: str, other: str | None) -> dict[str, Any]:
    """``other``: the campaign that has begun with it."""
    from cloud.campaigns.plan import device_fields
    from headwater.values import moment

    device = campaign.devices.get(ep)
    if device is None:
        words = "waits for its stage" if other is None else f"waits for the campaign {other}"
        return {"ep": ep, "phase": "waiting", "words": words, "at": "", "trace": []}
    fields = device_fields(device)
    return {
        "ep": ep,
        "phase": fields["phase"],
        "words": words_of(device),
        "at": moment(device.since),
        "pending": fields["pending"],
        "trace": [{"at": moment(at), "words": words} for at, words in device.trace],
    }


def words_of(device: Device) -> str:
    """Where it stands, and what it waits for."""
    if device.pending is None or device.phase.ended:
        return device.words
    from headwater.values import moment

    return f"{device.words}; asked to {device.pending.ask.value} at {moment(device.pending.asked)}, no answer yet"


def pause(name: NameArgument, where: Where) -> None:
    """Pause a campaign: no other device begins, and none is told to install what it has.

    \b
    Examples:
    headwater campaign pause spring --gateway rock64
    """
    from cloud.campaigns.plan import Wish

    _wish(name, where, Wish.PAUSE, "pauses; what devices download they go on with")


def resume(name: NameArgument, where: Where) -> None:
    """Go on with a campaign that pauses or was stopped by failures; those that it had count no more.

    \b
    Examples:
    headwater campaign resume spring --gateway rock64
    """
    from cloud.campaigns.plan import Wish

    _wish(name, where, Wish.RUN, "goes on")


def abort(name: NameArgument, where: Where) -> None:
    """End a campaign for good. What a device has begun it goes on with; none is told anything more.

    \b
    Examples:
    headwater campaign abort spring --gateway rock64
    """
    from cloud.campaigns.plan import Wish

    _wish(name, where, Wish.ABORT, "is aborted")


def _wish(name: str, where: Where, wish: Any, words: str) -> None:
    from cloud.campaigns.log import control_record, read, say
    from cloud.campaigns.machine import Phase
    from cloud.campaigns.plan import Control, Wish
    from cloud.interrupts import interruptible

    campaign = _of(interruptible(lambda: read(where.cluster, where.gateway)).campaigns, name)
    if campaign.control.wish is Wish.ABORT and wish is not Wish.ABORT:
        raise Stop(Exit.REFUSED, f"campaign {name} was aborted; create another one")
    failed = sum(one.phase is Phase.FAILED for one in campaign.devices.values())
    control = Control(wish=wish, forgiven=failed if wish is Wish.RUN else campaign.control.forgiven)
    say(where.cluster, where.gateway, control_record(name, control))
    typer.echo(printable(f"campaign {name} {words}"))


def run(
    where: Where,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """Carry out the campaigns of a gateway, from now until told to stop. It may be killed at any moment.

    A second one for the same gateway takes over, and the first ends. Topics that are not there yet are waited for.

    \b
    Examples:
    headwater campaign run --gateway rock64 --kafka cloud:9092 --metrics 9595
    """
    from cloud.campaigns.service import CampaignSettings
    from headwater import lean

    lean.start(
        lean.Process.CAMPAIGNS,
        CampaignSettings(
            gateway=where.gateway,
            kafka=where.cluster,
            metrics_port=metrics,
            metrics_host=metrics_host,
            metrics_keys=metrics_keys,
        ),
    )
