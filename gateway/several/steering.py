"""What the kernel is told, so that a datagram that names its process arrives there and need not cross over.

The tokens that a process makes name it, and so do its registration ids. A program at the sockets of the port for
messages in the clear (Linux, ``SO_ATTACH_REUSEPORT_CBPF``, which needs no privilege; socket(7)) looks for them and says
which socket it is, by the order in which they were bound. Of everything else it names a socket that is not there: then
the kernel goes by its hash of both addresses, as without a program.

Nothing may depend on it. A token of a time with another number of processes arrives at the wrong one and crosses over
(`gateway.several.crossing`), and so does all where the kernel takes no program.
"""

from __future__ import annotations

import ctypes
import socket
import sys
from struct import Struct

#: Not in Python's `socket`; asm-generic/socket.h.
_SO_ATTACH_REUSEPORT_CBPF = 51
#: Of the first byte of a token; below it are aiocoap's own (`CoapClient.new_token`).
_TOKEN = 0x80
#: The first character of a registration id: no hex digit, as all of the others are.
_FIRST_LETTER = ord("A")
_LETTERS = 26
#: Uri-Path "rd", and the head of a second one of eleven characters, as the first options of a message.
_RD_AND_ID = int.from_bytes(b"\xb2rd\x0b", "big")

# struct sock_filter: what to do, how many lines to skip if so and if not, and a number (linux/filter.h). At 0 is the
# first byte behind the UDP header. Whoever reads behind the end has chosen socket 0, so the length is looked at first.
_LINE = Struct("=HBBI")
_LENGTH, _BYTE, _BYTE_AT_X, _WORD_AT_X = 0x80, 0x30, 0x50, 0x40
_AND, _MINUS, _TO_X = 0x54, 0x14, 0x07
_IF_EQUAL, _IF_MORE, _IF_NOT_LESS = 0x15, 0x25, 0x35
_RETURN, _RETURN_IT = 0x06, 0x16
_NO_SOCKET = 0xFFFFFFFF

#: Name, or none; what to do; a number; and where to go on, if so and if not: None is the next line.
_PROGRAM: tuple[tuple[str, int, int, str | None, str | None], ...] = (
    ("", _LENGTH, 0, None, None),
    ("", _IF_NOT_LESS, 12, None, "nobody"),
    ("", _BYTE, 0, None, None),
    ("", _AND, 0xCF, None, None),  # version and length of the token (RFC 7252 section 3)
    ("", _IF_MORE, 0x48, "nobody", None),
    ("", _IF_EQUAL, 0x48, None, "request"),
    # A response or notification (class 2 to 5) to a token of eight bytes, as all of ours are.
    ("", _BYTE, 1, None, None),
    ("", _IF_NOT_LESS, 0x40, None, "request"),
    ("", _IF_NOT_LESS, 0xC0, "nobody", None),
    ("", _BYTE, 4, None, None),
    ("", _IF_NOT_LESS, _TOKEN, None, "nobody"),
    ("", _AND, _TOKEN - 1, None, None),
    ("", _RETURN_IT, 0, None, None),
    # Below /rd/ID, where nothing is in front of the path.
    ("request", _LENGTH, 0, None, None),
    ("", _IF_NOT_LESS, 19, None, "nobody"),
    ("", _BYTE, 0, None, None),
    ("", _AND, 0x0F, None, None),
    ("", _TO_X, 0, None, None),
    ("", _WORD_AT_X, 4, None, None),
    ("", _IF_EQUAL, _RD_AND_ID, None, "nobody"),
    ("", _BYTE_AT_X, 8, None, None),
    ("", _MINUS, _FIRST_LETTER, None, None),
    ("", _RETURN_IT, 0, None, None),
    ("nobody", _RETURN, _NO_SOCKET, None, None),
)


def token_mark(number: int) -> bytes:
    """What the tokens of the process with this number, below 128, begin with."""
    return bytes((_TOKEN | number,))


def id_mark(number: int) -> str:
    """What its registration ids begin with; nothing for those for whom there is no letter."""
    return chr(_FIRST_LETTER + number) if number < _LETTERS else ""


def steer(sock: socket.socket) -> None:
    """Have the kernel choose by what a message names, for the whole group of sockets of this one's port.

    Raises:
        OSError: it does not.
    """
    if not sys.platform.startswith("linux"):
        raise OSError("this system has no such option")
    program = _program()
    lines = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many lines, and where they are.
    told = Struct("@HP").pack(len(_PROGRAM), ctypes.addressof(lines))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, told)


def _program() -> bytes:
    """`_PROGRAM` in the kernel's form."""
    places = {name: at for at, (name, *_) in enumerate(_PROGRAM)}

    def skipped(at: int, to: str | None) -> int:
        return 0 if to is None else places[to] - at - 1

    return b"".join(
        _LINE.pack(what, skipped(at, so), skipped(at, otherwise), number)
        for at, (_, what, number, so, otherwise) in enumerate(_PROGRAM)
    )
