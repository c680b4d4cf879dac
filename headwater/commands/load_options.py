"""The options that every kind of `headwater load` has, and what they come to: a plan, and the Kafka that is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.exits import Exit, Stop
from headwater.options import (
    CLOUD,
    KafkaOption,
    KafkaTlsOption,
    LifetimeOption,
    endpoint_name,
    gateway_id,
    lwm2m_path,
)

if TYPE_CHECKING:
    from gateway.devices.load.plan import Plan, Share
    from headwater.load_run import Auditing, Written
    from schemas.lwm2m.path import Path as LwPath

_RESULTS = "Results"
_KAFKA = "Kafka, for answer and --audit"


def _result(flag: str, metavar: str | None, words: str, **bounds: Any) -> Any:
    return typer.Option(flag, metavar=metavar, help=words, rich_help_panel=_RESULTS, **bounds)


def _kafka(flag: str, metavar: str | None, words: str, **more: Any) -> Any:
    return typer.Option(flag, metavar=metavar, help=words, rich_help_panel=_KAFKA, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How many devices, how often, and what is written; as `Plan` has it, ``delay`` in milliseconds."""

    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=1, max=100_000, help="Virtual devices: threads, for JMeter.")
    ] = 1
    ramp_up: Annotated[
        float, typer.Option("--ramp-up", metavar="S", min=0, max=86400, help="Seconds until all of them are started.")
    ] = 1.0
    loops: Annotated[
        int | None,
        typer.Option(
            "--loops", metavar="N", min=0, help="What each does so often; 0: for ever. 1, and with --duration for ever."
        ),
    ] = None
    duration: Annotated[
        float | None, typer.Option("--duration", metavar="S", min=0.1, help="End after so many seconds.")
    ] = None
    delay: Annotated[
        int, typer.Option("--delay", metavar="MS", min=0, max=86_400_000, help="Pause of a thread between two samples.")
    ] = 0
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint", metavar="NAME", parser=endpoint_name, help="The devices are NAME-1, NAME-2, …; one is NAME."
        ),
    ] = "load"
    path: Annotated[
        str,
        typer.Option("--path", metavar="PATH", parser=lwm2m_path, help="The resource that is told and read, a float."),
    ] = "/3303/0/5700"
    lifetime: LifetimeOption = 86_400
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="S", min=0.1, max=86400, help="Seconds that the gateway has to observe, or to reply."
        ),
    ] = 30.0
    keep: Annotated[bool, typer.Option("--keep", help="Leave the devices registered at the end.")] = False
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Repeat the kinds of a mix and the random times of a run.")
    ] = None
    jtl: Annotated[Path | None, _result("--jtl", "FILE", "Write each sample there, as JMeter does.")] = None
    report: Annotated[Path | None, _result("--report", "FILE", "Write an HTML page there, with plots of it all.")] = (
        None
    )
    overwrite: Annotated[bool, _result("--overwrite", None, "Replace --jtl and --report if they are there.")] = False
    summary: Annotated[int, _result("--summary", "S", "Seconds between summary lines.", min=1, max=3600)] = 30
    max_errors: Annotated[
        float, _result("--max-errors", "PERCENT", "Where more fail the exit code is 1.", min=0, max=100)
    ] = 0.0
    audit: Annotated[bool, _kafka("--audit", None, "Look for each acknowledged value in the observations topic.")] = (
        False
    )
    audit_patience: Annotated[
        float,
        _kafka("--audit-patience", "S", "Seconds without a missing value until it counts as lost.", min=1, max=86400),
    ] = 30.0
    gateway: Annotated[
        str | None, _kafka("--gateway", "GW", "The gateway's id, as in its topics' names.", parser=gateway_id)
    ] = None
    kafka: KafkaOption = CLOUD
    kafka_tls: KafkaTlsOption = None

    def plan(self, shares: tuple[Share, ...]) -> Plan:
        """What is to be done. Raises Stop: the options do not go together."""
        from gateway.devices.fleet import names
        from gateway.devices.load.plan import Plan

        plan = Plan(
            endpoints=tuple(names(self.endpoint, self.threads)),
            shares=shares,
            ramp_up=self.ramp_up,
            loops=self.loops if self.loops is not None else 1 if self.duration is None else 0,
            duration=self.duration,
            lifetime=self.lifetime,
            path=_float_path(self.path),
            keep=self.keep,
            patience=self.timeout,
        )
        if self.gateway is None and (plan.read or self.audit):
            raise Stop(
                Exit.USAGE,
                f"{'--audit' if self.audit else 'answer'} goes by way of Kafka; say which gateway's with --gateway GW, "
                "and where with --kafka HOST:PORT",
            )
        if self.audit and not plan.tells:
            raise Stop(Exit.USAGE, "--audit looks for values, and only notify and send (or a mix with them) tell some")
        return plan

    @property
    def auditing(self) -> Auditing | None:
        """What to audit, if anything. Raises Stop: the identity cannot be used."""
        from headwater.load_run import Auditing
        from headwater.reach import cluster

        if self.gateway is None or not self.audit:
            return None
        return Auditing(cluster=cluster(self.kafka, self.kafka_tls), gateway=self.gateway, patience=self.audit_patience)

    @property
    def written(self) -> Written:
        from headwater.load_run import Written

        return Written(jtl=self.jtl, report=self.report, overwrite=self.overwrite)


def profile_shares(profile: Path, delay: int) -> tuple[Share, ...]:
    """The shares of a mixed load. Raises Stop: the file cannot be read, or is wrong."""
    from gateway.devices.load.plan import parse_profile

    try:
        text = profile.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Stop(Exit.USAGE, f"{profile} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    try:
        return parse_profile(text, str(profile), delay)
    except ModuleNotFoundError as exc:
        if exc.name != "yaml":
            raise
        raise Stop(Exit.CANNOT_START, "a profile is YAML, which Python reads with PyYAML: pip install pyyaml") from exc
    except ValueError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc


def _float_path(text: str) -> LwPath:
    """The path. Raises Stop: no definition has a single floating-point number there."""
    from schemas.lwm2m.nodes import ResourceType
    from schemas.lwm2m.objects import Definitions
    from schemas.lwm2m.path import Path as LwPath

    path = LwPath.parse(text)
    definition = Definitions.builtin().resource(path) if path.depth == 3 else None
    if definition is None or definition.type is not ResourceType.FLOAT or definition.multiple:
        raise Stop(
            Exit.USAGE, f"--path {text}: a resource with one floating-point number is needed, such as /3303/0/5700"
        )
    return path
