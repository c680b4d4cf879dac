"""Records that a turn of the event loop gathers: one report a partition, and each is told of it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from gateway.gathered import Gathered
from gateway.uplink import MOST_RECORD_BYTES, Uplink
from tests.memory_uplink import MemoryUplink


def test_records_of_a_turn_keep_their_order_and_share_one_report_a_partition() -> None:
    async def run() -> None:
        uplink, told = MemoryUplink(), list[tuple[int, bool]]()
        gathered = Gathered(cast(Uplink, uplink), uplink.topics.registrations)

        def tell(number: int, durable: bool) -> None:
            told.append((number, durable))

        for number in range(6):
            gathered.send(number % 2, b"k", b"%d" % number, [], partial(tell, number))
        await asyncio.sleep(0)
        assert [(partition, value) for _, partition, _, value, _ in uplink.records] == [
            *((0, b"0"), (1, b"1"), (0, b"2"), (1, b"3"), (0, b"4"), (1, b"5"))
        ]
        assert len(uplink.reports) == 2 and told == []
        uplink.report()
        assert sorted(told) == [(number, True) for number in range(6)]

    asyncio.run(run())


def test_failure_of_one_waiter_keeps_no_other_from_its_report() -> None:
    async def run() -> None:
        uplink, told = MemoryUplink(), list[bool]()
        gathered = Gathered(cast(Uplink, uplink), uplink.topics.registrations)

        def fails(_: bool) -> None:
            raise RuntimeError("on purpose")

        gathered.send(0, b"k", b"v", [], fails)
        gathered.send(0, b"k", b"v", [], told.append)
        await asyncio.sleep(0)
        uplink.report()
        assert told == [True]

    asyncio.run(run())


def test_everybody_is_told_when_the_queue_is_full_or_a_record_is_too_large() -> None:
    async def run() -> None:
        uplink, told = MemoryUplink(), list[tuple[str, bool]]()
        gathered = Gathered(cast(Uplink, uplink), uplink.topics.registrations)

        def send(name: str, value: bytes = b"v") -> None:
            gathered.send(0, b"k", value, [], lambda durable: told.append((name, durable)))

        uplink.room = 1
        for name in ("first", "second", "third"):
            send(name)
        assert told == [("third", False)]  # the second did not go, and there is room for one
        await asyncio.sleep(0)
        # The report that would have vouched for the first does not come.
        assert told[1:] == [("first", False), ("second", False)] and uplink.reports == []
        uplink.room, told[:] = 9, []
        send("large", bytes(MOST_RECORD_BYTES + 1))
        send("good")
        await asyncio.sleep(0)
        uplink.report()
        assert told == [("large", False), ("good", True)]

    asyncio.run(run())
