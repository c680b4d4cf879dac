"""A gateway of devices in a test's hands: a `RawDevice` with object 25, and devices that are reached by prefixes."""

from __future__ import annotations

from aiocoap import Message
from aiocoap.numbers.codes import Code

from schemas.lwm2m import tlv
from schemas.lwm2m.nodes import Instance, Object, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.raw_device import RawDevice, polite

TLV = 11542
_BLOCK = 1024
OBJECTS = "</3/0>,</3303/0>"
DEFINITIONS = Definitions.builtin().with_versions({25: "2.0"})

#: Of each instance of object 25: Device ID, prefix, links.
Instances = dict[int, tuple[str, str, str]]


def object_25(instances: Instances) -> bytes:
    """Object 25 in TLV."""
    gateway = Path(25)
    return tlv.encode(
        Object(
            path=gateway,
            instances=tuple(
                Instance(
                    path=gateway.child(i),
                    resources=tuple(
                        Resource(path=gateway.child(i).child(number), type=ResourceType.STRING, value=text)
                        for number, text in zip((0, 1, 3), texts, strict=True)
                    ),
                )
                for i, texts in sorted(instances.items())
            ),
        ),
        DEFINITIONS,
    )


class Site:
    """What a gateway has behind it, and what it answers for them: they are polite, and nobody else is there.

    ``devices`` are Device IDs, with the prefixes dev0, dev1, and so on; ``more`` are answers to GET by path.
    """

    def __init__(self, *devices: str) -> None:
        self.instances: Instances = {i: (name, f"dev{i}", OBJECTS) for i, name in enumerate(devices)}
        self.more: dict[str, Message] = {}

    @property
    def links(self) -> str:
        """What the gateway announces."""
        mine = ",".join(f"</25/{i}>" for i in sorted(self.instances))
        return f'</>;rt="oma.lwm2m";ct="0 11542",</1/0>,</3/0>,</25>;ver=2.0{"," if mine else ""}{mine}'

    def answer(self, request: Message) -> Message | None:
        path = tuple(request.opt.uri_path)
        if path == ("25",):
            return _in_blocks(request, object_25(self.instances))
        known = {prefix for _, prefix, _ in self.instances.values()}
        if path and not path[0].isdigit() and path[0] not in known:
            return Message(code=Code.NOT_FOUND)
        found = self.more.get("/" + "/".join(path)) if request.code == Code.GET else None
        if found is not None:
            return Message(code=found.code, payload=found.payload, content_format=found.opt.content_format)
        return polite(request)


class GatewayDevice(RawDevice):
    """A device that answers for its ``site``."""

    def __init__(self, server: tuple[str, int], ep: str, *devices: str) -> None:
        self.site = Site(*devices)
        super().__init__(server, ep, answer=self.site.answer)

    def join(self, version: str = "1.1", *more: str, lifetime: int = 300) -> None:
        """Register with its links."""
        self.register(*more, links=self.site.links, lifetime=lifetime, version=version)

    def asked_paths(self) -> list[str]:
        """Where the server's requests went so far, in their order."""
        return ["/" + "/".join(one.opt.uri_path) for one in self.requests]

    def tell_of_change(self, number: int) -> bool:
        """Notify of object 25 as it is now."""
        return self.notify_with("/25", number, object_25(self.site.instances), TLV)


def _in_blocks(request: Message, payload: bytes) -> Message:
    """The block that is asked for (RFC 7959), or all of what fits into one."""
    number = 0 if request.opt.block2 is None else request.opt.block2.block_number
    rest = payload[number * _BLOCK :]
    response = Message(code=Code.CONTENT, payload=rest[:_BLOCK], content_format=TLV)
    if len(payload) > _BLOCK:
        response.opt.block2 = (number, len(rest) > _BLOCK, 6)
    if request.opt.observe == 0:
        response.opt.observe = 1
    return response
