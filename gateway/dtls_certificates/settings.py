"""The bounds and times of DTLS with certificates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Numbers are the most that there may be; times are seconds. OpenSSL takes some 82 KB for each session."""

    most_sessions: int = 1_000
    most_handshakes: int = 128
    #: Some 5 KB each.
    most_resumable: int = 4_000
    #: A session that is silent for so long is forgotten; a device may sleep for days.
    silence: float = 7 * 86_400.0
    #: RFC 5246 section F.1.4 suggests 24 hours as the most.
    resumable_for: int = 86_400
    #: A handshake that is not done by then is forgotten.
    handshake_for: float = 90.0
