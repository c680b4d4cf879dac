"""Composite operations on a virtual device's `Model` (OMA LwM2M Core 1.1, section 6.3; RFC 8132).

Reads with FETCH and writes with iPATCH, in the formats that name every value by its path. Observe-Composite is none of
its operations: a FETCH with Observe is answered as one without, which says that no notifications follow (RFC 7641
section 3.1).
"""

from __future__ import annotations

from aiocoap import Message, error
from aiocoap.numbers import codes

from gateway.devices.model import Model, NotPermitted
from schemas.lwm2m import composite
from schemas.lwm2m.nodes import Resource, values
from schemas.lwm2m.path import Path


def read(model: Model, request: Message) -> Message:
    """What is there of the paths that a FETCH names, and may be read; the rest is left out.

    Raises:
        CodecError: the payload is no list of paths.
        error.RenderableError: a format that has no composite operations.
    """
    asked = composite.decode_paths(_format(request), request.payload)
    asked_in = request.opt.content_format
    wanted = request.opt.accept if request.opt.accept is not None else composite.PLAIN.get(asked_in, asked_in)
    if wanted is None or wanted not in composite.FORMATS:
        raise error.NotAcceptable(f"content format {int(wanted)} has no composite operations")
    found = [value for path in composite.covering(asked) for value in _there(model, path)]
    payload = composite.encode_values(int(wanted), found, model.definitions)
    return Message(code=codes.CONTENT, payload=payload, content_format=int(wanted))


def write(model: Model, request: Message) -> Message:
    """Write all values of an iPATCH, or none of them.

    Raises:
        CodecError: the payload is not what its format says.
        Refused: a resource is not there or cannot be written, or a value is not of its type.
        error.RenderableError: a format that has no composite operations.
    """
    content_format = _format(request)
    model.write_together(composite.decode_values(content_format, request.payload, (Path(),), model.definitions))
    return Message(code=codes.CHANGED)


def _there(model: Model, path: Path) -> list[Resource]:
    if path.depth == 0:
        return [value for object_id in model.objects for value in values(model.read(path.child(object_id)))]
    try:
        return values(model.read(path)) if model.has(path) else []
    except NotPermitted:
        return []


def _format(request: Message) -> int:
    if request.opt.content_format not in composite.REQUEST_FORMATS:
        raise error.UnsupportedContentFormat("SenML (110, 112, 320, 322) or LwM2M CBOR (11544) is expected")
    return int(request.opt.content_format)
