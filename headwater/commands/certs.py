"""``headwater certs``: the authority of a fleet, and the certificates of its brokers, processes and people."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import command, complain
from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption, address

if TYPE_CHECKING:
    from security.authority import Outcome
    from security.identities import Identity

DIRECTORY = Path(".headwater/pki")


class Kind(Enum):
    """For whom certificates are made."""

    CA = "ca"
    CLOUD = "cloud"
    EDGE = "edge"
    CLIENT = "client"


class RotationStep(Enum):
    """`security.authority.Step` as people type it; its own class so that the help loads no cryptography."""

    BEGIN = "begin"
    SIGN = "sign"
    FINISH = "finish"


DirOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The authority's folder.")]
SanOption = Annotated[
    list[str] | None,
    typer.Option(
        "--san", metavar="NAME", help="One more host name or IP address under which the broker is reached; repeatable."
    ),
]
DaysOption = Annotated[
    int, typer.Option("--days", metavar="N", min=1, max=3650, help="How long the new certificates hold.")
]
CaDaysOption = Annotated[
    int, typer.Option("--ca-days", metavar="N", min=1, max=36500, help="How long a new authority holds.")
]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    certs = typer.Typer(help="Certificates of the fleet: one authority, an identity each.", no_args_is_help=True)
    for name, function in (
        ("create", create),
        ("renew", renew),
        ("show", show),
        ("revoke", revoke),
        ("rotate-ca", rotate),
    ):
        command(certs, name, group="certs")(function)
    app.add_typer(certs, name="certs", rich_help_panel="Security")


def create(
    kind: Annotated[Kind, typer.Argument(help="ca: the authority alone; cloud, edge GW: all that one has; client.")],
    name: Annotated[
        str | None, typer.Argument(metavar="[GW|ROLE:NAME]", help="The gateway's id; the client's identity.")
    ] = None,
    san: SanOption = None,
    days: DaysOption = 397,
    ca_days: CaDaysOption = 3650,
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make certificates: for the cloud (and the authority, if there is none), an edge, or one client.

    cloud has broker:cloud, admin:fleet and monitor:fleet; edge GW has gateway:GW, broker:GW and replicator:GW. A client
    is sink:GW (or 'sink:*' for all gateways), analytics:GW, campaigns:GW, user:NAME, monitor:NAME or admin:NAME. Each
    gets a folder with ca.pem, cert.pem, key.pem and keystore.pem. Whoever has certificates keeps them: twice is once.

    \b
    Examples:
    headwater certs create cloud --san kafka.example.org
    headwater certs create edge rock64
    headwater certs create client user:anna
    headwater certs create client 'sink:*' --dir ~/fleet/pki
    """
    from security.authority import Authority, Done
    from security.certificates import check_name
    from security.fleet import default_names
    from security.identities import Role

    identities = _of_kind(kind, name)
    brokers = [one for one in identities if one.role is Role.BROKER]
    if san and not brokers:
        raise typer.BadParameter("only the brokers of a cloud or an edge are reached by names", param_hint="--san")
    # What is asked wrongly makes nothing: neither an authority, nor the half of an edge.
    for one in san or ():
        check_name(one)
    authority = Authority(directory)
    if kind is Kind.CLOUD and days >= ca_days and not authority.folder.exists():
        raise typer.BadParameter(f"certificates of {days} days outlive an authority of {ca_days}", param_hint="--days")
    made = kind in (Kind.CA, Kind.CLOUD) and authority.create(days=ca_days) is Done.CREATED
    outcomes = [
        authority.ensure(one, names=(*default_names(one), *(san or ())) if one in brokers else (), days=days)
        for one in identities
    ]
    if output is Output.TABLE and kind in (Kind.CA, Kind.CLOUD):
        where = authority.folder.path
        typer.echo(
            f"made an authority in {where}; whoever has its key can be anybody: keep the folder safe, and backed up"
            if made
            else f"the authority in {where} is there already"
        )
    _tell(outcomes, output, authority=Done.CREATED if made else Done.KEPT)


def _of_kind(kind: Kind, name: str | None) -> tuple[Identity, ...]:
    from security.fleet import of_cloud, of_edge
    from security.identities import Identity, InvalidIdentity

    if kind in (Kind.CA, Kind.CLOUD):
        if name is not None:
            raise typer.BadParameter(f"{kind.value} takes no name behind it", param_hint="GW|ROLE:NAME")
        return of_cloud() if kind is Kind.CLOUD else ()
    if name is None:
        example = "edge rock64" if kind is Kind.EDGE else "client user:anna"
        raise typer.BadParameter(f"say which: headwater certs create {example}", param_hint="GW|ROLE:NAME")
    try:
        return of_edge(name) if kind is Kind.EDGE else (Identity.parse(name),)
    except InvalidIdentity as exc:
        raise typer.BadParameter(str(exc), param_hint="GW|ROLE:NAME") from exc


