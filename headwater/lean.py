"""A gateway, a replicator, a bootstrap server or who carries out campaigns, having let go of its command line, for
machines with little memory.

Owns the change over: with ``HEADWATER_LEAN=1`` (as the image sets it) a process that the command has read and checked
the settings of begins anew under the same process id, with nothing loaded but what it runs. What only a command line
needs (typer, pydantic, the look at certificates) is a third of what such a process holds, and Python gives no module
back. The settings go through a file in memory that nobody else can open by a name. Knows no option.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from headwater.exits import Exit, Stop, expected
from headwater.terminal import printable

if TYPE_CHECKING:
    from cloud.campaigns.service import CampaignSettings
    from connectors.replicator import ReplicatorSettings
    from gateway.bootstrap.settings import BootstrapSettings
    from gateway.settings import GatewaySettings
    from gateway.several.seat import Seat

#: "1": begin anew.
LEAN: Final = "HEADWATER_LEAN"
#: The number of the open file with the settings, for the one that begins anew.
HANDED: Final = "HEADWATER_LEAN_SETTINGS"


class Process(Enum):
    """What runs."""

    GATEWAY = "gateway"
    #: One of several processes of a gateway (`headwater.several`); its settings are those and its seat.
    GATEWAY_PART = "gateway part"
    REPLICATOR = "replicator"
    BOOTSTRAP = "bootstrap"
    CAMPAIGNS = "campaigns"


def start(
    process: Process, settings: GatewaySettings | ReplicatorSettings | BootstrapSettings | CampaignSettings
) -> None:
    """Run it until it is told to stop, in this process or, with `LEAN`, in what this process becomes.

    Raises:
        Stop: it cannot start, or may not go on.
    """
    if os.environ.get(LEAN) == "1" and hasattr(os, "memfd_create"):
        _begin_anew(process, settings)
    _RUN[process](settings)


def handed(process: Process, settings: object) -> int:
    """The number of an open file that has the settings, for the one that begins anew with `HANDED`."""
    # Without MFD_CLOEXEC: it is for the program after this one.
    file = os.memfd_create("headwater-settings", 0)
    with open(file, "wb", closefd=False) as written:
        pickle.dump((process, settings, logging.getLogger().level), written)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _begin_anew(process: Process, settings: object) -> None:
    file = handed(process, settings)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: the folder in which it stands, which may be its state's, is no place for modules.
    words = [sys.executable, "-P", "-m", "headwater.lean", *sys.argv[1:]]
    os.execve(sys.executable, words, {**os.environ, HANDED: str(file)})


def _gateway(settings: GatewaySettings) -> None:
    from gateway.state_file import StateError
    from headwater.running import run_thread_until_stopped, run_until_stopped
    from security.errors import CredentialStoreError

    try:
        if settings.processes > 1:
            from headwater import several

            run_thread_until_stopped(lambda stop: several.run(settings, stop))
        else:
            if (settings.state / "processes").exists() or any(settings.state.glob("ready-for-*")):
                _gather(settings)
            from gateway.server import run

            run_until_stopped(lambda stop: run(settings, stop))
    except StateError as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    except CredentialStoreError as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    except OSError as exc:
        coap = f"CoAP at {_written(*settings.coap)}, " if settings.insecure or settings.credentials is not None else ""
        coaps = "" if settings.credentials is None else f"CoAP over DTLS at {_written(*settings.coaps)}, "
        raise Stop(
            Exit.CANNOT_START,
            f"the gateway cannot start: {exc.strerror or exc} ({coap}{coaps}metrics at "
            f"{settings.metrics_host}:{settings.metrics_port}); if a port is taken, choose others with --coap, --coaps "
            "and --metrics",
        ) from exc


def _gather(settings: GatewaySettings) -> None:
    """The state of several processes, for one."""
    from threading import Event

    from gateway.several.carrying import carry_over
    from headwater.several import locked

    lock = locked(settings.state, Event())
    try:
        carry_over(settings.state, 1)
    finally:
        os.close(lock)


def _gateway_part(given: tuple[GatewaySettings, Seat]) -> None:
    from gateway.server import run
    from gateway.state import StateError
    from headwater.running import run_until_stopped
    from security.errors import CredentialStoreError

    settings, seat = given
    try:
        run_until_stopped(lambda stop: run(settings, stop, seat))
    except (StateError, CredentialStoreError) as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _replicator(settings: ReplicatorSettings) -> None:
    from connectors.replicator import Fenced, SameCluster, run
    from headwater.running import run_thread_until_stopped

    try:
        run_thread_until_stopped(lambda stop: run(settings, stop))
    except Fenced as exc:
        raise Stop(Exit.REFUSED, str(exc)) from exc
    except SameCluster as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc


def _bootstrap(settings: BootstrapSettings) -> None:
    from gateway.bootstrap.server import run
    from gateway.bootstrap.store_file import BootstrapFileError
    from headwater.running import run_until_stopped

    try:
        run_until_stopped(lambda stop: run(settings, stop))
    except BootstrapFileError as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    except OSError as exc:
        raise Stop(
            Exit.CANNOT_START,
            f"the bootstrap server cannot start: {exc.strerror or exc}; if a port is taken, choose others with --coap, "
            "--coaps and --metrics",
        ) from exc


def _campaigns(settings: CampaignSettings) -> None:
    from cloud.campaigns.service import run
    from cloud.campaigns.worker import TakenOver
    from headwater.running import run_thread_until_stopped

    try:
        run_thread_until_stopped(lambda stop: run(settings, stop))
    except TakenOver as exc:
        raise Stop(Exit.REFUSED, str(exc)) from exc


_RUN: dict[Process, Callable[..., None]] = {
    Process.GATEWAY: _gateway,
    Process.GATEWAY_PART: _gateway_part,
    Process.REPLICATOR: _replicator,
    Process.BOOTSTRAP: _bootstrap,
    Process.CAMPAIGNS: _campaigns,
}


def main() -> int:
    """What this process goes on with after it began anew; the exit code."""
    from headwater.log_level import LogLevel
    from headwater.logs import set_up

    # This process wrote it itself, a moment ago.
    with os.fdopen(int(os.environ.pop(HANDED)), "rb") as handed:
        process, settings, level = pickle.load(handed)
    set_up(next(one for one in LogLevel if one.number == level))
    try:
        _RUN[process](settings)
    except KeyboardInterrupt:
        return _complained(Exit.INTERRUPTED, "interrupted")
    except Exception as exc:  # noqa: BLE001  the last one who can tell of it
        known = expected(exc)
        if known is None:
            traceback.print_exc()
            return _complained(Exit.BUG, f"{type(exc).__name__}: {exc}\nThis is a bug in headwater.")
        return _complained(*known)
    return Exit.OK


def _complained(code: Exit, words: str) -> int:
    sys.stderr.write("error: " + printable(words, keep="\n\t") + "\n")
    return code


if __name__ == "__main__":
    # The settings name the kinds of processes by this module's own name, not as `__main__`.
    from headwater import lean

    sys.exit(lean.main())
