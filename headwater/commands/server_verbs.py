"""The verbs that execute a resource of the LwM2M Server object: each has a device speak to one of its servers."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.commands.answers import do
from headwater.exits import Exit, Stop
from headwater.options import Asking, EndpointArgument, Where

#: Of the LwM2M Server object: each of its instances is a server that the device knows.
_InstanceOption = Annotated[
    int | None,
    typer.Option(
        "--instance",
        metavar="N",
        min=0,
        max=65534,
        help="The instance of object 1 that is this server; else the one that the device has registered.",
    ),
]


def trigger_update(ep: EndpointArgument, where: Where, asking: Asking, *, instance: _InstanceOption = None) -> None:
    """Have a device send a registration update now: it executes the Registration Update Trigger, /1/N/8.

    \b
    Examples:
    headwater trigger-update sensor-1 --gateway rock64
    headwater trigger-update sensor-1 --instance 1 --gateway rock64
    """
    _execute_of_server(ep, instance, 8, where, asking)


def trigger_bootstrap(ep: EndpointArgument, where: Where, asking: Asking, *, instance: _InstanceOption = None) -> None:
    """Have a device ask its bootstrap server anew: it executes the Bootstrap-Request Trigger, /1/N/9 (LwM2M 1.1).

    \b
    Examples:
    headwater trigger-bootstrap sensor-1 --gateway rock64
    headwater bootstrap log sensor-1
    """
    _execute_of_server(ep, instance, 9, where, asking)


def disable(ep: EndpointArgument, where: Where, asking: Asking, *, instance: _InstanceOption = None) -> None:
    """Have a device leave, and register anew after its Disable Timeout: it executes Disable, /1/N/4.

    The timeout is /1/N/5, in seconds; a device that has none takes a day.

    \b
    Examples:
    headwater write sensor-1 /1/0/5 600 --gateway rock64
    headwater disable sensor-1 --gateway rock64
    """
    _execute_of_server(ep, instance, 4, where, asking)


def _execute_of_server(ep: str, instance: int | None, resource: int, where: Where, asking: Asking) -> None:
    from schemas.avro.records import ExecuteRequest, RequestKind

    if instance is None:
        instance = _only_server(ep, where, asking.timeout)
    do(RequestKind.EXECUTE, ep, f"/1/{instance}/{resource}", ExecuteRequest(parameters=""), where, asking)


def _only_server(ep: str, where: Where, timeout: float) -> int:
    """The instance of the Server object that the device has registered; 0 where it has registered none.

    Raises:
        Stop: it has registered several, and only its user knows which of them is this server.
    """
    from cloud.inventory import device_of

    device = device_of(where.cluster, where.gateway, ep, timeout=timeout)
    announced = () if device is None else device.instances
    servers = [path for path in announced if path.depth == 2 and path.object_id == 1]
    if len(servers) > 1:
        raise Stop(
            Exit.USAGE,
            f"{ep} has registered several servers: {', '.join(map(str, servers))}; say by --instance which of them "
            f"this one is (headwater read {ep} /1 shows them)",
        )
    return servers[0].ids[1] if servers else 0