def renew(
    identities: Annotated[
        list[str] | None, typer.Argument(metavar="[ROLE:NAME]...", help="Whose; or --all.", show_default=False)
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody's who has one.")] = False,
    within: Annotated[
        int, typer.Option("--within", metavar="N", min=0, max=3650, help="Only if no more than N days are left.")
    ] = 30,
    force: Annotated[bool, typer.Option("--force", help="Now, however much is left.")] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="With another key.")] = False,
    san: SanOption = None,
    days: DaysOption = 397,
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make another certificate for the same identity, before the one that it has runs out.

    Both hold until the older one ends, so processes are restarted with the new one when it suits. --san adds a name,
    and renews at once. Nothing else but the certificate changes, and with --new-key the key.

    \b
    Examples:
    headwater certs renew --all
    headwater certs renew broker:cloud --san kafka.example.org
    headwater certs renew gateway:rock64 --new-key --force
    """
    from security.authority import NOW, Authority, Keys
    from security.errors import SecurityError

    if bool(identities) == everybody:
        raise typer.BadParameter("say whose, or --all (and not both)", param_hint="ROLE:NAME")
    authority = Authority(directory)
    chosen = authority.identities() if everybody else [_identity(one) for one in identities or ()]
    if everybody and san:
        raise typer.BadParameter("a name belongs to one broker, not to all", param_hint="--san")
    outcomes, errors = [], []
    for one in chosen:
        try:
            outcomes.append(
                authority.renew(
                    one,
                    within=NOW if force else timedelta(days=within),
                    keys=Keys.NEW if new_key else Keys.SAME,
                    names=san or (),
                    days=days,
                )
            )
        except SecurityError as exc:
            # One whose folder is damaged keeps nobody else from being renewed.
            errors.append(exc)
    if outcomes or not errors:
        _tell(outcomes, output)
    if errors:
        for error in errors[1:]:
            complain(str(error))
        raise errors[0]


def revoke(
    identity: Annotated[str, typer.Argument(metavar="ROLE:NAME", help="Whose certificates shall count no more.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Goes into the record.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Issue the next generation at once.")] = False,
    days: DaysOption = 397,
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give up an identity whose key is lost or stolen. It never gets a right again.

    Kafka reads no revocation list: the next one of this name is another principal, gateway:rock64:2, and headwater acl
    apply gives the rights to it and denies them to this one. A broker or an administrator is known to Kafka by its
    settings: those brokers must be started again with the new super users.

    \b
    Examples:
    headwater certs revoke gateway:rock64 --reason 'box stolen' --replace
    headwater certs revoke user:anna
    """
    from security.authority import Authority, Done
    from security.fleet import default_names
    from security.identities import Role

    authority = Authority(directory)
    outcome = authority.revoke(_identity(identity), reason=reason)
    current = authority.record().current(outcome.identity)
    outcomes = [outcome]
    if replace:
        names = tuple(dict.fromkeys((*default_names(current), *outcome.names)))
        outcomes.append(authority.ensure(current, names=names if current.role is Role.BROKER else (), days=days))
    if output is Output.TABLE:
        if outcome.done is Done.KEPT:
            typer.echo(f"{outcome.identity} was revoked before")
            if current in authority.identities():
                typer.echo(f"the one in use is {current}: headwater certs revoke {current}")
        else:
            typer.echo(f"revoked {outcome.identity}: its files are in {outcome.folder}")
            if not replace:
                typer.echo(f"headwater certs create makes {current} when it is asked for the same name again")
        if replace:
            typer.echo(f"{outcomes[1].done.value} {current}: its files are in {outcomes[1].folder}")
        typer.echo(f"now: headwater acl apply --pki {authority.folder.path} …, at every Kafka that knew it")
        if outcome.identity.role in (Role.BROKER, Role.ADMIN):
            typer.echo(
                f"it was a super user: start the brokers again with super users that name {current} and not "
                f"{outcome.identity}; until then it may still do everything"
            )
    else:
        _tell(outcomes, output)


