"""Replies that came together go into their topic together: those of a partition share the delivery report of the last.

Owns what is gathered until the datagrams that were waiting have been handed out. Delivery is in order and gapless
(`gateway.uplink`), so the report of the last record vouches for those before it. A reply that Kafka's queue does not
take is tried again; those before it, which nobody vouches for yet, wait for it. What fails goes the way of all replies
(`gateway.answering`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.answering import HEADER_REQUEST_ID, Answering
from gateway.command import Command
from gateway.registry import KafkaPlace
from gateway.uplink import Done, Uplink

#: Seconds for which replies are gathered while at least so many others are awaited: each request to Kafka costs it and
#: us as much as many records.
GATHERING = 0.002
FEW = 8


class _Partition:
    """What is on its way to one."""

    __slots__ = ("held", "life", "number", "taken")

    def __init__(self, number: int) -> None:
        self.number = number
        self.held: list[tuple[bytes, Command]] = []
        #: What Kafka's queue has and no report was asked for, and which of the producers has it.
        self.taken: list[Command] = []
        self.life = 0


class ReplyBatches:
    """All replies on this way: those of devices, as they came. ``retry`` is seconds between tries."""

    def __init__(self, uplink: Uplink, answering: Answering, *, retry: float) -> None:
        self._uplink = uplink
        self._topic: Final = uplink.topics.replies
        self._answering = answering
        self._retry = retry
        self._partitions = [_Partition(number) for number in range(uplink.partitions[self._topic])]
        self._filled: list[_Partition] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, place: KafkaPlace, command: Command) -> None:
        """Write the reply of a command, that it has, with the next `flush`."""
        partition = self._partitions[place.replies]
        if not partition.held and partition not in self._filled:
            self._filled.append(partition)
        partition.held.append((place.key, command))

    def flush(self, expected: int) -> None:
        """Those that came together are here, and ``expected`` others may follow."""
        if not self._filled:
            return
        if expected < FEW:
            self._send_all()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHERING, self._again)

    def _send_all(self) -> None:
        if self._filled:
            filled, self._filled = self._filled, []
            for partition in filled:
                self._send(partition)

    def _send(self, partition: _Partition) -> None:
        uplink, held = self._uplink, partition.held
        if partition.taken and partition.life != uplink.lives:
            # What of them is in Kafka was read back meanwhile, and is published.
            self._give_up([command for command in partition.taken if not command.published])
            partition.taken = []
        if not uplink.accepting:
            if partition.taken:
                self._later(partition)
            else:
                self._give_up([command for _, command in held])
                partition.held = []
            return
        partition.held = []
        last = len(held) - 1
        for number, (key, command) in enumerate(held):
            headers = [(HEADER_REQUEST_ID, command.request_id)]
            report = self._reporter([*partition.taken, command]) if number == last else None
            assert command.reply is not None
            if not uplink.send(self._topic, partition.number, key, command.reply, headers, report, patient=True):
                partition.held = held[number:]
                self._later(partition)
                return
            partition.taken.append(command)
            partition.life = uplink.lives
        self._answering.publishing += len(partition.taken)
        partition.taken = []

    def _reporter(self, commands: list[Command]) -> Done:
        def report(durable: bool) -> None:
            self._answering.publishing -= len(commands)
            if durable:
                self._answering.settle_all(commands)
            else:
                self._give_up(commands)

        return report

    def _give_up(self, commands: list[Command]) -> None:
        for command in commands:
            self._answering.hold(command)

    def _later(self, partition: _Partition) -> None:
        if partition not in self._filled:
            self._filled.append(partition)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._retry, self._again)

    def _again(self) -> None:
        self._timer = None
        self._send_all()
