"""The gateway's short path for requests: what most of them have in common is decoded once.

Requests differ in their endpoint and ticket; what stands behind these (kind, path, format, body) is the same in most of
a fleet's commands. A short one is remembered by its bytes, and everything that is not as expected goes through
`serde.decode`. A test holds every request equal to what that gives.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from schemas.avro.errors import MalformedRecord, SerdeError
from schemas.avro.records import Request, RequestPayload
from schemas.avro.registry import schema_of
from schemas.avro.request_identity import leading_strings
from schemas.avro.serde import decode

#: What the records of requests begin with.
REQUEST_FRAMES: Final = frozenset(schema_of("request.AvroRequest", version).frame for version in (1, 2, 3))
#: serverId, ep and ticket, all of them empty.
_NO_TEXTS: Final = b"\x00\x00\x00"
#: A longer rest is decoded with its request.
LONGEST_REMEMBERED: Final = 128


def decode_request(value: bytes) -> tuple[Request, int | None]:
    """The request in the value of a record, and where its payload begins if that is known.

    Raises:
        SerdeError: there is none.
    """
    frame = value[:5]
    if frame in REQUEST_FRAMES:
        try:
            (server_id, ep, ticket), end = leading_strings(value)
            if len(value) - end <= LONGEST_REMEMBERED:
                payload, expires = behind_texts(frame, value[end:])
                return Request(server_id=server_id, ep=ep, ticket=ticket, payload=payload, expires=expires), end
        except (ValueError, SerdeError):
            pass  # said in the words of the whole
    record = decode(value)
    if not isinstance(record, Request):
        raise MalformedRecord(f"a {type(record).__name__} is no request")
    return record, None


@lru_cache(maxsize=1024)
def behind_texts(frame: bytes, rest: bytes) -> tuple[RequestPayload, int | None]:
    """The payload of a request and its ``expires``, from what stands behind its texts.

    Raises:
        SerdeError: it is none.
    """
    request = decode(frame + _NO_TEXTS + rest)
    assert isinstance(request, Request)
    return request.payload, request.expires
