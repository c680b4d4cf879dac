"""The processes of the way beside the sinks and devices: gateway, replicator. Each runs until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater import lean, reach
from headwater.commands.base import command, settings_file
from headwater.exits import Exit, Stop
from headwater.known_models import FOLDER, ModelsOption
from headwater.options import (
    CLOUD,
    EDGE,
    CoapsOption,
    GatewayOption,
    KafkaOption,
    KafkaTlsOption,
    MakeCredentialsOption,
    MetricsHostOption,
    MetricsKeysOption,
    MetricsOption,
    OwnCertificate,
    addresses,
    gateway_id,
    listening_address,
)

PANEL = "Processes"


def register(app: typer.Typer) -> None:
    """Add the processes to ``app``."""
    command(app, "gateway", panel=PANEL, logs=True)(gateway)
    command(app, "replicate", panel=PANEL, logs=True)(replicate)


def gateway(
    ctx: typer.Context,
    id: Annotated[
        str, typer.Option("--id", metavar="GW", parser=gateway_id, help="The gateway's id; part of its topics' names.")
    ],
    own: OwnCertificate,
    kafka: KafkaOption = EDGE,
    kafka_tls: KafkaTlsOption = None,
    coap: Annotated[
        str,
        typer.Option("--coap", metavar="HOST:PORT", parser=listening_address, help="Where devices reach it, over UDP."),
    ] = "0.0.0.0:5683",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure/--no-insecure", help="Whether devices may speak in the clear, at --coap; else OSCORE alone."
        ),
    ] = True,
    credentials: Annotated[
        str | None,
        typer.Option(
            "--credentials",
            metavar="FILE|URL",
            help="The devices' keys, for DTLS; headwater credentials makes them. (HEADWATER_CREDENTIALS)",
        ),
    ] = None,
    make_credentials: MakeCredentialsOption = False,
    import_credentials: Annotated[
        Path | None,
        typer.Option(
            "--import-credentials",
            metavar="FILE",
            help="Take up at the start what is new in FILE, CSV or JSON as for headwater credentials import.",
        ),
    ] = None,
    coaps: CoapsOption = "0.0.0.0:5684",
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Its durable state; .headwater/GW/state when left out."),
    ] = None,
    metrics: MetricsOption = 9590,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
    observe: Annotated[
        list[str] | None,
        typer.Option("--observe", metavar="PATTERN", help="Observe this on every device, such as /3303/*/5700."),
    ] = None,
    read_on_register: Annotated[
        list[str] | None,
        typer.Option("--read-on-register", metavar="PATTERN", help="Read this of every device that registers: /3/0."),
    ] = None,
    definitions: ModelsOption = None,
    file_host: Annotated[
        str | None,
        typer.Option(
            "--file-host",
            metavar="HOST",
            help="Where devices fetch firmware, if its own address is another to them (NAT, a container).",
        ),
    ] = None,
    command_timeout: Annotated[
        float, typer.Option("--command-timeout", metavar="S", min=1, help="How long a device may take to answer.")
    ] = 93.0,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", min=1, max=64, help="Spread its devices on N processes, for as many cores."
        ),
    ] = 1,
) -> None:
    """Run a gateway: LwM2M devices on one side, the edge's Kafka on the other.

    Patterns for some devices only stand in the settings file, by a glob of endpoint names:
    [gateway.endpoints."sensor-*"] observe = ["/3304/*/5700"]

    \b
    Examples:
    headwater gateway --id rock64 --kafka 127.0.0.1:9082 --observe '/3303/*/5700'
    headwater gateway --id rock64 --kafka 127.0.0.1:9082 --read-on-register /3/0
    headwater gateway --id rock64 --kafka 127.0.0.1:9082 --processes 2
    headwater gateway --id rock64 --credentials .headwater/credentials.db --no-insecure
    headwater gateway --id rock64 --credentials credentials.db --coaps-cert gateway.pem --coaps-key gateway.key
    headwater gateway --config /etc/headwater.toml
    """
    from gateway.settings import GatewaySettings
    from schemas.lwm2m.path import PathPattern
    from security.credentials.opening import place_of

    by_endpoint = _observe_by_endpoint(ctx)
    declared = (one for patterns in by_endpoint.values() for one in patterns)
    for pattern in (*(observe or ()), *declared, *(read_on_register or ())):
        PathPattern.parse(pattern)
    if not insecure and credentials is None:
        raise Stop(
            Exit.USAGE, "with --no-insecure devices need keys: headwater credentials add, and --credentials FILE here"
        )
    given = ctx.get_parameter_source("coaps")
    if credentials is None and given is not None and given.name == "COMMANDLINE":
        raise Stop(Exit.USAGE, "--coaps is for devices with keys: say where these are with --credentials FILE")
    if make_credentials and credentials is None:
        raise Stop(Exit.USAGE, "--make-credentials: say which file with --credentials FILE")
    if import_credentials is not None and credentials is None:
        raise Stop(Exit.USAGE, "--import-credentials: say into which store with --credentials FILE")
    if definitions is not None and not definitions.is_dir():
        raise Stop(
            Exit.USAGE,
            f"--definitions {definitions}: there is no such folder; make it (models that are imported into it later "
            "are taken up), or leave the option out",
        )
    settings = GatewaySettings(
        gateway=id,
        kafka=reach.cluster(kafka, kafka_tls),
        coap=_pair(coap),
        insecure=insecure,
        coaps=_pair(coaps),
        credentials=None if credentials is None else place_of(credentials),
        make_credentials=make_credentials,
        import_credentials=import_credentials,
        coaps_certificate=own.files(credentials),
        state=state or Path(".headwater") / id / "state",
        metrics_host=metrics_host,
        metrics_port=metrics,
        metrics_keys=metrics_keys,
        observe=tuple(observe or ()),
        observe_by_endpoint=by_endpoint,
        read_on_register=tuple(read_on_register or ()),
        definitions=definitions or FOLDER,
        file_host=file_host,
        command_timeout=command_timeout,
        processes=processes,
    )
    lean.start(lean.Process.GATEWAY, settings)


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _observe_by_endpoint(ctx: typer.Context) -> dict[str, tuple[str, ...]]:
    """``[gateway.endpoints."GLOB"] observe = [...]`` of the settings file, by glob.

    Raises:
        Stop: it is not of that form.
    """
    settings = settings_file(ctx)
    table = {} if settings is None else settings.commands.get("gateway", {}).get("endpoints", {})
    found = {}
    for glob, content in table.items() if isinstance(table, dict) else [("", table)]:
        patterns = content.get("observe") if isinstance(content, dict) and set(content) == {"observe"} else None
        if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
            raise Stop(
                Exit.USAGE,
                f'settings file {settings.path if settings else ""}: [gateway.endpoints."{glob}"] holds '
                'observe = ["/3303/*/5700", …] and nothing else',
            )
        found[glob] = tuple(patterns)
    return found


def bytes_a_second(text: str) -> float:
    """``64k``, ``2M`` or a plain number. Raises BadParameter: it is none of them."""
    factor = {"k": 1e3, "M": 1e6}.get(text[-1:], 1.0)
    try:
        rate = float(text.rstrip("kM")) * factor
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e12:
        raise typer.BadParameter(f"{text!r} is no number of bytes a second, such as 64k or 2M")
    return rate


def replicate(
    gateway: GatewayOption,
    edge: Annotated[
        str, typer.Option("--edge", metavar="HOST:PORT", parser=addresses, help="The edge's Kafka.")
    ] = EDGE,
    cloud: Annotated[
        str, typer.Option("--cloud", metavar="HOST:PORT", parser=addresses, help="The cloud's Kafka.")
    ] = CLOUD,
    edge_tls: Annotated[
        Path | None,
        typer.Option("--edge-tls", metavar="DIR", help="Its identity towards the edge, with which TLS is spoken."),
    ] = None,
    cloud_tls: Annotated[
        Path | None,
        typer.Option("--cloud-tls", metavar="DIR", help="Its identity towards the cloud; often the same folder."),
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", metavar="TOPIC", help="Carry this topic too, from edge to cloud.")
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            "--bandwidth",
            metavar="BYTES/S",
            parser=bytes_a_second,
            help="No more than this, such as 64k; replies first.",
        ),
    ] = None,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """Carry a gateway's topics between edge and cloud, both ways, each record exactly once.

    It creates the topics that are missing, waits out a WAN cut of any length and catches up. A second one for the same
    gateway takes over, and the first ends.

    \b
    Examples:
    headwater replicate --gateway rock64 --edge 127.0.0.1:9082 --cloud cloud:9092 --metrics 9591
    headwater replicate --gateway rock64 --cloud cloud:9092 --bandwidth 64k
    """
    from connectors.replicator import ReplicatorSettings

    try:
        settings = ReplicatorSettings(
            gateway=gateway,
            edge=reach.cluster(edge, edge_tls, "--edge-tls"),
            cloud=reach.cluster(cloud, cloud_tls, "--cloud-tls"),
            topics=tuple(topic or ()),
            bandwidth=bandwidth,
            metrics_port=metrics,
            metrics_host=metrics_host,
            metrics_keys=metrics_keys,
        )
    except ValueError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc
    lean.start(lean.Process.REPLICATOR, settings)
