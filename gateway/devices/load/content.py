"""What a device of a load has and says: its few resources, in the format that is asked for, and the payload of a value.

Owns no socket and no state: the caller says which value its resource has now. A value that moves is put into a payload
that was encoded once, so that ten thousand devices cost what one does.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from gateway.coap.message import Code, Message, Option, Options, uint
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.formats import ContentFormat, encode
from schemas.lwm2m.nodes import Instance, Node, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path, PathError

_DOUBLE = Struct(">d")
#: Takes all eight bytes of a double in every format that is binary.
_PROBE = 1764000000123457.0
_FORMATS = (
    ContentFormat.TLV,
    ContentFormat.TEXT,
    ContentFormat.CBOR,
    ContentFormat.SENML_JSON,
    ContentFormat.SENML_CBOR,
)
LINK_FORMAT = uint(ContentFormat.LINK)

Answer = tuple[int, Options, bytes]
Payload = Callable[[float], bytes]


class Content:
    """The resources of every device of a load: Server (1), Device (3), and the one at ``path`` that has the value."""

    def __init__(self, path: Path, lifetime: int) -> None:
        self.path = path
        self._definitions = Definitions.builtin()
        self._lifetime = lifetime
        self._payloads: dict[int, Payload] = {}
        self._frames: dict[int, tuple[bytes, bytes] | None] = {}
        self.links = f'</>;rt="oma.lwm2m";ct=11542,</1/0>,</3/0>,</{path.object_id}/{path.instance_id}>'.encode()

    def payload(self, content_format: int) -> Payload:
        """What makes the payload of a value in this format.

        Raises:
            CodecError: the format cannot carry it.
        """
        made = self._payloads.get(content_format)
        if made is None:
            made = self._payloads[content_format] = self._made(content_format)
        return made

    def frame(self, content_format: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the double in the payload of every value; None: a value is text there.

        Raises:
            CodecError: the format cannot carry it.
        """
        if content_format not in self._frames:
            before, found, after = self._whole(content_format, _PROBE).partition(_DOUBLE.pack(_PROBE))
            self._frames[content_format] = (before, after) if found else None
        return self._frames[content_format]

    def _made(self, content_format: int) -> Payload:
        frame = self.frame(content_format)
        if frame is None:
            return lambda value: self._whole(content_format, value)
        (before, after), pack = frame, _DOUBLE.pack
        return lambda value: before + pack(value) + after

    def _whole(self, content_format: int, value: float) -> bytes:
        return encode(content_format, self._value(value), self._definitions)

    def _value(self, value: float) -> Resource:
        return Resource(path=self.path, type=ResourceType.FLOAT, value=value)

    def asked(self, request: Message, endpoint: str, value: float) -> Answer:
        """The answer to a request of the gateway: code, options, payload. Reads alone are taken."""
        if request.unrecognised:
            return Code.BAD_OPTION, [], b""
        if request.code != Code.GET:
            return Code.METHOD_NOT_ALLOWED, [], b""
        accept = request.uint(Option.ACCEPT)
        try:
            node = self._node(Path.parse("/" + "/".join(request.texts(Option.URI_PATH))), endpoint, value)
        except PathError:
            node = None
        if node is None:
            return Code.NOT_FOUND, [], b""
        chosen = ContentFormat.TLV if accept is None else accept
        if chosen not in _FORMATS:
            return Code.NOT_ACCEPTABLE, [], b""
        try:
            payload = encode(chosen, node, self._definitions)
        except CodecError:
            return Code.NOT_ACCEPTABLE, [], b""
        return Code.CONTENT, [(Option.CONTENT_FORMAT, uint(chosen))], payload

    def _node(self, path: Path, endpoint: str, value: float) -> Node | None:
        if path == self.path:
            return self._value(value)
        held: dict[Path, dict[int, int | float | str]] = {
            Path(1, 0): {0: 1, 1: self._lifetime, 7: "U"},
            Path(3, 0): {0: "Headwater", 1: "load generator", 2: endpoint},
            self.path.parent: {self.path.ids[2]: value},
        }
        for instance, resources in held.items():
            nodes = tuple(_resource(instance.child(number), one) for number, one in resources.items())
            if path == instance:
                return Instance(path=instance, resources=nodes)
            for one in nodes:
                if path == one.path:
                    return one
        return None


def _resource(path: Path, value: int | float | str) -> Resource:
    kinds = {int: ResourceType.INTEGER, float: ResourceType.FLOAT, str: ResourceType.STRING}
    return Resource(path=path, type=kinds[type(value)], value=value)