def rotate(
    step: Annotated[RotationStep, typer.Argument(help="One after the other; the files go out in between.")],
    days: DaysOption = 397,
    ca_days: CaDaysOption = 3650,
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replace the authority itself, in three steps, without downtime.

    begin: a new authority, which every ca.pem names beside the old one. sign: the new one signs, and everybody's
    certificate is renewed by it. finish: the old one is trusted no more, and its key is deleted. After each step bring
    the folders to where they are used, and restart the processes one by one; only then comes the next step.

    \b
    Examples:
    headwater certs rotate-ca begin
    headwater certs rotate-ca sign
    headwater certs rotate-ca finish
    """
    from headwater.output import print_json
    from security.authority import Authority, Done, Step

    authority = Authority(directory)
    chosen = Step(step.value)
    done, outcomes = authority.rotate(chosen, days=ca_days, leaf_days=days)
    if output is Output.JSON:
        print_json(
            {"step": step.value, "changed": done is Done.CREATED, "certificates": [_plain(one) for one in outcomes]}
        )
        return
    following = {
        Step.BEGIN: "bring every ca.pem to where it is used and restart, then: headwater certs rotate-ca sign",
        Step.SIGN: "bring every folder to where it is used and restart, then: headwater certs rotate-ca finish",
        Step.FINISH: "bring every ca.pem to where it is used and restart; then nobody trusts the old authority",
    }
    said = {
        Step.BEGIN: ("a new authority is trusted beside the old one", "a rotation is under way already"),
        Step.SIGN: ("the new authority signs", "the new authority signs already"),
        Step.FINISH: ("the old authority is gone", "there is one authority, and no rotation under way"),
    }
    typer.echo(said[chosen][done is Done.KEPT])
    if outcomes:
        _tell(outcomes, output)
    if done is Done.CREATED or chosen is not Step.FINISH:
        typer.echo(following[chosen])


def show(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="An identity's folder or a PEM file; else all of the authority's."),
    ] = None,
    connect: Annotated[
        str | None,
        typer.Option("--connect", metavar="HOST:PORT", parser=address, help="What a server there presents."),
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option("--tls", metavar="DIR", help="With --connect: an identity, for who asks before he shows his."),
    ] = None,
    warn_days: Annotated[
        int, typer.Option("--warn-days", metavar="N", min=0, max=3650, help="Tell of those with less than N days left.")
    ] = 30,
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show certificates and the days that are left; exit code 1 if one has run out, or will within --warn-days.

    Those that were revoked are told and not counted. No key is ever shown.

    \b
    Examples:
    headwater certs show
    headwater certs show /run/secrets/kafka --warn-days 14
    headwater certs show --connect kafka.example.org:9092
    headwater certs show --output json | jq '.certificates[] | select(.daysLeft < 60)'
    """
    from headwater.commands.certs_shown import State, of_authority, of_path, of_server, print_table
    from headwater.output import print_json
    from security.authority_folder import utc_now

    if path is not None and connect is not None:
        raise typer.BadParameter("a path or --connect, not both", param_hint="--connect")
    if tls is not None and connect is None:
        raise typer.BadParameter("it goes with --connect", param_hint="--tls")
    now, warn = utc_now(), timedelta(days=warn_days)
    if connect is not None:
        rows = of_server(connect, tls, now, warn)
    elif path is not None:
        rows = of_path(path, now, warn)
    else:
        rows = of_authority(directory, now, warn)
    bad = [row for row in rows if row.state not in (State.OK, State.REVOKED)]
    if output is Output.JSON:
        print_json({"certificates": [row.plain() for row in rows], "ok": not bad})
    else:
        print_table(rows)
    if bad:
        complain("; ".join(row.words() for row in bad))
        raise typer.Exit(Exit.REFUSED)


def _identity(text: str) -> Identity:
    from security.identities import Identity, InvalidIdentity

    try:
        return Identity.parse(text)
    except InvalidIdentity as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc


def _tell(outcomes: list[Outcome], output: Output, **more: Any) -> None:
    from headwater.output import console, print_json, table

    if output is Output.JSON:
        found = {name: value.value for name, value in more.items()}
        print_json(found | {"certificates": [_plain(one) for one in outcomes]})
        return
    if outcomes:
        rows = [
            (one.identity.principal, one.done.value, f"{one.not_after:%Y-%m-%d}", " ".join(one.names), str(one.folder))
            for one in outcomes
        ]
        console().print(table(("identity", "", "until", "reached as", "folder"), rows))


def _plain(one: Outcome) -> dict[str, Any]:
    return {
        "identity": one.identity.principal,
        "role": one.identity.role.value,
        "name": one.identity.name,
        "generation": one.identity.generation,
        "done": one.done.value,
        "notAfter": round(one.not_after.timestamp() * 1000),
        "names": list(one.names),
        "folder": str(one.folder),
    }
