"""``headwater bootstrap``: the server that gives devices their servers and keys, its configuration, and its trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater import lean
from headwater.commands.base import command
from headwater.commands.bootstrap_shown import print_run, profile_json, profile_rows, run_json
from headwater.exits import Exit, Stop
from headwater.options import (
    CoapsOption,
    MakeCredentialsOption,
    MetricsHostOption,
    MetricsKeysOption,
    MetricsOption,
    Output,
    OutputOption,
    OwnCertificate,
    endpoint_name,
    gateway_id,
    listening_address,
)

if TYPE_CHECKING:
    from gateway.bootstrap.config_file import ConfigFile
    from gateway.bootstrap.profile import Profile

_TRACE = Path(".headwater/bootstrap.db")

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration, a YAML file.")]
TraceOption = Annotated[
    Path, typer.Option("--trace", metavar="FILE", help="What it did, and for whom it made keys; never a key.")
]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(
        help="Bootstrap: gives devices their servers and fresh keys of their own.", no_args_is_help=True
    )
    command(group, "serve", group="bootstrap", logs=True)(serve)
    command(group, "check", group="bootstrap")(check)
    command(group, "log", group="bootstrap")(log)
    app.add_typer(group, name="bootstrap", rich_help_panel="Processes")


def serve(
    file: ConfigArgument,
    own: OwnCertificate,
    credentials: Annotated[
        str | None,
        typer.Option(
            "--credentials",
            metavar="FILE|URL",
            help="The keys and certificates of devices that come over DTLS; headwater credentials adds them.",
        ),
    ] = None,
    make_credentials: MakeCredentialsOption = False,
    coaps: CoapsOption = "0.0.0.0:5694",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Also give keys in the clear, at --coap, to whoever asks: for the network of a factory alone.",
        ),
    ] = False,
    coap: Annotated[
        str,
        typer.Option(
            "--coap", metavar="HOST:PORT", parser=listening_address, help="Where devices reach it with --insecure."
        ),
    ] = "0.0.0.0:5693",
    trace: TraceOption = _TRACE,
    step_timeout: Annotated[
        float,
        typer.Option("--step-timeout", metavar="S", min=1, max=600, help="How long a device may take for a step."),
    ] = 93.0,
    most_runs: Annotated[
        int, typer.Option("--most-runs", metavar="N", min=1, max=10000, help="Devices at once; others come again.")
    ] = 200,
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", metavar="GW", parser=gateway_id, help="Beside which gateway it is, for its metrics."),
    ] = None,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """Run a bootstrap server: a device that asks it gets its servers, with a key made for it alone.

    The key is in the store of the server (the one of headwater gateway --credentials) before the device has it. What it
    had before is good until it said that it is done. A device may only be bootstrapped under the names that its key or
    certificate for this server is for; with certificates it needs --coaps-cert and --coaps-key, as a gateway does.

    \b
    Examples:
    headwater credentials add 'press-*' --psk --identity factory --store bootstrap-keys.db > factory.key
    headwater bootstrap serve bootstrap.yaml --credentials bootstrap-keys.db
    headwater bootstrap serve bootstrap.yaml --credentials keys.db --coaps-cert bootstrap.pem --coaps-key bootstrap.key
    headwater bootstrap log press-7
    \b
    bootstrap.yaml:
    default:
      servers:
        - uri: coaps://gateway.example:5684
          short_id: 123
          security: psk
          store: .headwater/credentials.db
    """
    from gateway.bootstrap.settings import BootstrapSettings
    from security.credentials.opening import place_of

    if credentials is None and make_credentials:
        raise Stop(Exit.USAGE, "--make-credentials: say which file with --credentials FILE")
    if credentials is None and not insecure:
        raise Stop(
            Exit.USAGE,
            "say with which keys or certificates devices are bootstrapped: headwater credentials add ENDPOINT --psk "
            "--store FILE, and --credentials FILE here; or --insecure, in the network of a factory",
        )
    settings = BootstrapSettings(
        config=_load(file),
        coap=_pair(coap) if insecure else None,
        coaps=_pair(coaps),
        credentials=None if credentials is None else place_of(credentials),
        make_credentials=make_credentials,
        coaps_certificate=own.files(credentials),
        state=trace,
        step_timeout=step_timeout,
        most_runs=most_runs,
        gateway=gateway,
        metrics_host=metrics_host,
        metrics_port=metrics,
        metrics_keys=metrics_keys,
    )
    lean.start(lean.Process.BOOTSTRAP, settings)


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _load(path: Path) -> ConfigFile:
    try:
        from gateway.bootstrap.config_file import ConfigFile
        from gateway.bootstrap.yaml_tree import ConfigError
    except ModuleNotFoundError as exc:
        if exc.name != "yaml":
            raise
        raise Stop(Exit.CANNOT_START, "headwater bootstrap needs PyYAML: pip install 'headwater[bootstrap]'") from exc
    try:
        return ConfigFile(path)
    except ConfigError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc


def check(
    file: ConfigArgument,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="EP", parser=endpoint_name, help="Show what this device would get."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a configuration, and show what devices would get. It makes no key and changes nothing.

    An error says the line and the column. A device takes the profile of its very name, else of the first pattern that
    it fits, else the default; without one it is refused.

    \b
    Examples:
    headwater bootstrap check bootstrap.yaml
    headwater bootstrap check bootstrap.yaml --endpoint press-7 --endpoint lamp-1
    """
    from headwater.output import console, print_json, table

    loaded = _load(file).now
    chosen: list[tuple[str | None, Profile | None]] = (
        [(ep, loaded.of(ep)) for ep in endpoint] if endpoint else [(None, profile) for profile in loaded.profiles]
    )
    if output is Output.JSON:
        print_json([profile_json(ep, profile) for ep, profile in chosen])
    else:
        rows = [row for ep, profile in chosen for row in profile_rows(ep, profile)]
        console().print(table(("endpoint", "profile", "server", "gets"), rows))
    if any(profile is None for _, profile in chosen):
        raise typer.Exit(Exit.REFUSED)


def log(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="[EP]", parser=endpoint_name, help="Only the runs of this device.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=20000, help="The newest N runs.")] = 20,
    trace: TraceOption = _TRACE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what became of bootstrap runs: when, from where, each step, what the device answered, why it failed.

    There is no key in it. Of a device the last 20 runs are kept, of all 20,000.

    \b
    Examples:
    headwater bootstrap log press-7
    headwater bootstrap log --output json | jq '.[] | select(.outcome == "failed")'
    """
    from gateway.bootstrap.store_file import BootstrapFile, BootstrapFileError
    from gateway.bootstrap.trace import Trace
    from headwater.output import print_json

    try:
        kept = BootstrapFile(trace)
        try:
            runs = Trace(kept, lambda: 0).runs(endpoint, limit)
        finally:
            kept.close()
    except BootstrapFileError as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    if output is Output.JSON:
        print_json([run_json(one) for one in runs])
        return
    for one in reversed(runs):
        print_run(one)
    if not runs:
        typer.echo("no run" if endpoint is None else f"no run of {endpoint}")
