"""What a bootstrap process is told: parsed once by the command, opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.bootstrap.config_file import ConfigFile
from gateway.dtls_certificates.settings import CertificateFiles
from security.credentials.opening import StorePlace

DEFAULT_COAP = ("0.0.0.0", 5693)
DEFAULT_COAPS = ("0.0.0.0", 5694)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSettings:
    """Settings of one bootstrap server."""

    config: ConfigFile
    #: Where devices speak in the clear; None: nowhere.
    coap: tuple[str, int] | None = None
    #: Where they speak over DTLS, if there are ``credentials``: the store of those for this.
    coaps: tuple[str, int] = DEFAULT_COAPS
    credentials: StorePlace | None = None
    #: Whether an empty store is made where there is none.
    make_credentials: bool = False
    #: What it shows to devices with certificates; None: these are refused.
    coaps_certificate: CertificateFiles | None = None
    #: The file with the trace of the runs, and with what was made for whom.
    state: Path = Path("bootstrap.db")
    #: Seconds that a device may take for a step.
    step_timeout: float = 93.0
    #: Runs at once; further devices are asked to come again.
    most_runs: int = 200
    #: Whose it is, for its metrics; None: nobody's alone.
    gateway: str | None = None
    metrics_host: str = "127.0.0.1"
    #: None: no metrics server; 0: any free port.
    metrics_port: int | None = None
    #: A file of API keys; then /metrics is for their holders only.
    metrics_keys: Path | None = None
