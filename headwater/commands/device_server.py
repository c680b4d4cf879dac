"""Where virtual devices find their server, in the clear, over DTLS or with OSCORE, and with which keys.

Owns the options and what they come to, shared by the commands that run such devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.exits import Exit, Stop
from headwater.options import address

if TYPE_CHECKING:
    from security.credentials.kinds import Oscore, Psk

CLEAR, SECURE = "coap://", "coaps://"
#: RFC 7252 section 12.6 and 12.7.
_PORTS = {CLEAR: 5683, SECURE: 5684}


def server_address(text: str) -> str:
    """HOST:PORT, or ``coap://`` or ``coaps://`` before it, as given; with either the port may be left out.

    Raises:
        typer.BadParameter: it is none of them.
    """
    scheme = next((one for one in _PORTS if text.startswith(one)), "")
    rest = text.removeprefix(scheme).removesuffix("/")
    if scheme and (rest.endswith("]") or ":" not in rest):
        rest = f"{rest}:{_PORTS[scheme]}"
    return scheme + address(rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceServer:
    """The server of virtual devices, and their keys if they have some."""

    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            parser=server_address,
            help="The gateway: coap://HOST:PORT, coaps://… for DTLS; else 127.0.0.1:5683, with a key 5684.",
        ),
    ] = None
    psk_file: Annotated[
        Path | None,
        typer.Option("--psk-file", metavar="FILE", help="Speak DTLS with the pre-shared key in FILE, in hex."),
    ] = None
    psk_identity: Annotated[
        str | None,
        typer.Option("--psk-identity", metavar="ID", help="The identity of that key; else the endpoint's name."),
    ] = None
    psk_list: Annotated[
        Path | None,
        typer.Option(
            "--psk-list", metavar="FILE", help="A key for each device, as `headwater credentials import` takes it."
        ),
    ] = None
    oscore_list: Annotated[
        Path | None,
        typer.Option(
            "--oscore-list", metavar="FILE", help="Speak OSCORE; a context for each device, as --psk-list has keys."
        ),
    ] = None

    @property
    def place(self) -> str:
        """HOST:PORT of the server. Raises Stop: keys and what ``server`` says do not go together."""
        server, secured = self.server, self.psk_file is not None or self.psk_list is not None
        if server is None:
            return f"127.0.0.1:{_PORTS[SECURE if secured else CLEAR]}"
        if secured and server.startswith(CLEAR):
            raise Stop(Exit.USAGE, f"--server {server} is in the clear and needs no key: for DTLS say {SECURE}…")
        if self.oscore_list is not None and server.startswith(SECURE):
            raise Stop(Exit.USAGE, f"--server {server} is for DTLS, and OSCORE needs none: say {CLEAR}…")
        if not secured and server.startswith(SECURE):
            raise Stop(
                Exit.USAGE,
                f"--server {server} takes a key: --psk-file FILE (headwater credentials add NAME --psk > FILE), or for "
                "many devices --psk-list FILE",
            )
        return server.removeprefix(CLEAR).removeprefix(SECURE)

    def keys(self, endpoints: Sequence[str]) -> Mapping[str, Psk | Oscore] | None:
        """The key of each endpoint, None for devices in the clear. Raises Stop, SecurityError."""
        if self.psk_file is not None and self.psk_list is not None:
            raise Stop(Exit.USAGE, "--psk-file and --psk-list: one of them")
        if self.psk_identity is not None and self.psk_file is None:
            raise Stop(Exit.USAGE, "--psk-identity goes with --psk-file; in a --psk-list each line has its own")
        if self.oscore_list is not None and (self.psk_file is not None or self.psk_list is not None):
            raise Stop(Exit.USAGE, "--oscore-list is for OSCORE, and --psk-file and --psk-list for DTLS: one of them")
        if self.psk_file is None and self.psk_list is None and self.oscore_list is None:
            return None
        from gateway.devices.keys import listed_contexts, listed_keys, shared_key

        now = datetime.now(UTC)
        if self.oscore_list is not None:
            return listed_contexts(self.oscore_list, endpoints, now)
        if self.psk_list is not None:
            return listed_keys(self.psk_list, endpoints, now)
        assert self.psk_file is not None
        if len(endpoints) > 1 and self.psk_identity is None:
            raise Stop(
                Exit.USAGE,
                f"{len(endpoints)} devices have {len(endpoints)} identities: --psk-list FILE has a key for each, or "
                "--psk-identity ID says that they share the one of a pattern",
            )
        return shared_key(self.psk_file, endpoints, self.psk_identity, now)
