"""``headwater acl``: who may do what on a Kafka, by our table and by what stands there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater import reach
from headwater.commands.base import command
from headwater.exits import Exit, Stop
from headwater.options import CLOUD, KafkaOption, KafkaTlsOption, Output, OutputOption, gateway_id

if TYPE_CHECKING:
    from connectors.access import Plan
    from security.access_file import Access
    from security.acls import Binding, Cluster, Side
    from security.identities import Identity


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    acl = typer.Typer(help="Who may do what on a Kafka with access control.", no_args_is_help=True)
    for name, function in (("rights", rights), ("show", show), ("plan", plan), ("apply", apply)):
        command(acl, name, group="acl")(function)
    app.add_typer(acl, name="acl", rich_help_panel="Kafka")


def _side(text: str) -> str:
    if text not in ("edge", "cloud"):
        raise typer.BadParameter(f"{text!r} is neither edge nor cloud")
    return text


SideOption = Annotated[
    str,
    typer.Option("--side", metavar="edge|cloud", parser=_side, help="Which Kafka it is: a gateway's, or the cloud's."),
]
GatewaysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gateway", metavar="GW", parser=gateway_id, help="A gateway whose topics are there; the edge's one."
    ),
]
AccessOption = Annotated[
    Path | None,
    typer.Option(
        "--access", metavar="FILE", help="TOML: gateways, identities, revoked, and [users.NAME] see, command."
    ),
]
PkiOption = Annotated[
    Path | None,
    typer.Option(
        "--pki",
        metavar="DIR",
        help="The authority's folder: who has a certificate, in which generation, who is revoked.",
    ),
]
SeeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--see", metavar="USER=GW,…", help="A person who may see all that devices of these gateways say; * all."
    ),
]
CommandOption = Annotated[
    list[str] | None,
    typer.Option("--command", metavar="USER=GW,…", help="A person who may send requests there, and see the rest."),
]
IdentityOption = Annotated[
    list[str] | None,
    typer.Option("--identity", metavar="ROLE:NAME[:N]", help="One beside the usual, or in a later generation."),
]
RevokedOption = Annotated[
    list[str] | None,
    typer.Option("--revoked", metavar="ROLE:NAME[:N]", help="One that shall have no right, whatever else is bound."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What should stand on a Kafka."""

    side: SideOption
    gateway: GatewaysOption = None
    access: AccessOption = None
    pki: PkiOption = None
    see: SeeOption = None
    command: CommandOption = None
    identity: IdentityOption = None
    revoked: RevokedOption = None


