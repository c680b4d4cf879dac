"""The inventory for people: which devices there are, what one of them is and last said."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import Patience, command
from headwater.commands.verbs import PANEL
from headwater.exits import Exit, Stop
from headwater.options import EndpointArgument, Output, OutputOption, Where

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.inventory import About, Device, Inventory, LastValue, Picture

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show what changes; Ctrl-C ends.")]
WaitOption = Annotated[
    float, typer.Option("--timeout", metavar="S", min=0.1, max=86400, help="Seconds to wait for the topics to be read.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of the inventory to ``app``."""
    command(app, "devices", panel=PANEL)(devices)
    command(app, "device", panel=PANEL)(device)


def devices(
    where: Where,
    wide: Annotated[bool, typer.Option("--wide", help="Manufacturer, model and firmware too.")] = False,
    watch: WatchOption = False,
    timeout: WaitOption = 30.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the devices of a gateway, from its topics.

    Manufacturer, model and firmware are known of devices that were asked for them or told them: headwater gateway
    --read-on-register /3/0 asks each once it registers.

    \b
    Examples:
    headwater devices --gateway rock64 --kafka cloud:9092
    headwater devices --gateway rock64 --watch
    headwater devices --gateway rock64 --wide
    headwater devices --gateway rock64 --output json | jq -r '.[] | select(.firmware != "2.1.0") | .ep'
    """

    def as_json(picture: Picture) -> Any:
        return [_device_json(picture, ep) for ep in sorted(picture.devices)]

    def as_table(picture: Picture, lines: int | None) -> RenderableType:
        return _devices_table(picture, lines, wide=wide)

    _show(where, watch, timeout, output, as_table, as_json)


def device(
    ep: EndpointArgument,
    where: Where,
    watch: WatchOption = False,
    timeout: WaitOption = 30.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one device: its registration, its objects, and the last value of each resource that it told.

    \b
    Examples:
    headwater device sensor-1 --gateway rock64
    headwater device sensor-1 --gateway rock64 --watch
    """

    def known(picture: Picture) -> Device:
        if ep not in picture.devices:
            near = ", ".join(sorted(picture.devices)[:5]) or "none"
            raise Stop(
                Exit.REFUSED,
                f"gateway {where.gateway} has no device {ep!r}; it has: {near}"
                + ("" if len(picture.devices) <= 5 else ", …"),
            )
        return picture.devices[ep]

    def as_json(picture: Picture) -> Any:
        return _device_json(picture, known(picture).ep) | {
            "values": [_value_json(one) for one in picture.values_of(ep)]
        }

    def as_table(picture: Picture, _lines: int | None) -> RenderableType:
        return _device_view(known(picture), picture.about(ep), picture.values_of(ep))

    _show(where, watch, timeout, output, as_table, as_json)


def _show(
    where: Where,
    watch: bool,
    timeout: float,
    output: Output,
    as_table: Callable[[Picture, int | None], RenderableType],
    as_json: Callable[[Picture], Any],
) -> None:
    """``as_table`` is also told how many lines there are, where the picture is renewed in place."""
    from cloud.interrupts import interruptible
    from cloud.inventory import Inventory
    from headwater.output import console, print_json

    cluster = where.cluster
    try:
        with interruptible(lambda: Inventory(cluster, where.gateway, timeout=min(timeout, 10.0))) as inventory:
            _catch_up(inventory, where.kafka, timeout)
            if watch:
                _follow(inventory, output, as_table, as_json)
            elif output is Output.JSON:
                print_json(as_json(inventory.picture))
            else:
                console().print(as_table(inventory.picture, None))
    except KeyboardInterrupt:
        if not watch:
            raise


def _catch_up(inventory: Inventory, kafka: str, timeout: float) -> None:
    from connectors.kafka import Unreachable

    deadline = time.monotonic() + timeout
    while not inventory.caught_up:
        if time.monotonic() > deadline:
            raise Unreachable(f"the topics at {kafka} were not read to their ends within {timeout:g} s; see --timeout")
        inventory.refresh()


def _follow(
    inventory: Inventory,
    output: Output,
    as_table: Callable[[Picture, int | None], RenderableType],
    as_json: Callable[[Picture], Any],
) -> None:
    """Until Ctrl-C: in place on a terminal, else the whole at the start and at every change."""
    from rich.live import Live

    from headwater.output import console, print_line

    screen, patience = console(), Patience()
    if output is Output.JSON or not screen.is_terminal:
        while True:
            if output is Output.JSON:
                print_line(as_json(inventory.picture))
            else:
                screen.print(as_table(inventory.picture, None))
            while not inventory.refresh(0.5):
                patience.with_kafka(inventory.silence())
    size = screen.size
    with Live(as_table(inventory.picture, size.height), console=screen, auto_refresh=False) as live:
        while True:
            came = inventory.refresh(0.25)
            if not came:
                patience.with_kafka(inventory.silence())
            if came or size != screen.size:
                size = screen.size
                live.update(as_table(inventory.picture, size.height), refresh=True)


#: Lines of the terminal that a table of devices needs beside its rows: head, rule, margins and what is left out.
_AROUND = 5


def _devices_table(picture: Picture, lines: int | None, *, wide: bool = False) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from headwater.output import table
    from headwater.values import moment

    if not picture.devices:
        return Text("no device has registered yet")
    endpoints = sorted(picture.devices)
    shown = endpoints if lines is None else endpoints[: max(1, lines - _AROUND)]
    rows: list[tuple[str, ...]] = []
    for ep in shown:
        one = picture.devices[ep]
        newest, about = picture.newest(ep), picture.about(ep)
        rows.append(
            (
                ep,
                one.state.value,
                _address(one),
                one.ver or "",
                one.bnd.value if one.bnd else "",
                _lifetime(one.lt),
                moment(one.last_up),
                " ".join(str(i) for i in sorted({path.ids[0] for path in one.instances})),
                "" if newest is None else moment(newest),
                *((about.manufacturer or "", about.model or "", about.firmware or "") if wide else ()),
                _behind(one),
            )
        )
    columns: tuple[str, ...] = (
        *("endpoint", "state", "address", "LwM2M", "binding", "lifetime", "last update", "objects", "last value"),
        *(("manufacturer", "model", "firmware") if wide else ()),
        "behind",
    )
    if not any(row[-1] for row in rows):
        # Most gateways know of nobody behind another.
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    made = table(columns, rows)
    more = len(endpoints) - len(shown)
    return Group(made, Text(f"  … and {more} more devices")) if more else made


def _device_view(one: Device, about: About, told: list[LastValue]) -> RenderableType:
    from rich.console import Group

    from headwater.known_models import known
    from headwater.output import name_of, table, value_row
    from headwater.values import moment

    definitions = known()
    properties = [
        ("endpoint", one.ep),
        ("state", one.state.value),
        ("gateway", one.server_id),
        ("address", _address(one)),
        ("registered at", "" if one.reg_addr is None else f"{one.reg_addr}:{one.reg_port}"),
        ("registration", one.reg_id or ""),
        ("since", "" if one.reg_date is None else moment(one.reg_date)),
        ("last update", moment(one.last_up)),
        ("lifetime", _lifetime(one.lt)),
        ("LwM2M", one.ver or ""),
        ("binding", one.bnd.value if one.bnd else ""),
        ("SMS", one.sms or ""),
        ("behind", _behind(one)),
        ("manufacturer", about.manufacturer or ""),
        ("model", about.model or ""),
        ("serial number", about.serial or ""),
        ("firmware", about.firmware or ""),
        ("attributes", " ".join(f"{key}={value}" for key, value in (one.attributes or {}).items())),
    ]
    objects = [(str(path), name_of(definitions, path)) for path in one.instances]
    values = [(*value_row(definitions, value.resource), moment(value.timestamp), value.kind.value) for value in told]
    return Group(
        table(("property", "value"), [row for row in properties if row[1]]),
        table(("object", "name"), objects, title="objects"),
        table(("path", "name", "value", "unit", "time", "told by"), values, title="last values"),
    )


def _behind(one: Device) -> str:
    """The endpoint of the gateway that it is behind; empty for one that registered itself."""
    return (one.attributes or {}).get("gateway", "") if "prefix" in (one.attributes or {}) else ""


def _lifetime(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds} s" if seconds else "no end"


def _address(one: Device) -> str:
    if one.address is None:
        return ""
    return f"[{one.address}]:{one.port}" if ":" in one.address else f"{one.address}:{one.port}"


def _device_json(picture: Picture, ep: str) -> dict[str, Any]:
    one = picture.devices[ep]
    return {
        "ep": one.ep,
        "state": one.state.value,
        "online": one.state.value == "online",
        "serverId": one.server_id,
        "regId": one.reg_id,
        "regDate": one.reg_date,
        "address": one.address,
        "port": one.port,
        "regAddr": one.reg_addr,
        "regPort": one.reg_port,
        "lt": one.lt,
        "ver": one.ver,
        "bnd": one.bnd.value if one.bnd else None,
        "sms": one.sms,
        "root": one.root,
        "lastUp": one.last_up,
        "links": [{"url": link.url, "at": dict(link.at)} for link in one.links],
        "objects": [str(path) for path in one.instances],
        "attributes": dict(one.attributes) if one.attributes is not None else None,
        "behind": _behind(one) or None,
        **asdict(picture.about(ep)),
    }


def _value_json(value: LastValue) -> dict[str, Any]:
    from headwater.known_models import known
    from headwater.output import value_json

    return value_json(known(), value.resource) | {"timestamp": value.timestamp, "kind": value.kind.value}
