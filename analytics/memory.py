"""What jobs remember of each series for ever: the keys, the bytes, and a bound on how many there are. Pure.

A device that makes up new paths for ever would fill the state, so an endpoint has a number of series that are kept.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from analytics.job import State
from analytics.welford import EMPTY, Moments

_MOMENTS = Struct("<qddddq")
_COUNT = Struct("<q")

#: Bytes of `packed`.
MOMENTS_SIZE = _MOMENTS.size


@lru_cache(maxsize=65536)
def series_key(ep: str, path: str) -> bytes:
    """The key of a series: no two of them are the same, whatever an endpoint calls itself."""
    return f"s{len(ep)}:{ep}{path}".encode()


def names(key: bytes) -> tuple[str, str]:
    """Endpoint and path of a `series_key`, or of a key of its form with another first byte."""
    length, _, rest = key[1:].decode().partition(":")
    return rest[: int(length)], rest[int(length) :]


def admitted(state: State, ep: str, most: int) -> bool:
    """Whether one more series of ``ep`` may be kept; then it is counted."""
    key = f"n{ep}".encode()
    kept = state.get_bytes(key)
    count = 0 if kept is None else int(_COUNT.unpack(kept)[0])
    if count >= most:
        return False
    state.set_bytes(key, _COUNT.pack(count + 1))
    return True


def packed(moments: Moments) -> bytes:
    """48 bytes."""
    return _MOMENTS.pack(*moments)


def unpacked(kept: bytes | None) -> Moments:
    """`packed` back, from the beginning of ``kept``; `EMPTY` where there is nothing."""
    return EMPTY if kept is None else Moments(*_MOMENTS.unpack_from(kept))
