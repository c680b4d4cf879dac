"""Commands from admission to the reply, without Kafka and without sockets: both are passed in.

Owns which requests are new, which are known, and the steps of a command. So that a crash at any point neither loses a
command nor does it twice:

1. a request stays in the requests topic until it is answered or recorded: the position from which the next start reads
   is not behind it before (`gateway.progress`);
2. a command that must not be repeated is recorded as SENT before its datagram leaves (`gateway.lanes`); found so after
   a crash, it is answered "outcome unknown", while all others are simply asked again;
3. the reply is produced with the header ``request.id`` (`gateway.answering`); after a crash the tail of the replies
   topic tells what was answered already (`mark_answered`);
4. the reply goes to the state. The same request, sent again, is answered again from there.

A request that was certainly not sent to the device (not registered, expired, refused, overloaded) is forgotten after
its reply: sent again, it is tried anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import structlog

from gateway.answering import Answering, Done, Publish, Said
from gateway.command import Batch, Command, request_in, understand
from gateway.command_states import CommandStates
from gateway.command_states import Publish as PublishState
from gateway.exchange import OutcomeUnknown
from gateway.lanes import Lanes
from gateway.limits import Limits
from gateway.progress import Progress
from gateway.reaching import DeviceLink
from gateway.request_records import RawRequest, next_positions, occurrence_of, place_of
from gateway.short_reads import Planned, ShortReads
from gateway.state import (
    Answer,
    CommandState,
    Positions,
    State,
    StateError,
    StateOverloaded,
    StateUnavailable,
    StoredState,
)
from schemas.avro.compiled_requests import REQUEST_FRAMES, decode_request
from schemas.avro.request_identity import identity_of, leading_strings
from schemas.avro.serde import MalformedRecord, SerdeError
from schemas.lwm2m.objects import Definitions

_log = structlog.get_logger("headwater.commands")

#: Makes a dead letter durable: the record as it came, the reason; ``done`` is told how it went. False: not taken.
Bury = Callable[[RawRequest, str, Done], bool]

#: Told every position of the requests topic that a start would go on from.
Passed = Callable[[Positions], None]

#: How often answers that are too old are dropped from the state.
_FORGET_EVERY_MS: Final = 600_000
#: A reply repeats them, and has to fit a record.
_LONGEST_TEXTS: Final = 10_000
_REQUEST_ID_BYTES: Final = 24
#: What the disk has at the end for what is not recorded yet.
_RECORD_SECONDS: Final = 2.0


class CommandLoop:
    """All commands of a gateway, on its event loop. ``now_ms`` is the wall clock, epoch ms; ``is_mine`` tells which
    requests are not another process's, where there are several."""

    def __init__(
        self,
        *,
        server_id: str,
        state: State,
        link: DeviceLink,
        definitions: Definitions,
        publish: Publish,
        publish_state: PublishState,
        bury: Bury,
        passed: Passed,
        now_ms: Callable[[], int],
        limits: Limits | None = None,
        is_mine: Callable[[RawRequest], bool] | None = None,
    ) -> None:
        self._is_mine = is_mine
        self._state = state
        self._told_passed = passed
        self._progress = Progress(state, self._passed, self._lasts)
        self._bury = bury
        self._now_ms = now_ms
        self.limits = limits or Limits()
        self.states = CommandStates(server_id=server_id, publish=publish_state, now_ms=now_ms, retry=self.limits.retry)
        self.answering = Answering(
            server_id=server_id,
            state=state,
            definitions=definitions,
            publish=publish,
            states=self.states,
            settled=self._settled,
            now_ms=now_ms,
            limits=self.limits,
        )
        self.lanes = Lanes(
            link=link,
            definitions=definitions,
            record_sent=self._progress.record_sent,
            record_tried=self._progress.record_tried,
            request_of=state.request_of,
            finish=self.answering.finish,
            tell=self.states.tell,
            now_ms=now_ms,
            limits=self.limits,
        )
        #: By identity, from when it was read until the reply is in the state.
        self._active: dict[bytes, Command] = {}
        #: Of the last start: what to take up again, until `start`.
        self._restored: list[tuple[Command, CommandState]] = []
        #: Beside those, by ``request.id``: repetitions that are being answered again, and what is read again and was
        #: answered before.
        self._replied: dict[bytes, Command] = {}
        #: By ``request.id``, what may be read again though the last process did it: the reply that is in the topic, or
        #: None for what the state file had. And by partition, the offset of the last of those.
        self._before: dict[bytes, Said | None] = {}
        self._before_until: dict[int, int] = {}
        #: The short path, if there is one; it needs this to be made.
        self.short_reads: ShortReads | None = None
        self._link = link
        self._started = False
        self._sequence = 0
        self._forgot_ms = 0
        self._held_back: list[Callable[[], None]] = []
        self._closed = False
        #: For the metrics: records read, requests that had been seen before, records that are no request.
        self.received = 0
        self.repeated = 0
        self.undecodable = 0

    @property
    def unanswered(self) -> int:
        """Commands that were read and whose reply is not known to the state yet."""
        return len(self._active)

    # At the start and at the end.

    def restore(self, stored: StoredState) -> None:
        """Know the commands of the state file. What the replies topic has of them is said by `mark_answered`."""
        self._sequence = stored.last_sequence
        now = self._now_ms()
        for row in self._state.commands():
            command = self._command(row.identity, row.occurrence, row.ep, row.request, row.received_ms, row.expires_ms)
            command.sequence = row.sequence
            command.ticket = row.ticket
            with suppress(SerdeError):
                understand(command, request_in(row.request))
            command.raw = b""
            command.recorded = command.on_disk = True
            # Perhaps it was not told of; perhaps the last that was told is that it was sent.
            command.told = True
            command.since_ms = now
            self._active[command.identity] = command
            self._before[command.request_id] = None
            self._restored.append((command, row.state))

    def mark_answered(self, request_id: bytes, said: Said) -> None:
        """A reply that is in the replies topic, by its header ``request.id``.

        To be called for the topic's tail at the start, and again after the producer had to be made anew.
        """
        command = self._active.get(request_id[:16])
        if command is None or command.request_id != request_id:
            command = self._replied.get(request_id)
        if command is not None:
            if not command.published:
                self.answering.is_in_kafka(command, said)
        elif not self._started and len(request_id) == _REQUEST_ID_BYTES:
            self._before.setdefault(request_id, said)

    def reading(self, there: Mapping[int, range]) -> None:
        """What the requests topic holds, by partition, before the first of it is taken."""
        kept: dict[bytes, Said | None] = {}
        self._before_until.clear()
        for request_id, said in self._before.items():
            partition, offset = place_of(int.from_bytes(request_id[16:], "big"))
            if offset in there.get(partition, range(0)):
                kept[request_id] = said
                self._before_until[partition] = max(offset, self._before_until.get(partition, 0))
        self._before = kept

    def start(self) -> None:
        """Go on with what was restored; the registrations must be there again."""
        self._started = True
        restored, self._restored = self._restored, []
        for command, state in restored:
            if command.published:
                continue
            if state is CommandState.SENT:
                self.answering.finish(command, OutcomeUnknown(), None)
            else:
                command.attempts = int(state is CommandState.TRIED)
                self.lanes.enqueue(command)
                if command.waits:
                    self._lasts(command)

    async def stop(self, *, timeout: float) -> None:
        """Send nothing new, and wait for what devices have now. The rest waits in the state for the next start."""
        self._closed = True
        await self.lanes.stop(timeout=timeout)
        self.answering.close()
        self.states.close()
        with suppress(StateError, TimeoutError):  # what is not recorded is read again
            await asyncio.wait_for(self._progress.finish(), _RECORD_SECONDS)

    # Requests come in.

    def take(self, batch: list[RawRequest], done: Callable[[], None]) -> None:
        """Take a batch; ``done`` is called when there is room for the next."""
        parts = 1
        here = self._progress.begin(next_positions(batch), len(batch))

        def part_done() -> None:
            nonlocal parts
            parts -= 1
            self._progress.part_done(here)
            if not parts:
                self._held_back.append(done)
                self._release()

        fresh: dict[bytes, Command] = {}
        #: Whose order those keep.
        fronts: set[str] = set()
        short = self.short_reads
        if short is not None and (self._before or not short.is_open()):
            short = None
        for raw in batch:
            if self._is_mine is not None and not self._is_mine(raw):
                self._behind(raw)
                continue
            self.received += 1
            if (
                short is not None
                and (planned := short.plan(raw)) is not None
                and planned.ep not in fronts
                and self._begin_short(short, planned, raw, here)
            ):
                continue
            command: Command | None
            try:
                command = self._readable(raw)
            except SerdeError as exc:
                parts += 1
                here.open += 1
                self._undecodable(raw, str(exc), part_done)
                command = self._unreadable(raw)
            if command is None or (self._before and self._done_before(command, raw, here)):
                continue
            if self._is_new(command, here, fresh):
                self._progress.hold(here, command)
                fresh[command.identity] = self._active[command.identity] = command
                fronts.add(self._link.front(command.ep))
        if short is not None:
            short.send()
        self._look_up(fresh, part_done)
        self._forget_old()

    def _begin_short(self, short: ShortReads, planned: Planned, raw: RawRequest, here: Batch) -> bool:
        """Ask at once, by the short path, what is new and has its turn; False: nothing was done."""
        identity, value = planned.identity, raw.value
        assert value is not None
        if identity in self._active or self._state.may_know(identity):
            return False
        lane = self.lanes.free_turn(planned.ep, len(value))
        if lane is None:
            return False
        command = self._command(identity, occurrence_of(raw), planned.ep, value, self._now_ms(), None)
        command.ticket = planned.ticket
        command.path = planned.path
        self._progress.hold(here, command)
        self._progress.waits(command)
        self._active[identity] = command
        short.begin(command, planned, lane)
        return True

    def _readable(self, raw: RawRequest) -> Command:
        if raw.value is None:
            raise MalformedRecord("the record has no value")
        request, payload_at = decode_request(raw.value)
        if len(request.ep) + len(request.ticket) + len(request.payload.path) > _LONGEST_TEXTS:
            raise MalformedRecord(f"endpoint, ticket and path have more than {_LONGEST_TEXTS} characters")
        identity = identity_of(raw.value, request, payload_at)
        command = self._command(identity, occurrence_of(raw), request.ep, raw.value, self._now_ms(), request.expires)
        understand(command, request)
        command.request = request
        return command

    def _unreadable(self, raw: RawRequest) -> Command | None:
        """What can be answered all the same: a request of which the endpoint and the ticket can be read."""
        value = raw.value or b""
        if value[:5] not in REQUEST_FRAMES:
            return None
        try:
            (_, ep, ticket), _ = leading_strings(value)
        except ValueError:
            return None
        if not ep or not ticket or len(ep) + len(ticket) > _LONGEST_TEXTS:
            return None
        identity = blake2b(value, digest_size=16).digest()
        command = self._command(identity, occurrence_of(raw), ep, value, self._now_ms(), None)
        command.ticket = ticket
        return command

    def _command(
        self, identity: bytes, occurrence: int, ep: str, raw: bytes, received_ms: int, expires_ms: int | None
    ) -> Command:
        deadline = received_ms + int(self.limits.longest_wait * 1000)
        return Command(
            identity=identity,
            occurrence=occurrence,
            sequence=self._next_sequence(),
            ep=ep,
            raw=raw,
            size=len(raw),
            received_ms=received_ms,
            expires_ms=expires_ms,
            deadline_ms=deadline if expires_ms is None else min(deadline, expires_ms),
        )

    def _next_sequence(self) -> int:
        # By the clock, so that a number is not used again after the command that had the highest one was forgotten.
        self._sequence = max(self._sequence + 1, self._now_ms() << 12)
        return self._sequence

    def _done_before(self, command: Command, raw: RawRequest, here: Batch) -> bool:
        """True if the last process answered or stored this very record, and its position was not behind it yet."""
        known = command.request_id in self._before
        said = self._before.pop(command.request_id, None)
        self._behind(raw)
        if said is not None:
            self._progress.hold(here, command)
            self._replied[command.request_id] = command
            self.answering.is_in_kafka(command, said)
        return known

    def _behind(self, raw: RawRequest) -> None:
        """Nothing that the last process did is read again behind the last record of it."""
        if self._before and raw.offset >= self._before_until.get(raw.partition, 0):
            self._before_until.pop(raw.partition, None)
            if not self._before_until:
                self._before.clear()

    def _is_new(self, command: Command, here: Batch, fresh: Mapping[bytes, Command]) -> bool:
        before = fresh.get(command.identity) or self._active.get(command.identity)
        if before is None:
            return True
        self.repeated += 1
        if command.identity in fresh:
            # Its reply answers both, unless it turns out to be answered already.
            before.repetition = command
            return False
        if not before.published:
            # On its way already: its reply answers both.
            return False
        if before.keep and before.reply is not None:
            self._progress.hold(here, command)
            self._answer_again(command, before.reply)
            return False
        return True

    def _undecodable(self, raw: RawRequest, error: str, done: Callable[[], None]) -> None:
        def buried(durable: bool) -> None:
            if durable:
                done()
            else:
                self._later(bury)

        def bury() -> None:
            if not self._bury(raw, error, buried):
                self._later(bury)

        self.undecodable += 1
        _log.warning("undecodable request", partition=raw.partition, offset=raw.offset, error=error)
        bury()

    def _look_up(self, fresh: dict[bytes, Command], done: Callable[[], None]) -> None:
        """Begin with those of ``fresh`` that were not answered before."""

        def found(outcome: Mapping[bytes, Answer] | StateUnavailable) -> None:
            if isinstance(outcome, StateUnavailable):
                _log.warning("the state cannot be read, trying again", error=str(outcome))
                self._later(self._look_up, fresh, done)
            else:
                self._begin(fresh, outcome, done)

        known = [identity for identity in fresh if self._state.may_know(identity)]
        if not known:
            self._begin(fresh, {}, done)
            return
        try:
            self._state.find_answers(known, found)
        except StateOverloaded:
            self._later(self._look_up, fresh, done)
        except StateUnavailable:
            # The state is closed already: the process ends, and the next one reads the batch again.
            return

    def _begin(self, fresh: dict[bytes, Command], known: Mapping[bytes, Answer], done: Callable[[], None]) -> None:
        for command in fresh.values():
            answer = known.get(command.identity)
            if answer is None:
                self._progress.waits(command)
                self.lanes.enqueue(command)
                continue
            if self._active.get(command.identity) is command:
                del self._active[command.identity]
            again: Command | None = command
            if answer.occurrence == command.occurrence:
                # The same record, read again.
                again = command.repetition
                if again is not None and command.batch is not None:
                    self._progress.hold(command.batch, again)
                self._progress.release(command)
            if again is not None:
                self.repeated += 1
                self._answer_again(again, answer.reply)
        done()

    def _answer_again(self, command: Command, said: bytes) -> None:
        command.reply = said
        command.stored = True
        command.request = None
        self._replied[command.request_id] = command
        self.answering.send(command)

    def _settled(self, command: Command) -> None:
        self._replied.pop(command.request_id, None)
        if self._active.get(command.identity) is command:
            del self._active[command.identity]
        self._progress.release(command)
        self._release()

    def _lasts(self, command: Command) -> None:
        """The command is in the state file and has no reply yet."""
        self.lanes.park(command)
        self.states.tell(command, *self.lanes.standing(command))
        self._release()

    def _passed(self, positions: Positions) -> None:
        self._told_passed(positions)
        self._release()

    def _release(self) -> None:
        # No more is read than can be kept while Kafka takes no replies, nor than memory has room for while the disk
        # takes none of it, nor than a start can find in the replies topic while the disk takes no position.
        limits = self.limits
        while (
            self._held_back
            and len(self._active) + len(self._replied) < 2 * limits.in_all
            and self.lanes.in_memory < limits.bytes_in_memory
            and self._progress.behind < limits.behind
        ):
            self._held_back.pop()()

    def _forget_old(self) -> None:
        now = self._now_ms()
        if now - self._forgot_ms > _FORGET_EVERY_MS:
            self._forgot_ms = now
            with suppress(StateOverloaded, StateUnavailable):  # the next time, then
                self._state.forget_answered(now - int(self.limits.remember * 1000))

    def _later(self, what: Callable[..., None], *args: object) -> None:
        if not self._closed:
            asyncio.get_running_loop().call_later(self.limits.retry, what, *args)
