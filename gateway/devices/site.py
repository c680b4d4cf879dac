"""The CoAP side of a virtual device: requests of the server become operations on the `Model`, changes become
notifications.

Follows OMA LwM2M Core 1.1, section 6.3 and Transport 1.1, table 6.4.3 (which method is which operation), RFC 7641.
Block-wise assembly and message ids are aiocoap's. Notifications are always confirmable; one that is under way is not
followed by the next of the same observation before its end (RFC 7641 section 4.5.2: the newest state is sent then).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiocoap import Message, Reliable, error, resource
from aiocoap.numbers import codes
from aiocoap.pipe import Pipe

from gateway.devices import composite
from gateway.devices.model import BadValue, Model, NoSuchPath, NotPermitted, Refused
from gateway.devices.notify import judge, merged
from gateway.devices.transport import DeviceSocket, Outcome
from schemas.lwm2m import formats
from schemas.lwm2m.attributes import Attributes, ObserveSpecError, check, check_target, check_version, parse_spec
from schemas.lwm2m.formats import CodecError, ContentFormat
from schemas.lwm2m.link import Link, format_links
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, Resource
from schemas.lwm2m.path import Path, PathError

_CODES: Mapping[type[Refused], codes.Code] = {
    NoSuchPath: codes.NOT_FOUND,
    NotPermitted: codes.METHOD_NOT_ALLOWED,
    BadValue: codes.BAD_REQUEST,
}


#: The attributes of later versions of LwM2M are refused: a device need not have them.
_NEWEST_ATTRIBUTES = "1.1"
_DEPTHS = {f"depth={levels}": levels for levels in range(4)}


class Listener(Protocol):
    """What a device tells its owner, for logs, audits and tests. All calls come from the event loop."""

    def sent(self, path: Path, node: Node) -> None:
        """A notification left for the first time."""

    def acknowledged(self, path: Path, node: Node, message_id: int, number: int) -> None:
        """The server acknowledged the notification of ``node``, by its CoAP message id and Observe number."""


@dataclass(slots=True, kw_only=True, eq=False)
class Observation:
    """An observation by one token. ``wake`` is set when something at or below its path changed."""

    path: Path
    #: Its own, from the query that it began with; they are in the place of those that are written (Core 1.2).
    attributes: Attributes
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class DeviceSite(resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """The root resource of a device's aiocoap Context."""

    def __init__(
        self,
        model: Model,
        *,
        version: str,
        preferred: ContentFormat,
        defaults: Callable[[], Attributes],
        listener: Listener,
        ack_timeout: float,
    ) -> None:
        """``version`` is that of LwM2M, ``preferred`` what answers a request without Accept.

        ``defaults`` gives pmin and pmax of the Server object.
        """
        super().__init__()
        self.socket: DeviceSocket | None = None
        self._model = model
        self._is_1_2 = version >= "1.2"
        self._preferred = preferred
        self._defaults = defaults
        self._listener = listener
        self._tuning = reliable(ack_timeout)
        self._attributes: dict[Path, Attributes] = {}
        self._observations: set[Observation] = set()
        model.on_change.append(self._wake)

    @property
    def observed(self) -> list[Path]:
        """The paths under observation, in order."""
        return sorted((one.path for one in self._observations), key=lambda path: path.ids)

    def forget_observations(self) -> None:
        """End all observations, as a new registration does: the server asks for what it wants."""
        for one in list(self._observations):
            if one.task is not None:
                one.task.cancel()

    async def needs_blockwise_assembly(self, request: Message) -> bool:
        return True

    async def render_to_pipe(self, pipe: Pipe) -> None:
        request: Message = pipe.request
        is_read = request.code is codes.GET and request.opt.accept != ContentFormat.LINK
        if not (is_read and request.opt.observe == 0 and self.socket is not None):
            # A GET with Observe 1 ends the observation of its token: aiocoap's token layer does so for any new request
            # on a token that is in use.
            await super().render_to_pipe(pipe)
            return
        response, node = await self._first(request)
        if node is None:
            pipe.add_response(response, is_last=True)
            return
        await self._observe(pipe, request, response, node)

    async def render(self, request: Message) -> Message:
        try:
            return self._operate(request)
        except Refused as exc:
            return _refusal(_CODES[type(exc)], str(exc))
        except PathError as exc:
            return _refusal(codes.NOT_FOUND, str(exc))
        except (CodecError, ObserveSpecError) as exc:
            return _refusal(codes.BAD_REQUEST, str(exc))
        except error.RenderableError as exc:
            return exc.to_message()

    def _operate(self, request: Message) -> Message:
        path = Path.parse("/".join(request.opt.uri_path))
        match request.code, path.depth:
            case codes.GET, _ if request.opt.accept == ContentFormat.LINK:
                return self._discover(path, self._levels(request, path))
            case codes.GET, _:
                self._own_attributes(request, path)
                return self._read(request, path)[0]
            case codes.PUT, _ if request.opt.content_format is None and not request.payload:
                return self._write_attributes(path, "&".join(request.opt.uri_query))
            case codes.PUT, (2 | 3 | 4):
                return self._write(request, path, replace=True)
            case codes.POST, 1:
                return self._create(request, path)
            case codes.POST, 2:
                return self._write(request, path, replace=False)
            case codes.POST, 3 if self._model.dimension(path) is not None:
                return self._write(request, path, replace=False)
            case codes.POST, 3:
                self._model.execute(path, _text(request.payload))
                return Message(code=codes.CHANGED)
            case codes.FETCH, 0:
                return composite.read(self._model, request)
            case codes.iPATCH, 0:
                return composite.write(self._model, request)
            case codes.DELETE, depth if depth < 4 or self._is_1_2:
                self._model.delete(path)
                return Message(code=codes.DELETED)
        raise NotPermitted(f"{request.code} {path} is no operation")

    def _read(self, request: Message, path: Path) -> tuple[Message, Node]:
        wanted = self._preferred if request.opt.accept is None else request.opt.accept
        node = self._model.read(path)
        try:
            payload = formats.encode(int(wanted), node, self._model.definitions)
        except CodecError as exc:
            # The format is unknown, or it cannot carry this node (text for an instance): RFC 7252 section 5.10.4.
            raise error.NotAcceptable(str(exc)) from exc
        return Message(code=codes.CONTENT, payload=payload, content_format=int(wanted)), node

    def _decode(self, request: Message, path: Path) -> Node:
        content_format = request.opt.content_format
        if content_format is None:
            content_format = ContentFormat.TEXT
        if int(content_format) not in formats.FORMATS:
            raise error.UnsupportedContentFormat(f"content format {int(content_format)}")
        return formats.decode(int(content_format), request.payload, path, self._model.definitions)

    def _write(self, request: Message, path: Path, *, replace: bool) -> Message:
        if not self._model.has(path.parent if path.depth == 4 else path):
            raise NoSuchPath(f"{path} is not on this device")
        self._model.write(self._decode(request, path), replace=replace)
        return Message(code=codes.CHANGED)

    def _create(self, request: Message, path: Path) -> Message:
        object_id = path.ids[0]
        instance_id: int | None = None
        values: tuple[Resource | MultipleResource, ...] = ()
        if request.payload and not (request.opt.content_format == ContentFormat.TLV and request.payload[0] >> 6):
            node = self._decode(request, path)
            if not isinstance(node, Object) or len(node.instances) != 1:
                raise BadValue("a Create makes exactly one instance")
            instance_id, values = node.instances[0].path.ids[1], node.instances[0].resources
        elif request.payload:
            # TLV of resources without an instance around them: the device chooses the id (section 6.3.3).
            node = self._decode(request, path.child(0))
            values = node.resources if isinstance(node, Instance) else ()
        made = self._model.create(object_id, instance_id, values)
        response = Message(code=codes.CREATED)
        if instance_id is None:
            response.opt.location_path = tuple(str(made).strip("/").split("/"))
        return response

    def _write_attributes(self, path: Path, spec: str) -> Message:
        if not self._model.has(path):
            raise NoSuchPath(f"{path} is not on this device")
        asked = parse_spec(spec)
        check_target(asked, path, self._model.definitions)
        check_version(asked, _NEWEST_ATTRIBUTES)
        together = merged(self._attributes.get(path, Attributes()), asked)
        check(together)
        self._attributes[path] = together
        self._wake(path)
        return Message(code=codes.CHANGED)

    def _own_attributes(self, request: Message, path: Path) -> Attributes:
        """Those in the query of an Observe (OMA LwM2M Core 1.2)."""
        if request.opt.observe != 0 or not request.opt.uri_query:
            return Attributes()
        if not self._is_1_2:
            raise BadValue("an observation has attributes of its own from LwM2M 1.2 on")
        asked = parse_spec("&".join(request.opt.uri_query))
        check_target(asked, path, self._model.definitions)
        check_version(asked, _NEWEST_ATTRIBUTES)
        return asked

    def _levels(self, request: Message, path: Path) -> int:
        """How many levels below ``path`` a Discover lists (Core 1.2, table 6.3.2-2; before, it has no query)."""
        query = request.opt.uri_query if self._is_1_2 else ()
        if not query:
            return {1: 2, 2: 1}.get(path.depth, int(self._is_1_2))
        if len(query) > 1 or query[0] not in _DEPTHS:
            raise BadValue("the query of a Discover is depth=0 to depth=3")
        return _DEPTHS[query[0]]

    def _discover(self, path: Path, levels: int) -> Message:
        if not self._model.has(path):
            raise NoSuchPath(f"{path} is not on this device")
        if path.depth == 4:
            raise NotPermitted(f"{path}: a Discover ends at the resource")
        found = list(self._with_below(path, levels))
        links = tuple(self._link(one, inherited=path.depth == 3) for one in found)
        return Message(code=codes.CONTENT, payload=format_links(links).encode(), content_format=int(ContentFormat.LINK))

    def _with_below(self, path: Path, levels: int) -> Iterator[Path]:
        yield path
        if levels:
            for one in self._model.below(path):
                yield from self._with_below(one, levels - 1)

    def _link(self, path: Path, *, inherited: bool) -> Link:
        at: dict[str, str | None] = {}
        if path.depth == 1:
            definition = self._model.definitions.object(path.ids[0])
            if definition is not None and definition.version != "1.0":
                at["ver"] = definition.version
        dimension = self._model.dimension(path) if path.depth == 3 else None
        if dimension is not None:
            at["dim"] = str(dimension)
        own = self._inherited(path) if inherited else self._attributes.get(path, Attributes())
        for pair in filter(None, str(own).split("&")):
            name, _, value = pair.partition("=")
            at[name] = value
        return Link(str(path), at)

    def _inherited(self, path: Path) -> Attributes:
        """Those of the object, overlaid by the instance's, overlaid by the resource's (section 5.1.2)."""
        effective = Attributes()
        for depth in range(1, path.depth + 1):
            effective = merged(effective, self._attributes.get(Path(*path.ids[:depth]), Attributes()))
        return effective

    def _effective(self, one: Observation) -> Attributes:
        own = one.attributes if one.attributes.values else self._inherited(one.path)
        return merged(self._defaults(), own)

    def _wake(self, path: Path) -> None:
        for one in self._observations:
            if one.path.contains(path) or path.contains(one.path):
                one.wake.set()

    async def _first(self, request: Message) -> tuple[Message, Node | None]:
        """The answer to an Observe, and the node if it was answered with content."""
        path = Path.parse("/".join(request.opt.uri_path)) if _is_path(request) else None
        response = await self._block2.extract_or_insert(request, lambda: self.render(request))
        if path is None or response.code is not codes.CONTENT:
            return response, None
        return response, self._model.read(path)

    async def _observe(self, pipe: Pipe, request: Message, response: Message, node: Node) -> None:
        """Answer with ``response``, then notify until the server loses interest: then aiocoap cancels this task."""
        loop = asyncio.get_running_loop()
        path = Path.parse("/".join(request.opt.uri_path))
        own = self._own_attributes(request, path)
        one = Observation(path=path, attributes=own, task=asyncio.current_task())
        self._observations.add(one)
        try:
            number = 1
            response.opt.observe = number
            pipe.add_response(response)
            sent_at, sent = loop.time(), node
            while True:
                await _wait(one.wake, until=self._again_at(one, sent_at, sent))
                one.wake.clear()
                if not self._model.has(one.path):
                    # RFC 7641 section 4.2: the resource is gone, so is the observation.
                    pipe.add_response(_refusal(codes.NOT_FOUND, f"{one.path} is gone"), is_last=True)
                    return
                current = self._model.read(one.path)
                if not judge(self._effective(one), now=loop.time(), sent_at=sent_at, sent=sent, current=current).send:
                    continue
                number = (number + 1) % 2**24
                sent_at, sent = loop.time(), current
                await self._notify(pipe, request, number, one.path, current)
        finally:
            self._observations.discard(one)

    def _again_at(self, one: Observation, sent_at: float, sent: Node) -> float | None:
        if not self._model.has(one.path):
            return 0.0
        now = asyncio.get_running_loop().time()
        verdict = judge(self._effective(one), now=now, sent_at=sent_at, sent=sent, current=self._model.read(one.path))
        return now if verdict.send else verdict.again_at

    async def _notify(self, pipe: Pipe, request: Message, number: int, path: Path, node: Node) -> None:
        assert self.socket is not None
        message = await self._block2.extract_or_insert(request, lambda: self.render(request))
        message.opt.observe = number
        message.transport_tuning = self._tuning
        ended = asyncio.get_running_loop().create_future()

        def on_end(outcome: Outcome, message_id: int) -> None:
            # In the watcher itself and not after the await below: a cancelled task must not lose an acknowledgement.
            if outcome is Outcome.ACKNOWLEDGED:
                self._listener.acknowledged(path, node, message_id, number)
            if not ended.done():
                ended.set_result(outcome)

        self.socket.watch(request.remote, request.token, on_end)
        self._listener.sent(path, node)
        pipe.add_response(message)
        try:
            # A reset or silence ends the observation: aiocoap cancels this task. The time limit only bounds the wait.
            # Not wait_for, which swallows a cancellation that comes in the same turn of the loop as the result.
            async with asyncio.timeout(self._tuning.EXCHANGE_LIFETIME):
                await ended
        finally:
            self.socket.unwatch(request.remote, request.token)


def reliable(ack_timeout: float) -> Reliable:
    """aiocoap's transmission parameters for a confirmable message with another ACK_TIMEOUT (seconds)."""
    tuning = Reliable()
    tuning.ACK_TIMEOUT = ack_timeout
    return tuning


async def _wait(event: asyncio.Event, *, until: float | None) -> None:
    try:
        async with asyncio.timeout_at(until):
            await event.wait()
    except TimeoutError:
        return


def _is_path(request: Message) -> bool:
    try:
        Path.parse("/".join(request.opt.uri_path))
    except PathError:
        return False
    return True


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        raise BadValue("the arguments of an Execute are text") from exc


def _refusal(code: codes.Code, text: str) -> Message:
    """A diagnostic payload (RFC 7252 section 5.5.2)."""
    return Message(code=code, payload=text.encode())
