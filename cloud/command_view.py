"""Where the commands to devices stand, from the topics alone: what was asked, what the gateway told, what was replied.

Owns the fold: a command is known by its request's identity, in a request (computed), in a state (its key) and in a
reply (header ``request.id``). The latest word counts: a request that was answered as expired may be sent again. Reading
the topics is `CommandTopics`; the fold knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType
from typing import Self

from cloud.feed import SLICE, Feed, Item, Start
from connectors.kafka import Cluster, NotAllowed, TopicMissing
from schemas.avro.records import CommandKey, CommandPhase, CommandStatus, GenericBody, Request, Response
from schemas.avro.request_identity import identity_of
from schemas.avro.topics import Topics

_ID, _STATE, _AGAIN = "request.id", "request.state", "request.again"
_IDENTITY_BYTES = 16


class Standing(Enum):
    """Where a command stands: as `CommandPhase`, or before it."""

    #: In the topic; the gateway has not told of it.
    REQUESTED = "requested"
    QUEUED = "queued"
    SENT = "sent"
    ANSWERED = "answered"
    EXPIRED = "expired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. Times are epoch ms; None where the topics do not tell."""

    ep: str
    ticket: str
    kind: str
    path: str
    state: Standing
    #: When it came into this state, and when it was asked for or read by the gateway.
    since: int
    asked: int
    expires: int | None = None
    attempts: int | None = None
    message: str = ""


class CommandPicture:
    """The commands by identity, in the order in which they were first met."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}

    def take(self, item: Item) -> Command | None:
        """What a record says; returns the command if it stands otherwise now."""
        match item.record:
            case CommandStatus() as status:
                return self._status(item, status)
            case Response() as reply:
                return self._reply(item, reply)
            case Request() as request:
                return self._request(item, request)
        return None

    def _status(self, item: Item, status: CommandStatus) -> Command | None:
        if not isinstance(item.key, CommandKey):
            return None
        return self._put(
            item.key.request,
            Command(
                ep=status.ep,
                ticket=status.ticket,
                kind=status.kind,
                path=status.path,
                state=Standing[status.state.name],
                since=status.since,
                asked=status.received,
                expires=status.expires,
                attempts=status.attempts,
                message=status.message,
            ),
        )

    def _reply(self, item: Item, reply: Response) -> Command | None:
        headers = dict(item.headers)
        identity = headers.get(_ID)
        if identity is None or _AGAIN in headers:
            return None
        phase = (headers.get(_STATE) or b"").decode(errors="replace")
        body = reply.rep.body
        words = f": {body.message}" if isinstance(body, GenericBody) and body.message else ""
        return self._put(
            identity[:_IDENTITY_BYTES].hex(),
            Command(
                ep=reply.ep,
                ticket=reply.ticket,
                kind=reply.rep.kind.value,
                path=reply.path,
                state=Standing[phase] if phase in CommandPhase.__members__ else Standing.ANSWERED,
                since=reply.timestamp,
                asked=reply.timestamp,
                message=f"{reply.rep.code.value}{words}",
            ),
        )

    def _request(self, item: Item, request: Request) -> Command | None:
        try:
            identity = identity_of(item.value, request).hex()
        except ValueError:
            return None
        before = self.commands.get(identity)
        if before is None:
            made = Command(
                ep=request.ep,
                ticket=request.ticket,
                kind=request.payload.kind.value,
                path=request.payload.path,
                state=Standing.REQUESTED,
                since=item.timestamp,
                asked=item.timestamp,
                expires=request.expires,
            )
            self.commands[identity] = made
            return made
        # What it has come to is told by others.
        self.commands[identity] = replace(
            before,
            asked=min(before.asked, item.timestamp),
            expires=request.expires if before.expires is None else before.expires,
        )
        return None

    def _put(self, identity: str, now: Command) -> Command | None:
        before = self.commands.get(identity)
        if before is None:
            self.commands[identity] = now
            return now
        if before.state is not Standing.REQUESTED and now.since < before.since:
            return None
        merged = replace(
            now,
            asked=min(before.asked, now.asked),
            expires=before.expires if now.expires is None else now.expires,
            attempts=before.attempts if now.attempts is None else now.attempts,
        )
        self.commands[identity] = merged
        return merged if (merged.state, merged.attempts) != (before.state, before.attempts) else None


class CommandTopics:
    """The picture of one gateway's commands, kept current by `refresh`.

    All states are read; of requests and replies the last ``last`` records of each partition.

    Raises:
        Unreachable, TopicMissing, NotAllowed: as `cloud.feed.Feed`.
    """

    def __init__(self, cluster: Cluster, gateway: str, *, last: int = 10_000, timeout: float = 10.0) -> None:
        topics = Topics(gateway)
        self.picture = CommandPicture()
        self._feeds: list[Feed] = []
        #: Why requests that no gateway has told of are not shown; None: they are.
        self.unseen: str | None = None
        try:
            try:
                self._feeds.append(Feed(cluster, [topics.commands], start=Start.BEGINNING, timeout=timeout))
            except TopicMissing as exc:
                raise TopicMissing(
                    f"{exc}: is {gateway!r} the id of the gateway, and is this the right Kafka?"
                ) from exc
            self._feeds.append(Feed(cluster, [topics.replies], last=last, timeout=timeout))
            try:
                self._feeds.append(Feed(cluster, [topics.requests], last=last, timeout=timeout))
            except NotAllowed as exc:
                # They may hold keys: who only sees does not read them.
                self.unseen = str(exc)
        except BaseException:
            self.close()
            raise

    @property
    def caught_up(self) -> bool:
        """True once everything that was in the topics at the start has been read."""
        return all(feed.caught_up for feed in self._feeds)

    def refresh(self, timeout: float = SLICE) -> list[Command]:
        """Take in what came; returns the commands that stand otherwise now. Waits up to ``timeout`` s on each topic."""
        changed = []
        for feed in self._feeds:
            changed += [now for item in feed.poll(timeout) if (now := self.picture.take(item)) is not None]
        return changed

    def silence(self) -> str | None:
        """As of `cloud.feed.Feed`."""
        return self._feeds[0].silence()

    def close(self) -> None:
        for feed in self._feeds:
            feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
