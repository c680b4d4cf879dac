"""Where commands stand, as it is told: of those that last, in order, across crashes and while Kafka is away."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path as FilePath

import pytest

from gateway.exchange import CoapResponse
from gateway.limits import Limits
from gateway.reaching import DeviceTimeout
from schemas.avro.records import ExecuteRequest, RequestKind, WriteMode, WriteRequest
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path
from tests.command_bench import NOW, bench, copy_as_after_a_kill, request, run, words

EXECUTE = request("reboot", RequestKind.EXECUTE, "/3/0/4", body=ExecuteRequest(parameters=""))
QUICK = Limits(answer=0.05, retry=0.01)


def test_a_command_that_is_answered_at_once_is_told_of_by_its_reply_alone(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            await b.send(*(request(f"t{n}") for n in range(50)), EXECUTE)
            await b.answered(51)
        assert b.told == []

    run(scenario)


def test_what_waits_is_queued_then_sent_then_answered(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False, open_gate=False)
            await b.send(request("t1"), request("t2"))
            await b.until(lambda: len(b.told) == 2)
            assert [(one.ticket, one.state.value, one.attempts, one.message) for one in b.told] == [
                ("t1", "QUEUED", 0, "the device sleeps"),
                ("t2", "QUEUED", 0, "the device sleeps"),
            ]
            assert (b.told[0].server_id, b.told[0].kind, b.told[0].path) == ("gw", "read", "/3303/0/5700")
            assert (b.told[0].since, b.told[0].received, b.told[0].expires) == (NOW, NOW, NOW + 86_400_000)
            b.now += 5
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            await b.until(lambda: len(b.told) == 3)
            # One at a time: the second is still queued.
            assert b.states("t1") == ["QUEUED", "SENT"] and b.states("t2") == ["QUEUED"]
            assert (b.told[2].since, b.told[2].received, b.told[2].attempts) == (NOW + 5, NOW, 1)
            device.gate.set()
            await b.answered(2)
            await b.until(lambda: not b.loop.unanswered)
            assert b.states("t1") == b.states("t2") == ["QUEUED", "SENT", "ANSWERED"]
            assert b.told[-1].message == "CONTENT"
            assert not list(b.state.commands())

    run(scenario)


def test_a_slow_device_has_the_command_and_the_error_of_a_device_is_an_answer(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            for ep, asked in (("lamp", request("r")), ("door", replace(EXECUTE, ep="door"))):
                b.link.add(ep, open_gate=False).answers = [CoapResponse(code=0x84)]
                await b.send(asked)
            await b.until(lambda: len(b.told) == 2)
            assert b.states("r") == b.states("reboot") == ["SENT"]
            for device in b.link.devices.values():
                device.gate.set()
            await b.answered(2)
            await b.until(lambda: len(b.told) == 4)
            assert b.states("r") == b.states("reboot") == ["SENT", "ANSWERED"]
            assert b.told[-1].message.startswith("NOT_FOUND: ")

    run(scenario)


def test_a_device_that_falls_asleep_midway_leaves_the_rest_for_its_next_wake_up(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, QUICK) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            device.answers = [CoapResponse(code=0x45, content_format=0, payload=b"1"), DeviceTimeout("no ACK")]
            await b.send(*(request(f"t{n}") for n in range(4)))
            await b.until(lambda: len(b.told) == 4)
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            await b.until(lambda: b.states("t1") == ["QUEUED", "SENT", "QUEUED"])
            assert "no answer" in b.told[-1].message and b.told[-1].attempts == 1
            assert (len(device.got), b.states("t2"), b.states("t3")) == (2, ["QUEUED"], ["QUEUED"])
            b.loop.lanes.device_awake("lamp")
            assert [one.ticket for one in await b.answered(4)] == ["t0", "t1", "t2", "t3"]
            await b.until(lambda: b.states("t1")[-1] == "ANSWERED")
            assert [one.attempts for one in b.told if one.ticket == "t1"] == [0, 1, 1, 2, 2]

    run(scenario)


def test_an_execute_that_a_sleeping_device_does_not_answer_takes_none_with_it(tmp_path: FilePath) -> None:
    """What must not be repeated has an unknown outcome, and those behind it are not sent to a device that sleeps."""

    async def scenario() -> None:
        async with bench(tmp_path, QUICK) as b:
            device = b.link.add("lamp", queue=True)
            device.answers = [DeviceTimeout("no ACK")]
            await b.send(EXECUTE, replace(EXECUTE, ticket="again"), request("read"))
            first = await b.answered(1)
            assert first[0].ticket == "reboot" and "outcome unknown" in words(first[0])
            await b.until(lambda: b.states("again") == b.states("read") == ["QUEUED"])
            assert len(device.got) == 1
            b.loop.lanes.device_awake("lamp")
            assert [one.ticket for one in await b.answered(3)] == ["reboot", "again", "read"]

    run(scenario)


@pytest.mark.parametrize("restarts", [False, True], ids=["in one life", "across a crash"])
def test_expiry_is_answered_and_told_when_it_comes(tmp_path: FilePath, restarts: bool) -> None:
    async def scenario() -> None:
        folder = tmp_path / "first"
        async with bench(folder, QUICK) as b:
            b.link.add("lamp", queue=True, awake=False)
            # The one that expires is neither the first nor the last.
            await b.send(request("a"), request("b", expires=NOW + 60_000), request("c"))
            await b.until(lambda: len(b.told) == 3)
            if restarts:
                copy_as_after_a_kill(folder, tmp_path / "second")
                folder = tmp_path / "second"
            else:
                b.now += 60_000
                b.loop.lanes._lanes["lamp"].timer.cancel()  # type: ignore[union-attr]  # the loop's clock stands still
                b.loop.lanes._due(b.loop.lanes._lanes["lamp"])
                assert "expire" in words((await b.answered(1))[0])
                await b.until(lambda: b.states("b") == ["QUEUED", "EXPIRED"])
                assert b.loop.lanes.waiting == 2
                return
        async with bench(folder, QUICK) as b:
            b.now += 60_000
            b.link.add("lamp", queue=True, awake=False)
            b.loop.start()
            assert "expire" in words((await b.answered(1))[0])
            await b.until(lambda: len(b.told) == 3)
            assert (b.states("a"), b.states("b"), b.states("c")) == (["QUEUED"], ["EXPIRED"], ["QUEUED"])

    run(scenario)


def test_what_was_sent_before_a_crash_and_expires_after_it_may_have_been_executed(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first", QUICK) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            device.answers = [DeviceTimeout("no ACK")]
            await b.send(request("tried", expires=NOW + 60_000), request("never", expires=NOW + 60_000))
            await b.until(lambda: len(list(b.state.commands())) == 2)
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            await b.until(lambda: b.states("tried") == ["QUEUED", "SENT", "QUEUED"])
            await b.state.durable()
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
        async with bench(tmp_path / "second", QUICK) as b:
            b.now += 60_000
            b.link.add("lamp", queue=True, awake=False)
            b.loop.start()
            said = {reply.ticket: words(reply) for reply in await b.answered(2)}
            assert "it may have been executed" in said["tried"]
            assert "it was not executed" in said["never"]
            await b.until(lambda: b.states("tried") == b.states("never") == ["EXPIRED"])

    run(scenario)


def test_states_that_kafka_does_not_take_come_when_it_does_the_newest_alone(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, QUICK) as b:
            device = b.link.add("lamp", queue=True, awake=False, open_gate=False)
            await b.send(request("t"))
            b.kafka_takes = False
            await b.until(lambda: [row.ticket for row in b.state.commands()] == ["t"])
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            await b.until(lambda: device.got)
            device.gate.set()
            await b.until(lambda: b.loop.answering.unpublished)
            assert b.told == []
            b.kafka_takes = True
            await b.answered(1)
            await b.until(lambda: not b.loop.unanswered)
            assert b.states("t")[-1] == "ANSWERED"
            assert len(set(b.states("t"))) == len(b.states("t"))

    run(scenario)


def test_the_last_state_is_told_after_a_crash_behind_the_reply(tmp_path: FilePath) -> None:
    """Killed when the reply was in Kafka and the state was not: the next start reads the reply, and tells."""

    async def scenario() -> None:
        async with bench(tmp_path / "first", QUICK) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            await b.send(request("t"), request("u", expires=NOW + 10))
            await b.until(lambda: len(b.told) == 2)
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            device.awake = True
            b.now += 20
            b.loop.lanes.device_awake("lamp")
            await b.answered(2)
            said = dict(zip(b.request_ids, b.said, strict=True))
        async with bench(tmp_path / "second", QUICK) as b:
            b.link.add("lamp", queue=True, awake=False)
            for identity, one in said.items():
                b.loop.mark_answered(identity, one)
            b.loop.start()
            await b.until(lambda: len(b.told) == 2 and not b.loop.unanswered)
            assert (b.states("t"), b.states("u")) == (["ANSWERED"], ["EXPIRED"])
            assert b.replies == [] and not list(b.state.commands())

    run(scenario)


def test_thousands_wait_for_one_device_on_disk_and_not_in_memory(tmp_path: FilePath) -> None:
    count, size = 3_000, 4_000
    text = "x" * size

    def write(number: int) -> WriteRequest:
        node = Resource(path=Path(3, 0, 15), type=ResourceType.STRING, value=f"{number:05}{text}")
        return WriteRequest(mode=WriteMode.REPLACE, node=node)

    async def scenario() -> None:
        async with bench(tmp_path / "first", QUICK) as b:
            b.link.add("lamp", queue=True, awake=False)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for at in range(0, count, 1_000):
                batch = [request(f"t{n}", RequestKind.WRITE, "/3/0/15", body=write(n)) for n in range(at, at + 1_000)]
                await b.send(*batch)
                del batch
                await b.until(lambda at=at: len(b.told) == at + 1_000)  # type: ignore[misc]
                # What the test itself keeps.
                b.topic.clear()
            b.told.clear()
            taken = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert (b.loop.lanes.waiting, b.loop.lanes.in_memory) == (count, 0)
            assert b.loop.lanes.size > count * size
            assert taken < count * 1_000 < count * size / 3
        # And so after a start, until the device wakes.
        async with bench(tmp_path / "first", QUICK) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            b.loop.start()
            assert (b.loop.lanes.waiting, b.loop.lanes.in_memory) == (count, 0)
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            replies = await b.answered(count)
            assert [one.ticket for one in replies] == [f"t{n}" for n in range(count)]
            assert [one.payload[4:9] for one in device.got] == [b"%05d" % n for n in range(count)]
            await b.until(lambda: not b.loop.unanswered)
            assert (b.loop.lanes.size, b.loop.lanes.in_memory) == (0, 0)

    run(scenario)


def test_no_more_is_read_than_memory_has_room_for_while_the_disk_takes_nothing(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.state import State, StateUnavailable

    async def scenario() -> None:
        async with bench(tmp_path, replace(QUICK, bytes_in_memory=100)) as b:
            b.link.add("lamp", queue=True, awake=False)

            def full(*_: object) -> None:
                raise StateUnavailable("the disk is full")

            with monkeypatch.context() as patched:
                patched.setattr(State, "put_command", full)
                room: list[bool] = []
                b.loop.take([b.record(request(f"t{n}")) for n in range(4)], lambda: room.append(True))
                await b.until(lambda: b.loop.lanes.waiting == 4)
                assert not room
            await b.until(lambda: room)
            assert b.loop.lanes.in_memory == 0

    run(scenario)
