"""Secrets out of files: passwords, tokens and keys, from ``/run/secrets`` or anywhere.

Owns how they are read, what is said when they cannot be, and how open their files may lie. A secret is masked in every
repr and str. Never reads one from the environment or a command line (others on a machine see those), and no message
tells anything of what is in a file.

How open a file may lie: **nobody else may change it; a key nobody else may read** but the file's group (as Debian's
``ssl-cert`` shares keys). Whether others can read a password's file is told in the log, since there are shops that
guard it by its folder. Below ``/run/secrets`` the reading bits say nothing: Docker gives 0444 to what only one
container sees.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import structlog

from security.errors import Exposed, SecretError

_LOG = structlog.get_logger("headwater.security")

#: Where containers get their secrets; a file system of their own.
MOUNTS: Final = (Path("/run/secrets"), Path("/var/run/secrets"))
#: No password or key is so long; a mistaken path may be a disk.
MAX_BYTES = 1 << 20


class Secret:
    """A text that is shown to nobody by mistake.

    >>> Secret("hunter2")
    Secret('******')
    >>> f"{Secret('hunter2')}"
    '******'
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('******')"

    def __str__(self) -> str:
        return "******"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str | tuple[object, ...]:
        # A pickle, or a copy of one in a log, would hold it in the clear.
        raise TypeError("a secret is not pickled")


def read_secret(file: Path) -> Secret:
    """The secret that stands alone in a file, without the end of its line.

    Raises:
        SecretError: it cannot be read, is empty, or is no text; nothing of what is in it is told.
        Exposed: others may change the file.
    """
    content = read_bounded(file)
    mode = file.stat().st_mode
    if mode & stat.S_IWOTH and not _mounted(file):
        raise Exposed(f"{file} can be changed by everybody on this machine ({stat.filemode(mode)}): chmod 600 {file}")
    if mode & stat.S_IROTH and not _mounted(file):
        _LOG.warning("secret readable by everybody", file=str(file), do=f"chmod 600 {file}")
    try:
        text = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        # `from None`: the error holds the bytes.
        raise SecretError(f"{file}: it is no UTF-8 text") from None
    if not text:
        raise SecretError(f"{file}: it is empty")
    return Secret(text)


def read_key(file: Path) -> bytes:
    """The content of a file with a private key.

    Raises:
        SecretError: it cannot be read, or is empty.
        Exposed: others than the owner may change it, or everybody may read it; the message says what to do.
    """
    content = read_bounded(file)
    problem = exposure(file)
    if problem is not None:
        raise Exposed(problem)
    if not content.strip():
        raise SecretError(f"{file}: it is empty")
    return content


def exposure(file: Path) -> str | None:
    """Why a key cannot lie in this file as it is and what to do, or None where all is well.

    Raises:
        OSError: there is no such file.
    """
    if _mounted(file):
        return None
    mode = file.stat().st_mode
    shown = f"({stat.filemode(mode)})"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"the key {file} can be changed by others on this machine {shown}: chmod 600 {file}"
    if mode & stat.S_IROTH:
        return (
            f"the key {file} can be read by everybody on this machine {shown}: chmod 600 {file} "
            "(or 640 for a group of those who need it); if others were there, issue another key"
        )
    return None


def _mounted(file: Path) -> bool:
    resolved = file.resolve()
    return any(resolved.is_relative_to(place) for place in MOUNTS)


def read_bounded(file: Path) -> bytes:
    """What is in a file of no more than `MAX_BYTES`; a pipe or a device is none, and is not waited for.

    Raises:
        SecretError: it cannot be read.
    """
    try:
        # Without waiting: to open a pipe would take until somebody writes into it.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise SecretError(f"{file}: {exc.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SecretError(f"{file}: it is no file")
        content = b""
        while len(content) <= MAX_BYTES and (more := os.read(descriptor, MAX_BYTES)):
            content += more
    except OSError as exc:
        raise SecretError(f"{file}: {exc.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise SecretError(f"{file}: it is longer than {MAX_BYTES} bytes, so it is neither a secret nor a certificate")
    return content
