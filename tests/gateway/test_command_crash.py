"""Commands when the process is killed, the disk refuses or hangs, and Kafka is away."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path as FilePath

import pytest

from gateway import progress, state, state_rows
from gateway.answering import Said
from gateway.commands import Limits
from gateway.state import CommandState
from schemas.avro import serde
from schemas.avro.records import (
    Request,
    RequestKind,
    Response,
    ResponseCode,
    ResponsePayload,
)
from tests.command_bench import (
    EXECUTE,
    NOW,
    PLACE,
    WAIT,
    Bench,
    bench,
    copy_as_after_a_kill,
    request,
    request_id,
    run,
    words,
)


def test_restart_goes_on_where_the_gateway_was(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("queued", queue=True, awake=False)
            for ep in ("reading", "executing", "published"):
                b.link.add(ep, open_gate=False)
            await b.send(
                request("q1", ep="queued"),
                request("q2", ep="queued"),
                request("r", ep="reading"),
                replace(EXECUTE, ep="executing"),
                replace(EXECUTE, ep="published"),
            )
            await b.until(lambda: all(b.link.devices[ep].got for ep in ("reading", "executing", "published")))
            rows = {row.ep: row for row in list(b.state.commands())}
            # What may be repeated is in Kafka: it is on the disk only if it waits for long.
            assert {ep: row.state for ep, row in rows.items()} == dict.fromkeys(
                ("executing", "published"), CommandState.SENT
            )
            topic = b.topic
        assert b.replies == []
        # Stopped in order, so all of it is recorded.
        assert b.passed == {PLACE: 5}
        async with bench(tmp_path / "first") as b:
            assert b.state.load().positions == {PLACE: 5}
            devices = {ep: b.link.add(ep) for ep in ("queued", "reading", "executing", "published")}
            # Its reply was produced all the same: the topic's tail tells.
            b.loop.mark_answered(request_id(topic[4]), Said(reply=b"said before", sent=True))
            b.loop.start()
            replies = {r.ticket + r.ep: r for r in await b.answered(4)}
            assert replies["q1queued"].rep.code is ResponseCode.CONTENT
            assert replies["rreading"].rep.code is ResponseCode.CONTENT
            assert "outcome unknown" in words(replies["rebootexecuting"])
            assert devices["executing"].got == devices["published"].got == []
            assert len(devices["reading"].got) == 1
            assert [r.ticket for r in b.replies if r.ep == "queued"] == ["q1", "q2"]
            assert not list(b.state.commands())

    run(scenario)


@pytest.mark.parametrize("known", [True, False], ids=["its reply is in the topic", "its reply is not there"])
@pytest.mark.parametrize("asked", [request("t"), EXECUTE], ids=["read", "execute"])
@pytest.mark.parametrize("settled", [False, True], ids=["read again at once", "read again later"])
def test_request_that_was_under_way_in_a_crash_has_one_reply(
    tmp_path: FilePath, asked: Request, known: bool, settled: bool
) -> None:
    """The gateway is killed when the device was asked, and has answered or not; then it reads the topic again."""

    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            device = b.link.add("lamp", open_gate=known)
            await b.send(asked)
            await b.until(lambda: b.replies if known else device.got)
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic, before = b.topic, [*zip(b.request_ids, b.replies, strict=True)]
        async with bench(tmp_path / "second") as b:
            b.topic = topic
            device = b.link.add("lamp")
            for identity, said in before[:known]:
                b.loop.mark_answered(identity, Said(reply=serde.encode(said), sent=True))
            b.loop.start()
            b.loop.reading({0: range(len(topic))})
            if settled:
                await b.until(lambda: not b.loop.unanswered)
            assert b.state.load().positions == {}
            await b.read(*topic)
            if not known:
                [reply] = await b.answered(1)
                assert (reply.rep.code is ResponseCode.CONTENT) is (asked is not EXECUTE)
            assert len(device.got) == (not known and asked is not EXECUTE)
            # Asked once more, it is answered once more, and without the device.
            await b.until(lambda: not b.loop.unanswered)
            await b.send(asked)
            again = (await b.answered(1 if known else 2))[-1]
            assert again == (before[0][1] if known else b.replies[0])
            assert len(device.got) == (not known and asked is not EXECUTE)

    run(scenario)


def test_record_that_is_read_again_after_its_answer_was_stored_is_not_answered_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1"), request("t2"))
            await b.answered(2)
            await b.until(lambda: not b.loop.unanswered)
            await b.read(*b.topic)
            await b.send(request("t3"))
            assert [r.ticket for r in await b.answered(3)] == ["t1", "t2", "t3"]
            assert len(device.got) == 3

    run(scenario)


def test_request_and_its_repetition_are_both_answered_when_read_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            first, second = b.record(request("t1")), b.record(request("t1"))
            said = Response(
                ticket="t1",
                server_id="gw",
                ep="lamp",
                path="/3",
                timestamp=NOW,
                rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.READ),
            )
            b.loop.mark_answered(request_id(first), Said(reply=serde.encode(said), sent=True))
            b.loop.start()
            b.loop.reading({0: range(2)})
            # Only the first was answered before the crash.
            await b.read(first, second)
            await b.until(lambda: b.request_ids)
            assert (b.request_ids, b.replies) == ([request_id(second)], [said])
            assert device.got == []

    run(scenario)


def test_topic_is_passed_behind_what_is_done_with(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HOLD", 0.05)

    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp", open_gate=False)
            b.link.add("asleep", queue=True, awake=False)
            b.kafka_takes = False
            b.loop.take([b.record(b"no request")], lambda: None)
            await b.send(request("t1"), request("q", ep="asleep"))
            # What waits is recorded, but before it is a dead letter that Kafka does not take.
            await b.until(lambda: len(list(b.state.commands())) == 2)
            assert b.state.load().positions == {}
            b.kafka_takes = True
            await b.until(lambda: b.passed == {PLACE: 3})
            assert b.state.load().positions == {PLACE: 3}
            b.link.devices["lamp"].gate.set()
            assert [r.ticket for r in await b.answered(1)] == ["t1"]
            await b.until(lambda: [row.ticket for row in list(b.state.commands())] == ["q"])

    run(scenario)


def test_what_is_recorded_is_done_before_what_is_read_again(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HOLD", 0.05)

    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("lamp", open_gate=False)
            await b.send(*(request(f"t{n}") for n in range(3)))
            await b.until(lambda: b.passed == {PLACE: 3})
            monkeypatch.setattr(progress, "HOLD", 60)
            await b.send(*(request(f"t{n}") for n in range(3, 6)))
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic = b.topic
        async with bench(tmp_path / "second") as b:
            b.link.add("lamp")
            b.loop.start()
            await b.read(*topic[b.state.load().positions[PLACE] :])
            assert [r.ticket for r in await b.answered(6)] == [f"t{n}" for n in range(6)]

    run(scenario)


class Disk:
    """The state file's writes, as a test wants them: refused, or held up until ``goes_on`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._write = state_rows.write
        monkeypatch.setattr(state, "write", self)
        self._looks = 0
        look = progress.Progress._look

        def counted(one: progress.Progress) -> None:
            self._looks += 1
            look(one)

        monkeypatch.setattr(progress.Progress, "_look", counted)

    async def looked_at(self, b: Bench, times: int = 5) -> None:
        """Wait until what waits was looked at some more times."""
        wanted = self._looks + times
        await b.until(lambda: self._looks >= wanted)

    def __call__(self, db: sqlite3.Connection, group: state_rows.Group, *, answered: int, keep_answered: int) -> int:
        assert self.goes_on.wait(WAIT)
        if self.refuses:
            raise sqlite3.OperationalError("database or disk is full")
        return self._write(db, group, answered=answered, keep_answered=keep_answered)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Whatever waits is recorded at once, if the disk takes it."""
    monkeypatch.setattr(progress, "HOLD", 0.02)
    return Disk(monkeypatch)


def test_disk_that_refuses_keeps_the_position_back(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            b.link.add("asleep", queue=True, awake=False)
            disk.refuses = True
            await b.send(request("q", ep="asleep"), request("t1"), EXECUTE)
            await b.until(lambda: b.state.groups_failed > 3)
            replies = {r.ticket: r for r in b.replies}
            assert replies["t1"].rep.code is ResponseCode.CONTENT
            assert "not sent" in words(replies["reboot"])
            assert b.passed == {}
            disk.refuses = False
            await b.until(lambda: b.passed == {PLACE: 3})
            assert [row.ticket for row in list(b.state.commands())] == ["q"]
            # It was not sent, so it is tried anew.
            await b.send(EXECUTE)
            assert (await b.answered(3))[-1].rep.code is ResponseCode.CHANGED

    run(scenario)


def test_execute_stays_recorded_as_sent_on_a_slow_disk(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            device = b.link.add("lamp", open_gate=False)
            disk.goes_on.clear()
            await b.send(EXECUTE)
            await disk.looked_at(b)
            disk.goes_on.set()
            await b.until(lambda: device.got and b.passed == {PLACE: 1})
            assert [row.state for row in list(b.state.commands())] == [CommandState.SENT]

    run(scenario)


def test_execute_that_could_not_be_recorded_in_time_leaves_nothing_behind(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, Limits(answer=0.1, retry=0.01)) as b:
            device = b.link.add("lamp")
            disk.goes_on.clear()
            await b.send(EXECUTE)
            await b.until(lambda: b.replies)
            assert "not sent" in words(b.replies[0])
            disk.goes_on.set()
            await b.until(lambda: b.passed == {PLACE: 1})
            assert not list(b.state.commands())
            assert device.got == []

    run(scenario)


def test_answered_request_that_is_looked_up_for_long_is_not_recorded(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(EXECUTE)
            await b.answered(1)
            await b.until(lambda: not b.loop.unanswered)
            disk.goes_on.clear()
            room = asyncio.Event()
            b.loop.take([b.record(EXECUTE)], room.set)
            await disk.looked_at(b)
            assert not room.is_set()
            disk.goes_on.set()
            await b.until(lambda: b.passed == {PLACE: 2})
            assert len(b.replies) == 2
            assert not list(b.state.commands())
            assert len(device.got) == 1

    run(scenario)


def test_position_never_goes_back(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            for number in range(20):
                disk.refuses = number % 3 == 0
                await b.send(request(f"t{number}"))
                await disk.looked_at(b, 1)
            disk.refuses = False
            await b.until(lambda: b.passed == {PLACE: 20})
            assert b.every_passed == sorted(b.every_passed)

    run(scenario)


def test_no_more_is_read_than_a_start_can_know_of(tmp_path: FilePath, disk: Disk) -> None:
    """Refused requests need no disk; but while it takes no position, all of them would be read again."""

    async def scenario() -> None:
        async with bench(tmp_path, Limits(behind=10, retry=0.01)) as b:
            disk.refuses = True
            for number in range(3):
                room = asyncio.Event()
                b.loop.take([b.record(request(f"t{number}-{n}")) for n in range(4)], room.set)
                await b.until(lambda number=number: len(b.replies) == 4 * (number + 1))  # type: ignore[misc]
                assert room.is_set() is (number < 2)
            disk.refuses = False
            await asyncio.wait_for(room.wait(), WAIT)
            assert b.passed == {PLACE: 12}

    run(scenario)


def test_nothing_is_recorded_behind_a_command_that_would_be_done_again(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("other", queue=True, awake=False)
            device = b.link.add("lamp")
            b.kafka_takes = False
            await b.send(request("t1"))
            await b.until(lambda: b.loop.answering.unpublished)
            device.gate.clear()
            await b.send(request("t2"), request("o", ep="other"))
            await b.until(lambda: list(b.state.commands()))
            await disk.looked_at(b)
            # The first is done, but only this process knows.
            assert [row.ticket for row in list(b.state.commands())] == ["o"]
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic = b.topic
        async with bench(tmp_path / "second") as b:
            b.link.add("other", queue=True, awake=False)
            b.link.add("lamp")
            b.loop.start()
            b.loop.reading({0: range(3)})
            await b.read(*topic)
            assert [r.ticket for r in await b.answered(2)] == ["t1", "t2"]

    run(scenario)


def test_recorded_command_that_is_refused_at_the_start_has_one_reply(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("lamp", queue=True, awake=False)
            await b.send(request("q"))
            await b.until(lambda: list(b.state.commands()))
            # Before the position is behind it.
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic = b.topic
        async with bench(tmp_path / "second") as b:
            assert b.state.load().positions == {}
            b.loop.start()
            b.loop.reading({0: range(1)})
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.NOT_FOUND
            await b.until(lambda: not b.loop.unanswered)
            b.link.add("lamp")
            await b.read(*topic)
            b.topic = topic
            # Sent again it is a new one.
            await b.send(request("q"))
            assert [r.rep.code for r in await b.answered(2)] == [ResponseCode.NOT_FOUND, ResponseCode.CONTENT]

    run(scenario)


def test_repetition_is_answered_though_the_first_was_answered_before_the_crash(tmp_path: FilePath, disk: Disk) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("lamp")
            await b.send(EXECUTE)
            await b.answered(1)
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic, said = [*b.topic, b.record(EXECUTE)], Said(reply=serde.encode(b.replies[0]), sent=True)
        for marked in (True, False):
            # Its reply is in the topic; or the topic has lost it, and only the state file knows.
            async with bench(tmp_path / "second") as b:
                device = b.link.add("lamp")
                if marked:
                    b.loop.mark_answered(request_id(topic[0]), said)
                b.loop.start()
                b.loop.reading({0: range(2)})
                await b.until(lambda: not b.loop.unanswered)
                await b.read(*topic)
                await b.answered(1)
                assert b.request_ids == [request_id(topic[1])]
                assert device.got == []

    run(scenario)


def test_refusal_of_the_last_process_is_not_kept(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            first = b.record(request("t"))
            b.loop.mark_answered(request_id(first), Said(reply=b"not registered", sent=False))
            b.loop.start()
            b.loop.reading({0: range(1)})
            await b.read(first)
            assert b.replies == []
            b.link.add("lamp")
            await b.send(request("t"))
            assert (await b.answered(1))[0].rep.code is ResponseCode.CONTENT

    run(scenario)


def test_second_reply_that_is_in_the_topic_is_not_produced_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            await b.send(EXECUTE)
            await b.answered(1)
            b.kafka_keeps = False
            await b.send(EXECUTE)
            await b.until(lambda: b.loop.answering.unpublished)
            b.kafka_takes = False
            b.loop.mark_answered(request_id(b.topic[1]), Said(reply=b"said", sent=True))
            b.kafka_takes = b.kafka_keeps = True
            await b.until(lambda: not b.loop.answering.unpublished and not b.loop.answering.publishing)
            await b.send(request("next"))
            assert [r.ticket for r in await b.answered(2)] == ["reboot", "next"]

    run(scenario)


def test_what_was_read_before_another_topic_is_there_does_not_count(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            # Replies to a topic that was deleted, and of a program that marked them in another way.
            for number in range(1_000, 1_100):
                mark = number.to_bytes(16, "big") + (number << 24).to_bytes(8, "big")
                b.loop.mark_answered(mark, Said(reply=b"old", sent=True))
            b.loop.mark_answered(b"other", Said(reply=b"old", sent=True))
            b.loop.start()
            b.loop.reading({0: range(10)})
            assert not b.loop._before  # it would stay for ever
            await b.send(request("t"))
            await b.answered(1)

    run(scenario)


def test_what_another_process_answered_is_forgotten_once_it_is_passed(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.loop._is_mine = lambda raw: raw.offset % 2 == 0
            b.link.add("lamp")
            topic = [b.record(request(f"t{number}")) for number in range(5)]
            for record in topic[1:4]:
                b.loop.mark_answered(request_id(record), Said(reply=b"said", sent=True))
            b.loop.start()
            b.loop.reading({0: range(5)})
            await b.read(*topic[:3])
            assert b.loop._before
            # The last of them is the other's, and nothing of ours is behind it.
            await b.read(topic[3])
            assert not b.loop._before
            assert {r.ticket for r in await b.answered(1)} == {"t0"}
            assert b.loop.received == 2

    run(scenario)
