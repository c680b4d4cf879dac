"""``headwater health``: whether a process is well, for people and for a container's healthcheck."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.commands.base import command
from headwater.exits import Exit, Stop

PANEL = "Processes"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(app, "health", panel=PANEL)(health)


def health(
    metrics: Annotated[
        int, typer.Option("--metrics", metavar="PORT", min=1, max=65535, help="The metrics port of the process.")
    ] = 9590,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", metavar="HOST", help="Where it serves its metrics.")
    ] = "127.0.0.1",
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", min=0.1, max=60, help="Seconds to wait.")] = 4.0,
) -> None:
    """Ask a process whether it is well: /healthz of its metrics port. Exit code 0: it is; 1: it is not, or not there.

    \b
    Examples:
    headwater health
    headwater health --metrics 9591
    """
    from headwater.health import ask

    reason = ask(metrics_host, metrics, timeout)
    if reason is not None:
        raise Stop(Exit.REFUSED, reason)
