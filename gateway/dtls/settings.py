"""The bounds and times of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Numbers are the most that there may be; times are seconds."""

    most_sessions: int = 100_000
    most_handshakes: int = 4_096
    most_resumable: int = 100_000
    #: A session that is silent for so long is forgotten; a device may sleep for days.
    silence: float = 7 * 86_400.0
    #: RFC 5246 section F.1.4 suggests 24 hours as the most.
    resumable_for: float = 86_400.0
    #: A handshake that is not done by then is forgotten.
    handshake_for: float = 90.0
    #: The first retransmission of a flight; doubled each time. RFC 7925 section 11 has 9 s for networks of things.
    flight_timeout: float = 9.0
    #: How long a right Finished is waited for after a wrong one, before the client is told that its key is wrong.
    doubt: float = 2.0
