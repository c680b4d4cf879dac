"""What a server of DTLS with certificates is told: its own, and its bounds and times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_SESSIONS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """The server's own certificate, in PEM: ``certificate`` with what signed it behind, its ``key``, and
    ``authorities`` that the certificates of usage 0 and 1 have to come from.

    ``most_sessions`` of devices with certificates, some 82 KB each; then the longest silent goes.
    """

    certificate: Path
    key: Path
    authorities: Path | None = None
    most_sessions: int = DEFAULT_SESSIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Numbers are the most that there may be; times are seconds. OpenSSL takes some 82 KB for each session."""

    most_sessions: int = DEFAULT_SESSIONS
    most_handshakes: int = 128
    #: Some 5 KB each.
    most_resumable: int = 4_000
    #: A session that is silent for so long is forgotten; a device may sleep for days.
    silence: float = 7 * 86_400.0
    #: RFC 5246 section F.1.4 suggests 24 hours as the most.
    resumable_for: int = 86_400
    #: A handshake that is not done by then is forgotten.
    handshake_for: float = 90.0
