"""How much the command loop takes on, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the command loop. Times in seconds."""

    #: Commands that may wait for one device, and for all.
    per_device: int = 20_000
    in_all: int = 100_000
    #: Their bytes together, which are in the state file.
    bytes_per_device: int = 64 << 20
    bytes_in_all: int = 512 << 20
    #: Bytes that are not in the state file yet: no more is read from Kafka then.
    bytes_in_memory: int = 64 << 20
    #: Requests that were read and of which no start knows yet that they are done with: the same.
    behind: int = 40_000
    #: How long to wait for a response: MAX_TRANSMIT_WAIT (RFC 7252, section 4.8.2).
    answer: float = 93.0
    #: How long at least, where it expires sooner.
    shortest_answer: float = 5.0
    #: How long a file may take to be sent when its request has no ``expires``.
    push: float = 3_600.0
    #: How long a command waits for a sleeping device when it has no ``expires``.
    longest_wait: float = 86_400.0
    #: How long an answered request is known.
    remember: float = 86_400.0
    #: Between tries of what the disk or Kafka did not take.
    retry: float = 0.2
