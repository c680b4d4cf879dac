"""Which of a gateway's processes owns an endpoint. Pure, and the same at every start.

All that the gateway knows of a device belongs to its owner alone: registration, observations, commands and their
answers, message ids. So the owner follows from the name, not from where its datagrams happen to arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from gateway.request_records import RawRequest
from schemas.avro.request_identity import leading_strings


def owner_of(ep: str, processes: int) -> int:
    """The number of the process, from 0.

    A device behind a gateway (``GATEWAY/DEVICE-ID``, OMA LwM2M object 25) is its gateway's owner's: what is in front of
    the first slash decides for both.
    """
    return crc32(ep.partition("/")[0].encode("utf-8", "surrogatepass")) % processes


def share(number: int, processes: int) -> Callable[[RawRequest], bool]:
    """Whether a record of the requests topic is for this process: exactly one of them says so of each."""

    def is_mine(raw: RawRequest) -> bool:
        try:
            (_, ep, _), _ = leading_strings(raw.value or b"")
        except ValueError:
            # Nobody's device; somebody has to say so.
            return raw.offset % processes == number
        return owner_of(ep, processes) == number

    return is_mine
