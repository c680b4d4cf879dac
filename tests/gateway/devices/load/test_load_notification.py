"""The template of notifications gives what the gateway's own message format and the codecs give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.coap.message import Code, Option, Type, build, uint
from gateway.devices.load.content import Content
from gateway.devices.load.notification import template
from gateway.devices.load.plan import VALUE
from schemas.lwm2m.formats import ContentFormat, encode
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.objects import Definitions

FORMATS = (
    ContentFormat.TLV,
    ContentFormat.TEXT,
    ContentFormat.CBOR,
    ContentFormat.SENML_JSON,
    ContentFormat.SENML_CBOR,
)
DEFINITIONS = Definitions.builtin()
CONTENT = Content(VALUE, 60)


@pytest.mark.parametrize("content_format", FORMATS)
@given(
    mid=st.integers(0, 0xFFFF),
    token=st.binary(max_size=8),
    number=st.integers(0, 0xFFFFFF),
    # Odd: a codec may give what four bytes can hold four bytes, and a template always gives it eight.
    value=st.integers(1 << 49, (1 << 52) - 1).map(lambda half: 2.0 * half + 1.0),
    confirmable=st.booleans(),
)
def test_template_is_filled_as_messages_are_built(
    content_format: ContentFormat, mid: int, token: bytes, number: int, value: float, confirmable: bool
) -> None:
    node = Resource(path=VALUE, type=ResourceType.FLOAT, value=value)
    plainly = build(
        Type.CON if confirmable else Type.NON,
        Code.CONTENT,
        mid,
        token,
        [(Option.OBSERVE, number.to_bytes(3, "big")), (Option.CONTENT_FORMAT, uint(content_format))],
        encode(content_format, node, DEFINITIONS),
    )
    made = template(CONTENT, len(token), uint(content_format))
    assert made.fill(mid, token, number, value, confirmable=confirmable) == plainly
