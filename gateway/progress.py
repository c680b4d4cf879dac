"""How far the requests topic is done with: where the next start goes on reading.

Kafka keeps a request until it is answered, so most commands never touch the disk before they are sent. The position in
the state file is behind the last batch of which, and of all before it, every request is

- answered: its reply is durable in Kafka and the state knows it, or
- recorded: it has its row in the state file (a request that waits, or one that must not be repeated), or
- buried as a dead letter.

What is open for longer than `HOLD` is recorded, the oldest first. So the position lags behind by seconds only, and when
the gateway is started again the recorded commands of a device are older than those that are read again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from gateway.command import Batch, Command
from gateway.state import CommandState, State, StateError, StateOverloaded, StateUnavailable

#: Seconds that a request may be open before it is recorded.
HOLD: Final = 1.0


class Progress:
    """The batches that are not done with. ``passed`` is told each position that is durable."""

    def __init__(self, state: State, passed: Callable[[Mapping[int, int]], None]) -> None:
        self._state = state
        self._passed = passed
        self._batches: deque[Batch] = deque()
        #: Positions that the state was not told yet.
        self._unsaid: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def begin(self, positions: Mapping[int, int]) -> Batch:
        """A batch was read; it is open until `part_done`."""
        loop = asyncio.get_running_loop()
        batch = Batch(positions=positions, since=loop.time(), commands=[])
        self._batches.append(batch)
        self._arm(loop)
        return batch

    def add(self, batch: Batch, command: Command) -> None:
        """The batch is not done with before the command is released."""
        command.batch = batch
        batch.commands.append(command)
        batch.open += 1

    def part_done(self, batch: Batch) -> None:
        """There is one reason less to read the batch again."""
        batch.open -= 1
        if not batch.open:
            batch.commands.clear()
            if batch is self._batches[0]:
                self._advance()

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
        self._state.put_command(command.row(CommandState.SENT))
        await self._state.durable()
        command.recorded = True
        self.release(command)

    async def finish(self) -> None:
        """Record all that is open, and the position behind it.

        Raises:
            StateError: the state file takes it no more; it is read again at the next start.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._record_open(before=float("inf"))
        await self._state.durable()
        self._say()
        await self._state.durable()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and not self._closed:
            self._timer = loop.call_later(HOLD / 2, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._record_open(before=loop.time() - HOLD)
        self._say()
        if self._batches or self._unsaid:
            self._arm(loop)

    def _record_open(self, *, before: float) -> None:
        for batch in self._batches:
            if batch.since >= before:
                return
            # A command that has a reply needs no row: the replies topic takes it, or the command is read again.
            waiting = [one for one in batch.commands if one.batch is batch and not one.recorded and one.reply is None]
            try:
                for command in waiting:
                    self._state.put_command(command.row(CommandState.QUEUED), self._recorder(command))
                    command.recorded = True
            except StateOverloaded:
                return  # the next time, then
            except StateUnavailable:
                return  # closed: the process ends
            batch.commands = [one for one in batch.commands if one.batch is batch]

    def _recorder(self, command: Command) -> Callable[[StateUnavailable | None], None]:
        def written(error: StateUnavailable | None) -> None:
            if error is None:
                self.release(command)
            else:
                command.recorded = False

        return written

    def _advance(self) -> None:
        while self._batches and not self._batches[0].open:
            self._unsaid.update(self._batches.popleft().positions)

    def _say(self) -> None:
        if not self._unsaid:
            return
        positions = dict(self._unsaid)

        def written(error: StateUnavailable | None) -> None:
            if error is None:
                self._passed(positions)
            else:
                # What was said later stands.
                self._unsaid = {**positions, **self._unsaid}
                if not self._closed:
                    self._arm(asyncio.get_running_loop())

        try:
            self._state.put_positions(positions, written)
            self._unsaid.clear()
        except StateError:
            return  # said again with the next
