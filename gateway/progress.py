"""How far the requests topic is done with: where the next start goes on reading.

Kafka keeps a request until it is answered, so most commands never touch the disk before they are sent. The position in
the state file is behind the last batch of which, and of all before it, every request is

- answered: its reply is durable in Kafka and the state knows it, or
- recorded: it has its row in the state file (a request that waits, or one that must not be repeated), or
- buried as a dead letter.

What waits for longer than `HOLD` is recorded, the oldest first, and nothing of a device while something older of it has
neither a row nor a durable reply. So, while Kafka and the disk work, the position lags behind by seconds only; and what
a start finds recorded for a device is older than what it reads again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.command import Batch, Command
from gateway.state import CommandState, Positions, State, StateError, StateUnavailable

#: Seconds that a request may wait before it is recorded.
HOLD: Final = 1.0


class Progress:
    """The batches that are not done with. ``passed`` is told each position that is durable."""

    def __init__(self, state: State, passed: Callable[[Positions], None], lasts: Callable[[Command], None]) -> None:
        """``lasts`` is told of each command that has its row, and no reply, after `HOLD`."""
        self._state = state
        self._passed = passed
        self._lasts = lasts
        #: Those that were recorded as they left, and when.
        self._left: deque[tuple[float, Command]] = deque()
        self._batches: deque[Batch] = deque()
        #: Where the topic is done with, and the records that were read up to there; that which is durable.
        self._reached: Positions = {}
        self._records_reached = 0
        self._durable: Positions = self._reached
        self._saying = False
        #: Rows that are on their way to the disk.
        self._recording = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        #: Records that were read and are not before the durable position.
        self.behind = 0

    def begin(self, positions: Positions, records: int) -> Batch:
        """``records`` were read, up to ``positions``; the batch is open until `part_done`."""
        loop = asyncio.get_running_loop()
        batch = Batch(positions=positions, records=records, since=loop.time())
        self._batches.append(batch)
        self.behind += records
        self._arm(loop)
        return batch

    def hold(self, batch: Batch, command: Command) -> None:
        """The batch is not done with before the command is released."""
        command.batch = batch
        batch.open += 1

    def waits(self, command: Command) -> None:
        """The command has begun: from now on it may be recorded."""
        if command.batch is not None:
            command.batch.waiting.append(command)

    def part_done(self, batch: Batch) -> None:
        """There is one reason less to read the batch again."""
        batch.open -= 1
        if not batch.open:
            batch.waiting.clear()
            while self._batches and not self._batches[0].open:
                first = self._batches.popleft()
                self._reached = {**self._reached, **first.positions}
                self._records_reached += first.records

    def release(self, command: Command) -> None:
        """The command need not be read again: it is answered or recorded."""
        batch, command.batch = command.batch, None
        if batch is not None:
            self.part_done(batch)

    async def record_sent(self, command: Command) -> None:
        """Make durable that the command is being sent.

        Raises:
            StateError: it is not.
        """
        # Nothing may say QUEUED of it from now on.
        command.recorded = True
        if command.batch is not None and command in command.batch.waiting:
            command.batch.waiting.remove(command)
        self._state.put_command(command.row(CommandState.SENT))
        await self._state.durable()
        command.on_disk = True
        self.release(command)
        loop = asyncio.get_running_loop()
        self._left.append((loop.time(), command))
        self._arm(loop)

    def record_tried(self, command: Command) -> None:
        """Have the next start know that a command that may be repeated was sent. Lazy: the disk may refuse it."""
        if command.recorded:
            with suppress(StateError):
                self._state.put_command(command.row(CommandState.TRIED))

    async def finish(self) -> None:
        """Record all that waits, and the position behind it.

        Raises:
            StateError: the state file takes it no more; it is read again at the next start.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._state.durable()
        self._record_waiting(before=float("inf"))
        await self._state.durable()
        self._say()
        await self._state.durable()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and not self._closed:
            self._timer = loop.call_later(HOLD / 2, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        before = loop.time() - HOLD
        self._record_waiting(before=before)
        while self._left and self._left[0][0] < before:
            _, command = self._left.popleft()
            if command.reply is None:
                self._lasts(command)
        self._say()
        if self._batches or self._left or self._reached is not self._durable:
            self._arm(loop)

    def _record_waiting(self, *, before: float) -> None:
        if self._recording:
            # Should its group fail, nothing newer must be on the disk.
            return
        held: set[str] = set()
        for batch in self._batches:
            if batch.since >= before:
                return
            for command in batch.waiting:
                if command.batch is None or command.published:
                    continue
                if command.reply is not None:
                    # Kafka does not take it at present. Until it does, a start would do the command again.
                    held.add(command.ep)
                elif command.ep not in held and not self._record(command):
                    return  # the next time, then

    def _record(self, command: Command) -> bool:
        def written(error: StateUnavailable | None) -> None:
            self._recording -= 1
            if error is None:
                command.on_disk = True
                self.release(command)
                if command.reply is None:
                    self._lasts(command)

        try:
            state = CommandState.TRIED if command.attempts else CommandState.QUEUED
            self._state.put_command(command.row(state), written)
        except StateError:
            return False
        command.recorded = True
        self._recording += 1
        return True

    def _say(self) -> None:
        if self._saying or self._reached is self._durable:
            return
        positions, records = self._reached, self._records_reached

        def written(error: StateUnavailable | None) -> None:
            self._saying = False
            if error is None:
                self._durable = positions
                self._records_reached -= records
                self.behind -= records
                self._passed(positions)

        try:
            self._state.put_positions(positions, written)
            self._saying = True
        except StateError:
            return  # the next time, then