def rights(
    who: Annotated[str, typer.Argument(metavar="ROLE:NAME", help="An identity, such as gateway:rock64.")],
    wanted: Wanted,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what an identity may do by the table; no Kafka is asked.

    For one of a gateway the gateway need not be said.

    \b
    Examples:
    headwater acl rights replicator:rock64 --side cloud
    headwater acl rights user:anna --side cloud --gateway rock64 --command anna=rock64
    """
    from headwater.output import print_json
    from security import acls
    from security.identities import OF_GATEWAY, Identity

    identity = Identity.parse(who)
    _, _, cluster = _facts(wanted, {identity.name} if identity.role in OF_GATEWAY else set())
    found = acls.bindings([identity], [], cluster)
    if output is Output.JSON:
        print_json(_as_json(found))
    elif not found:
        typer.echo(f"{identity} may do nothing on the {cluster.side.value}'s Kafka{_super(identity, cluster.side)}")
    else:
        _print_bindings(found)


def show(
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what stands on a Kafka: of our identities, and of strangers.

    \b
    Examples:
    headwater acl show --kafka cloud:9092 --kafka-tls .headwater/pki/issued/admin+fleet
    """
    from connectors.access import is_ours
    from connectors.broker_admin import stored_bindings
    from headwater.output import console, print_json, table

    found = stored_bindings(reach.cluster(kafka, kafka_tls))
    if output is Output.JSON:
        print_json(
            [
                {
                    "principal": one.principal,
                    "ours": is_ours(one.principal),
                    "host": one.host,
                    "decision": one.decision,
                    "resource": one.resource,
                    "name": one.name,
                    "pattern": one.pattern,
                    "operation": one.operation,
                }
                for one in found
            ]
        )
        return
    together: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        whose = one.principal if is_ours(one.principal) else f"{one.principal} (a stranger)"
        name = one.name + ("…" if one.pattern == "prefixed" else "")
        together.setdefault((whose, one.decision, one.resource, name), []).append(one.operation)
    rows = [(*key, ", ".join(sorted(operations))) for key, operations in sorted(together.items())]
    console().print(table(("principal", "", "resource", "name", "operations"), rows))


def plan(
    wanted: Wanted,
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what `apply` would add and take away; exit code 1 if that is anything.

    \b
    Examples:
    headwater acl plan --side edge --gateway rock64 --kafka edge:9082 --kafka-tls DIR
    """
    found = _planned(wanted, kafka, kafka_tls)
    _print_plan(found, output)
    if found.changes:
        raise typer.Exit(Exit.REFUSED)


def apply(
    wanted: Wanted,
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a Kafka's access control lists what the table says; a second time changes nothing.

    Everything of our identities that is not wanted is taken away; what strangers have is left.

    \b
    Examples:
    headwater acl apply --side edge --gateway rock64 --kafka edge:9082 --kafka-tls DIR
    headwater acl apply --side cloud --gateway rock64 --gateway pi3 --command anna=rock64 --see 'bob=*' --kafka-tls DIR
    headwater acl apply --side cloud --access access.toml --pki .headwater/pki --kafka-tls DIR
    """
    from connectors import access

    found = _planned(wanted, kafka, kafka_tls)
    access.apply(reach.cluster(kafka, kafka_tls), found)
    _print_plan(found, output)


def _planned(wanted: Wanted, kafka: str, kafka_tls: Path | None) -> Plan:
    from connectors import access
    from security import acls

    allowed, denied, cluster = _facts(wanted, set())
    return access.plan(reach.cluster(kafka, kafka_tls), acls.bindings(allowed, denied, cluster))


def _facts(wanted: Wanted, also: set[str]) -> tuple[frozenset[Identity], frozenset[Identity], Cluster]:
    """Who gets rights, who none, and where; ``also``: gateways that need not be said.

    Raises:
        Stop: what was said makes no sense together.
    """
    from security import acls
    from security.access_file import Access, AccessFileError, in_force, user_rights
    from security.identities import ALL_GATEWAYS, Identity, Role

    told = _read(wanted.access)
    side = acls.Side(wanted.side)
    try:
        users = dict(told.users)
        for name, see, may in [*_people(wanted.see, False), *_people(wanted.command, True)]:
            Identity(Role.USER, name)
            before = users.get(name, acls.UserRights())
            more = user_rights(() if may else see, see if may else ())
            users[name] = acls.UserRights(see=before.see | more.see, command=before.command | more.command)
        named = Access(
            identities=told.identities | {Identity.parse(one) for one in wanted.identity or ()},
            revoked=told.revoked | {Identity.parse(one) for one in wanted.revoked or ()},
        )
    except AccessFileError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc
    gateways = tuple(wanted.gateway or ()) or (told.gateways if side is acls.Side.CLOUD else ())
    gateways = gateways or tuple(also - {ALL_GATEWAYS})
    if side is acls.Side.EDGE and len(gateways) != 1:
        raise Stop(Exit.USAGE, "an edge's Kafka is one gateway's: say which with one --gateway")
    if not gateways:
        raise Stop(Exit.USAGE, "no gateway: say whose topics are there with --gateway, or in the file of --access")
    cluster = acls.Cluster(side=side, gateways=tuple(dict.fromkeys(gateways)), users=users)
    usual = acls.usual_identities(cluster)
    if wanted.pki is not None:
        usual, named = _recorded(wanted.pki, named)
    allowed, denied = in_force(usual, named)
    # A gateway's identities have nothing on another's edge, and need no word there.
    return frozenset(one for one in allowed if acls.rights(one, cluster)), denied, cluster


def _recorded(pki: Path, named: Access) -> tuple[frozenset[Identity], Access]:
    """Those who have a certificate that counts, and who is revoked, as the authority wrote it down."""
    from dataclasses import replace

    from security.record import FILE, from_text

    file = pki / FILE
    try:
        record = from_text(file.read_text("utf-8"), file)
    except OSError as exc:
        raise Stop(Exit.USAGE, f"--pki {pki}: {file.name}: {exc.strerror}; is it the authority's folder?") from exc
    revoked = {one.identity for one in record.revoked}
    issued = {one.identity for one in record.issued} - revoked
    return frozenset(issued), replace(named, revoked=named.revoked | revoked)


def _read(file: Path | None) -> Access:
    from security.access_file import Access, AccessFileError, parse_access

    if file is None:
        return Access()
    try:
        return parse_access(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, AccessFileError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise Stop(Exit.USAGE, f"--access {file}: {why}") from exc


def _people(given: list[str] | None, may_command: bool) -> list[tuple[str, list[str], bool]]:
    found = []
    for one in given or ():
        name, equals, gateways = one.partition("=")
        if not equals or not name or not gateways:
            flag = "--command" if may_command else "--see"
            raise typer.BadParameter(f"{flag} {one!r}: USER=GW[,GW] is expected, such as anna=rock64,pi3 or anna=*")
        found.append((name, gateways.split(","), may_command))
    return found


def _super(identity: Identity, side: Side) -> str:
    from security.identities import Role

    if identity.role is Role.ADMIN:
        return ", or everything where it is among the broker's super.users, as admin:fleet is"
    if identity.role is Role.BROKER:
        return " but its own, where it may do everything"
    if identity.role is Role.USER:
        return ", as far as is said here: what people may is said with --see, --command or --access, as to apply"
    return ""


def _as_json(bindings: Iterable[Binding]) -> list[dict[str, str]]:
    from connectors.access import order

    return [
        {
            "principal": one.principal,
            "decision": one.decision.value,
            "resource": one.grant.resource.value,
            "name": one.grant.name,
            "pattern": one.grant.pattern.value,
            "operation": one.grant.operation.value,
        }
        for one in sorted(bindings, key=order)
    ]


def _print_bindings(bindings: Iterable[Binding]) -> None:
    from headwater.output import console, table

    together: dict[tuple[str, str], list[str]] = {}
    for one in _as_json(bindings):
        name = one["name"] + ("…" if one["pattern"] == "prefixed" else "")
        together.setdefault((one["resource"], name), []).append(one["operation"])
    console().print(
        table(("resource", "name", "operations"), [(*key, ", ".join(found)) for key, found in sorted(together.items())])
    )


def _print_plan(found: Plan, output: Output) -> None:
    from headwater.output import print_json

    gone = [
        {
            "principal": one.principal,
            "decision": one.decision,
            "resource": one.resource,
            "name": one.name,
            "pattern": one.pattern,
            "operation": one.operation,
        }
        for one in found.superfluous
    ]
    added = _as_json(found.missing)
    strangers = sorted({one.principal for one in found.strangers})
    if output is Output.JSON:
        print_json({"added": added, "removed": gone, "kept": found.kept, "strangers": strangers})
        return
    for sign, rows in (("+", added), ("-", gone)):
        for row in rows:
            dots = "…" if row["pattern"] == "prefixed" else ""
            typer.echo(
                f"{sign} {row['decision']:5} {row['principal']:32} {row['operation']:16} {row['resource']} "
                f"{row['name']}{dots}"
            )
    typer.echo(f"{len(added)} to add, {len(gone)} to take away, {found.kept} as they should be")
    if strangers:
        typer.echo(f"left as they are, as they are nobody's here: {', '.join(strangers)}")
