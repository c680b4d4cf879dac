"""The command loop on the real state file, with devices and Kafka in the same process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as FilePath

import pytest

from gateway.answering import Said
from gateway.commands import DeviceGone, DeviceSentReset, DeviceTimeout, Limits
from gateway.exchange import CoapRequest, CoapResponse, Method
from gateway.state import CommandState
from schemas.avro import serde
from schemas.avro.records import (
    ReadBody,
    Request,
    RequestFormat,
    RequestKind,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.avro.registry import schema_of
from schemas.avro.request_identity import identity_of, leading_strings
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path
from tests.command_bench import (
    EXECUTE,
    NOW,
    bench,
    request,
    request_id,
    run,
    words,
)


def test_request_is_carried_out_and_answered_with_its_ticket(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1"))
            [reply] = await b.answered(1)
            assert (reply.ticket, reply.ep, reply.server_id, reply.path) == ("t1", "lamp", "gw", "/3303/0/5700")
            assert reply.rep.code is ResponseCode.CONTENT
            assert isinstance(reply.rep.body, ReadBody)
            assert len(device.got) == 1
            assert not list(b.state.commands())

    run(scenario)


def test_same_request_is_answered_again_and_not_executed_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(EXECUTE)
            await b.answered(1)
            await b.send(EXECUTE)
            first, second = await b.answered(2)
            assert first == second
            assert len(device.got) == 1
            topic = b.topic
        async with bench(tmp_path) as b:
            b.topic = topic
            device = b.link.add("lamp")
            b.loop.start()
            await b.send(EXECUTE, EXECUTE)
            await b.until(lambda: b.replies)
            assert b.replies[0] == first
            assert device.got == []

    run(scenario)


def test_same_request_while_it_is_carried_out_has_one_reply(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", open_gate=False)
            await b.send(EXECUTE, EXECUTE)
            await b.until(lambda: device.got)
            await b.send(EXECUTE)
            device.gate.set()
            await b.answered(1)
            await b.send(request("next"))
            await b.answered(2)
            assert len(device.got) == 2

    run(scenario)


def test_one_ticket_for_different_requests_is_different_requests(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            observe = request("ticket#1", RequestKind.OBSERVE)
            cancel = request("ticket#1", RequestKind.OBSERVE_CANCEL)
            await b.send(observe)
            await b.send(cancel)
            replies = await b.answered(2)
            assert [r.rep.kind for r in replies] == [RequestKind.OBSERVE, RequestKind.OBSERVE_CANCEL]
            assert b.link.calls == [("observe", "lamp/3303/0/5700 ticket#1"), ("cancel", "lamp/3303/0/5700")]

    run(scenario)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (replace(request("t"), server_id="other"), True),
        (replace(request("t"), expires=NOW + 1), False),
        (request("t", ep="other"), False),
        (request("u"), False),
        (request("t", path="/3303/0"), False),
        (request("t", RequestKind.DISCOVER), False),
        (replace(request("t"), payload=replace(request("t").payload, paths=("/3",))), False),
    ],
)
def test_identity_is_endpoint_ticket_and_payload(other: Request, same: bool) -> None:
    def identity(one: Request) -> bytes:
        value = serde.encode(one)
        decoded = serde.decode(value)
        assert isinstance(decoded, Request)
        return identity_of(value, decoded)

    # What a version 2 record carries beside the request does not matter either, only its own payload.
    assert identity(replace(other, expires=5)) == identity(replace(other, expires=NOW * 7))
    assert (identity(request("t")) == identity(other)) is same


def test_identity_does_not_run_endpoint_and_ticket_together() -> None:
    def identity(ep: str, ticket: str) -> bytes:
        one = request(ticket, ep=ep)
        return identity_of(serde.encode(one), one)

    assert identity("a", "bc") != identity("ab", "c")


def test_device_has_one_command_at_a_time_in_order_and_devices_do_not_wait_for_each_other(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            slow = b.link.add("slow", open_gate=False)
            b.link.add("fast")
            paths = [f"/3303/0/{number}" for number in range(5600, 5610)]
            await b.send(
                *(request("s", path=path, ep="slow") for path in paths),
                *(request("f", path=path, ep="fast") for path in paths),
            )
            await b.until(lambda: len(b.replies) == 10)
            assert [r.path for r in b.replies] == paths
            assert {r.ep for r in b.replies} == {"fast"}
            assert len(slow.got) == 1
            slow.gate.set()
            await b.answered(20)
            assert ["/" + "/".join(one.uri_path) for one in slow.got] == paths

    run(scenario)


def test_device_that_is_not_registered_is_said_so_and_asked_once_it_is(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            await b.send(request("t1"))
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.NOT_FOUND
            assert words(reply) == "no device lamp is registered at gw"
            b.link.add("lamp")
            await b.send(request("t1"))
            assert (await b.answered(2))[1].rep.code is ResponseCode.CONTENT
            assert b.request_ids[0] != b.request_ids[1]

    run(scenario)


def test_refused_request_is_answered_without_the_device(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1", RequestKind.EXECUTE, "/3"), request("t2", path="/what"))
            for reply in await b.answered(2):
                assert reply.rep.code is ResponseCode.BAD_REQUEST
            assert device.got == []

    run(scenario)


@pytest.mark.parametrize(
    ("failure", "asked", "code", "said", "counted"),
    [
        (DeviceTimeout(), request("t"), ResponseCode.UNKNOWN, "no answer within 5 s", "timed_out"),
        (DeviceTimeout(), EXECUTE, ResponseCode.UNKNOWN, "outcome unknown", "outcome_unknown"),
        (DeviceSentReset(), request("t"), ResponseCode.UNKNOWN, "Reset", "device_reset"),
        (DeviceGone(), request("t"), ResponseCode.NOT_FOUND, "no device", "not_registered"),
        (DeviceGone(), EXECUTE, ResponseCode.UNKNOWN, "outcome unknown", "outcome_unknown"),
        (LookupError("oops"), request("t"), ResponseCode.INTERNAL_SERVER_ERROR, "oops", "gateway_fault"),
        (LookupError("oops"), EXECUTE, ResponseCode.UNKNOWN, "outcome unknown", "outcome_unknown"),
    ],
)
def test_failed_exchange_has_a_reply_and_the_next_command_its_turn(
    tmp_path: FilePath, failure: Exception, asked: Request, code: ResponseCode, said: str, counted: str
) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp").answers = [failure]
            await b.send(asked, request("next"))
            first, second = await b.answered(2)
            assert first.rep.code is code
            assert said in words(first)
            assert second.rep.code is ResponseCode.CONTENT
            outcomes = b.loop.answering.outcomes
            assert {outcome for outcome, count in outcomes.items() if count} == {counted, "done"}
            assert outcomes.total() == 2

    run(scenario)


def test_sleeping_device_gets_its_commands_when_it_wakes(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            await b.send(request("t1"), request("t2"), EXECUTE)
            assert b.loop.lanes.waiting == 3
            assert device.got == []
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            b.loop.start()
            assert b.loop.lanes.waiting == 3
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            assert [r.ticket for r in await b.answered(3)] == ["t1", "t2", "reboot"]

    run(scenario)


def test_timeout_puts_a_device_in_queue_mode_to_sleep_and_keeps_the_command(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True)
            device.answers = [DeviceTimeout()]
            await b.send(request("t1"), request("t2"))
            await b.until(lambda: device.got and b.loop.lanes.waiting == 2 and not b.loop.lanes.in_flight)
            assert len(device.got) == 1
            b.loop.lanes.device_awake("lamp")
            assert [r.ticket for r in await b.answered(2)] == ["t1", "t2"]

    run(scenario)


def test_device_heard_of_during_a_timeout_is_asked_again_at_once(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, open_gate=False)
            device.answers = [DeviceTimeout()]
            await b.send(request("t1"))
            await b.until(lambda: device.got)
            b.loop.lanes.device_awake("lamp")
            device.gate.set()
            assert [r.ticket for r in await b.answered(1)] == ["t1"]

    run(scenario)


def test_device_heard_of_while_it_has_a_request_is_sent_it_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            for ep, queue in (("sleeper", True), ("lamp", False)):
                device = b.link.add(ep, queue=queue, open_gate=False)
                await b.send(request(ep, ep=ep))
                await b.until(lambda device=device: device.got)  # type: ignore[misc]
                b.loop.lanes.device_awake(ep)
            # The other one has been awake all the time.
            assert [ep for call, ep in b.link.calls if call == "send again"] == ["sleeper"]

    run(scenario)


@pytest.mark.parametrize("queue", [True, False], ids=["queue mode", "always on"])
def test_request_that_was_sent_and_expires_without_an_answer_may_have_been_executed(
    tmp_path: FilePath, queue: bool
) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, Limits()) as b:
            device = b.link.add("lamp", queue=queue, open_gate=False)
            device.answers = [DeviceTimeout()]
            await b.send(request("t1", expires=NOW + 20_000))
            await b.until(lambda: device.got)
            # Nobody sends it after it has expired, or waits for its answer much longer.
            assert b.link.timeouts == [20.0]
            b.now = NOW + 20_000
            device.gate.set()
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.UNKNOWN
            assert "expired" in words(reply) and "it may have been executed" in words(reply)

    run(scenario)


def test_interrupted_execute_of_a_sleeping_device_is_not_kept(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp", queue=True).answers = [DeviceTimeout()]
            await b.send(EXECUTE)
            [reply] = await b.answered(1)
            assert "outcome unknown" in words(reply)

    run(scenario)


def test_expired_request_is_answered_and_not_sent(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1", expires=NOW))
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.PRECONDITION_FAILED
            assert device.got == []

    run(scenario)


def test_request_expires_while_it_waits(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            # The timer asks the clock again, and waits on as long as that says so.
            await b.send(request("t1", expires=NOW + 1), request("t2", expires=NOW + 60_000))
            b.now = NOW + 1
            [reply] = await b.answered(1)
            assert (reply.ticket, reply.rep.code) == ("t1", ResponseCode.PRECONDITION_FAILED)
            assert b.loop.lanes.waiting == 1
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            assert (await b.answered(2))[1].rep.code is ResponseCode.CONTENT

    run(scenario)


def test_request_that_expired_behind_another_is_not_sent(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", open_gate=False)
            await b.send(request("t1"), request("t2", expires=NOW + 60_000))
            await b.until(lambda: device.got)
            b.now = NOW + 60_000
            device.gate.set()
            assert [r.rep.code for r in await b.answered(2)] == [
                ResponseCode.CONTENT,
                ResponseCode.PRECONDITION_FAILED,
            ]
            assert len(device.got) == 1

    run(scenario)


def test_what_waits_for_a_device_that_leaves_is_answered(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp", queue=True, awake=False)
            await b.send(request("t1"), request("t2"))
            del b.link.devices["lamp"]
            b.loop.lanes.device_gone("lamp")
            assert {r.rep.code for r in await b.answered(2)} == {ResponseCode.NOT_FOUND}
            assert b.loop.lanes.waiting == 0

    run(scenario)


def test_queue_is_bounded_per_device_and_in_all(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, Limits(per_device=2, in_all=3, retry=0.01)) as b:
            for ep in ("a", "b"):
                b.link.add(ep, queue=True, awake=False)
            await b.send(*(request(f"{ep}{n}", ep=ep) for ep in ("a", "b") for n in range(3)))
            refused = await b.answered(3)
            assert [r.ticket for r in refused] == ["a2", "b1", "b2"]
            assert {r.rep.code for r in refused} == {ResponseCode.INTERNAL_SERVER_ERROR}
            assert "2 commands wait for a already; try again" in words(refused[0])

    run(scenario)


def test_undecodable_records_go_to_the_dead_letters(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            whole = serde.encode(request("t9"))
            broken = whole[:-2]
            reply_record = serde.encode(
                serde.request_from_json('{"ep":"x","ticket":"y","payload":{"kind":"read","path":"/3"}}')
            )[:5]
            await b.send(b"{}", None, broken, b"", reply_record, whole)
            replies = await b.answered(2)
            assert [raw.value for raw, _ in b.letters] == [b"{}", None, broken, b"", reply_record]
            assert all(error for _, error in b.letters)
            said = {r.rep.code: r for r in replies}
            assert said.keys() == {ResponseCode.BAD_REQUEST, ResponseCode.CONTENT}
            assert said[ResponseCode.BAD_REQUEST].ticket == "t9"
            assert "cannot be read" in words(said[ResponseCode.BAD_REQUEST])

    run(scenario)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_unreadable_request_of_any_version_is_answered(tmp_path: FilePath, version: int) -> None:
    newest = {1: RequestFormat.TLV, 2: RequestFormat.SENML_CBOR, 3: RequestFormat.LWM2M_CBOR}[version]
    asked = request("t9")
    whole = serde.encode(replace(asked, payload=replace(asked.payload, content_format=newest)))
    assert whole.startswith(schema_of("request.AvroRequest", version).frame)
    _, payload_at = leading_strings(whole)

    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            # A kind that no schema has.
            poisoned = whole[:payload_at] + b"\x7e" + whole[payload_at + 1 :]
            await b.send(poisoned)
            [reply] = await b.answered(1)
            assert [raw.value for raw, _ in b.letters] == [poisoned]
            assert (reply.ticket, reply.ep, reply.rep.code) == ("t9", "lamp", ResponseCode.BAD_REQUEST)
            assert "cannot be read" in words(reply)

    run(scenario)


def test_request_whose_texts_no_reply_could_repeat_is_a_dead_letter(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            await b.send(request("t" * 20_000), request("t1"))
            [reply] = await b.answered(1)
            assert reply.ticket == "t1"
            assert [error for _, error in b.letters] == ["endpoint, ticket and path have more than 10000 characters"]

    run(scenario)


def test_answer_too_large_for_a_record_is_answered_in_words(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            # A multiple resource of many small instances (TLV): its record is ten times as large.
            instances = b"".join(b"\x61" + number.to_bytes(2, "big") + b"\x01" for number in range(40_000))
            payload = b"\x98\x01" + len(instances).to_bytes(3, "big") + instances
            device.answers.append(CoapResponse(code=0x45, content_format=11542, payload=payload))
            await b.send(request("t1", path="/2000/0/1"))
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.INTERNAL_SERVER_ERROR
            assert "ask for a part of /2000/0/1" in words(reply)

    run(scenario)


def test_reply_that_kafka_does_not_take_is_produced_once_it_does(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            b.kafka_takes = False
            await b.send(*(request(f"t{n}") for n in range(5)))
            await b.until(lambda: b.loop.answering.unpublished == 5)
            b.kafka_takes = True
            assert sorted(r.ticket for r in await b.answered(5)) == [f"t{n}" for n in range(5)]
            assert len(device.got) == 5

    run(scenario)


def test_reply_reported_as_failed_that_is_in_the_topic_is_not_produced_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            b.kafka_keeps = False
            await b.send(request("t1"), request("t2", path="/3303/0/5601"))
            await b.until(lambda: b.loop.answering.unpublished == 2)
            b.kafka_takes = False
            b.loop.mark_answered(request_id(b.topic[0]), Said(reply=b"reply of t1", sent=True))
            b.kafka_takes = b.kafka_keeps = True
            assert [r.ticket for r in await b.answered(1)] == ["t2"]

    run(scenario)


def test_command_that_must_not_be_repeated_is_stored_as_sent_before_it_leaves(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            seen: list[CommandState] = []
            ask = device.ask

            async def look(coap: CoapRequest) -> CoapResponse:
                seen.extend(row.state for row in list(b.state.commands()))
                return await ask(coap)

            device.ask = look  # type: ignore[assignment, method-assign]  # a look at the state at the moment of sending
            await b.send(EXECUTE)
            await b.answered(1)
            assert seen == [CommandState.SENT]

    run(scenario)


def test_own_requests_of_the_gateway_have_their_turn_in_the_device_s_order(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", open_gate=False)
            order: list[str] = []

            async def own() -> None:
                order.append(f"own after {len(b.replies)} and {device.at_once}")

            async def broken() -> None:
                order.append("broken")
                raise LookupError

            await b.send(request("t1"))
            await b.until(lambda: device.got)
            b.loop.lanes.submit_internal("lamp", own)
            b.loop.lanes.submit_internal("lamp", broken)
            await b.send(request("t2"))
            device.gate.set()
            await b.answered(2)
            assert order == ["own after 1 and 0", "broken"]
            b.loop.lanes.submit_internal("stranger", own)
            await b.until(lambda: len(order) == 3)

    run(scenario)


def test_write_carries_its_value(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            node = Resource(path=Path(1, 0, 6), type=ResourceType.BOOLEAN, value=False)
            body = WriteRequest(mode=WriteMode.REPLACE, node=node)
            await b.send(request("t4", RequestKind.WRITE, "/1/0/6", body=body))
            [reply] = await b.answered(1)
            assert (reply.rep.code, reply.rep.body) == (ResponseCode.CHANGED, None)
            assert (device.got[0].method, device.got[0].payload) == (Method.PUT, b"\xc1\x06\x00")

    run(scenario)
