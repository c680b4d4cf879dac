"""The short path for requests gives what `serde.decode` gives, whatever the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro import serde
from schemas.avro.compiled_requests import decode_request
from schemas.avro.errors import MalformedRecord, SerdeError
from schemas.avro.records import Key, Request, RequestKind, RequestPayload
from schemas.avro.request_identity import identity_of
from tests.record_strategies import requests


@given(requests())
def test_request_is_what_the_plain_path_reads(request: Request) -> None:
    value = serde.encode(request)
    for _ in range(2):  # the second one is from what is remembered
        found, payload_at = decode_request(value)
        assert found == serde.decode(value)
        assert identity_of(value, found, payload_at) == identity_of(value, found)


def test_requests_that_differ_in_their_texts_alone_share_the_rest() -> None:
    def asked(ep: str, ticket: str) -> Request:
        payload = RequestPayload(kind=RequestKind.READ, path="/3/0/0")
        return Request(server_id="gw", ep=ep, ticket=ticket, payload=payload)

    one, other = (decode_request(serde.encode(asked(*texts)))[0] for texts in (("a", "1"), ("b", "2")))
    assert one == asked("a", "1") and other == asked("b", "2")
    assert one.payload is other.payload


@given(requests(), st.data())
def test_broken_request_fails_in_the_words_of_the_plain_path(request: Request, data: st.DataObject) -> None:
    value = bytearray(serde.encode(request))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    broken = bytes(value[: data.draw(st.integers(0, len(value)))])
    try:
        plain = serde.decode(broken)
    except SerdeError as exc:
        with pytest.raises(type(exc)) as found:
            decode_request(broken)
        assert str(found.value) == str(exc)
    else:
        if isinstance(plain, Request):
            assert decode_request(broken)[0] == plain


def test_record_of_another_kind_is_no_request() -> None:
    with pytest.raises(MalformedRecord, match="a Key is no request"):
        decode_request(serde.encode(Key(ep="lamp")))
