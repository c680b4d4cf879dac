"""What a gateway process is told: parsed once by the command, opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connectors.kafka import Cluster
from gateway.dtls_certificates.settings import CertificateFiles
from security.credentials.opening import StorePlace

DEFAULT_COAP = ("0.0.0.0", 5683)
DEFAULT_COAPS = ("0.0.0.0", 5684)
DEFAULT_METRICS_PORT = 9590


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of one gateway.

    ``observe`` are patterns such as ``/3303/*/5700`` for every device; ``observe_by_endpoint`` has more of them by a
    glob of endpoint names. ``definitions`` is a folder of OMA LwM2M XML files that adds to the built-in objects; it is
    watched, and need not be there yet.
    """

    gateway: str
    kafka: Cluster
    #: Where devices speak in the clear, and with OSCORE.
    coap: tuple[str, int] = DEFAULT_COAP
    #: Whether they may speak in the clear; else ``coap`` is opened with the first credential for OSCORE, for it alone.
    insecure: bool = True
    #: Where they speak over DTLS, if there are ``credentials``: the store of them.
    coaps: tuple[str, int] = DEFAULT_COAPS
    credentials: StorePlace | None = None
    #: Whether an empty store is made where there is none.
    make_credentials: bool = False
    #: A file of which the store takes up at the start what is new in it.
    import_credentials: Path | None = None
    #: What the gateway shows to devices with certificates; None: these are refused.
    coaps_certificate: CertificateFiles | None = None
    state: Path = Path("state")
    metrics_host: str = "127.0.0.1"
    #: None: no metrics server; 0: any free port.
    metrics_port: int | None = DEFAULT_METRICS_PORT
    #: A file of API keys; then /metrics is for their holders only.
    metrics_keys: Path | None = None
    observe: tuple[str, ...] = ()
    observe_by_endpoint: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Patterns of what is read of every device that registers.
    read_on_register: tuple[str, ...] = ()
    definitions: Path | None = None
    #: The host name or address at which devices fetch files; None: the one from which they are answered.
    file_host: str | None = None
    #: Seconds that a device may take to answer a command.
    command_timeout: float = 93.0
    #: On how many processes its devices are spread (`gateway.several`).
    processes: int = 1
