"""How ``headwater bootstrap`` shows profiles and runs: as JSON, and for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from gateway.bootstrap.profile import Profile
    from gateway.bootstrap.trace import TracedRun


def profile_json(ep: str | None, profile: Profile | None) -> dict[str, Any]:
    """What an endpoint, or whoever has this profile, would get; None: it is refused."""
    shown: dict[str, Any] = {} if ep is None else {"endpoint": ep}
    if profile is None:
        return {**shown, "profile": None}
    return {
        **shown,
        "profile": profile.name,
        "delete": [str(path) for path in profile.delete],
        "read": [str(path) for path in profile.read],
        "discover": profile.discover,
        "servers": [
            {
                "uri": one.uri,
                "shortId": one.short_id,
                "security": one.mode.value,
                "store": None if one.store is None else str(one.store),
                "lifetime": one.lifetime,
                "binding": one.binding,
            }
            for one in profile.accounts
        ],
        "acl": [
            {
                "object": one.object_id,
                "instance": one.instance_id,
                "owner": one.owner,
                "rights": {str(server): right.value for server, right in one.rights.items()},
            }
            for one in profile.acls
        ],
    }


def profile_rows(ep: str | None, profile: Profile | None) -> list[tuple[str, str, str, str]]:
    """The same for people: endpoint, profile, server, what it gets."""
    if profile is None:
        return [(ep or "", "none", "", "it is refused: no profile fits, and there is no default")]
    rows = [
        (
            ep or "",
            profile.name,
            one.uri,
            f"short id {one.short_id}, lifetime {one.lifetime} s, {one.binding}; "
            + ("no security" if one.store is None else f"a fresh {one.mode.value} credential, in {one.store}"),
        )
        for one in profile.accounts
    ]
    rows.append((ep or "", profile.name, "", f"deleted first: {', '.join(map(str, profile.delete)) or 'nothing'}"))
    if profile.acls:
        rows.append((ep or "", profile.name, "", f"{len(profile.acls)} access control instances"))
    return rows


def run_json(run: TracedRun) -> dict[str, Any]:
    """A run with its steps; times are epoch milliseconds."""
    return {
        "run": run.number,
        "endpoint": run.ep,
        "address": run.address,
        "identity": run.identity,
        "profile": run.profile or None,
        "began": run.began_ms,
        "ended": run.ended_ms,
        "outcome": run.outcome.value,
        "why": run.why or None,
        "steps": [{"at": one.at_ms, "step": one.step, "answer": one.answer} for one in run.steps],
    }


def print_run(run: TracedRun) -> None:
    """The same for people; the time of a step is in seconds from the beginning."""
    from headwater.output import console, table
    from headwater.terminal import printable

    began = datetime.fromtimestamp(run.began_ms / 1000, UTC)
    who = "in the clear" if run.identity is None else f"as {run.identity}"
    rows = [(f"{(one.at_ms - run.began_ms) / 1000:.3f}", one.step, one.answer) for one in run.steps]
    why = f": {run.why}" if run.why else ""
    rows.append(("", run.outcome.value + why, ""))
    title = f"{run.ep} from {run.address} {who}, {began:%Y-%m-%d %H:%M:%S} UTC, profile {run.profile or 'none'}"
    typer.echo(printable(title))
    console().print(table(("s", "step", "answer"), rows))
