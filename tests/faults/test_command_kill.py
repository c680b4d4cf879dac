"""`kill -9` of the gateway while commands flow: each has one reply, and what must not be repeated never is."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster, producer
from schemas.avro import serde
from schemas.avro.records import (
    CommandPhase,
    CommandStatus,
    ExecuteRequest,
    GenericBody,
    Request,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
)
from tests.raw_device import RawDevice, polite
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

DEVICES = 20
KILLS = 5
SEED = 7_919
#: Of a thousand requests so many go to a slow device, to one that sleeps, and to nobody; and so many were sent before.
SLOW, ASLEEP, MISSING, REPEATED = 1, 1, 10, 50
#: So many requests are without a reply at most: what waits for one device is bounded, and is refused beyond.
UNANSWERED = 2_000


class Caller:
    """Asks for one thing after another; a record of the requests topic each."""

    def __init__(self, gateway: Gateway) -> None:
        #: Tickets, as often as they were sent; and those of executes.
        self.sent: Counter[str] = Counter()
        self.executes: set[str] = set()
        #: How many replies were seen by now; another thread sees them.
        self.answered = 0
        self._gateway = gateway
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(SEED)
        sender = producer(self._gateway.cluster)
        requests: list[Request] = []
        while not self._ended.wait(0.002):
            if self.sent.total() - self.answered >= UNANSWERED:
                continue
            if requests and chance.randrange(1000) < REPEATED:
                request = requests[-1 - min(chance.randrange(1, 1000), len(requests) - 1)]
            else:
                request = self._new(chance, len(requests))
                requests.append(request)
            sender.produce(self._gateway.topics.requests, serde.encode(request))
            sender.poll(0)
            self.sent[request.ticket] += 1
        assert sender.flush(60) == 0

    def _new(self, chance: random.Random, number: int) -> Request:
        others = ["slow"] * SLOW + ["asleep"] * ASLEEP + ["missing"] * MISSING
        which = chance.randrange(1000)
        ep = others[which] if which < len(others) else f"device-{chance.randrange(DEVICES)}"
        payload = RequestPayload(kind=RequestKind.READ, path="/3/0/0")
        if chance.random() < 0.3:
            payload = RequestPayload(
                kind=RequestKind.EXECUTE, path="/3/0/4", body=ExecuteRequest(parameters=f"0='{number}'")
            )
            self.executes.add(f"t{number}")
        return Request(server_id=self._gateway.id, ep=ep, ticket=f"t{number}", payload=payload)

    def finish(self) -> None:
        self._ended.set()
        self._thread.join()


def slowly(request: Message) -> Message:
    time.sleep(1.2)
    return polite(request)


def test_commands_have_one_reply_each_and_are_never_executed_twice(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    with Gateway(gateway_id, kafka, tmp_path) as gateway, ExitStack() as stack:
        gateway.wait_ready()
        devices = [stack.enter_context(RawDevice(gateway.address, f"device-{n}")) for n in range(DEVICES)]
        devices.append(stack.enter_context(RawDevice(gateway.address, "slow", answer=slowly)))
        asleep = stack.enter_context(RawDevice(gateway.address, "asleep"))
        for device in devices:
            device.register("b=U")
        asleep.register("b=UQ")
        asleep.listening = False
        caller = Caller(gateway)

        def replies() -> list[Response]:
            found = [one for one in gateway.seen(gateway.topics.replies) if isinstance(one, Response)]
            caller.answered = len(found)
            return found

        for _ in range(KILLS):
            wanted = len(replies()) + chance.randint(20, 500)
            until("more replies", lambda wanted=wanted: len(replies()) >= wanted)  # type: ignore[misc]  # bound now
            gateway.kill()
            gateway.start()
        wanted = len(replies()) + 200
        until("it goes on", lambda: len(replies()) >= wanted)
        caller.finish()
        asleep.listening = True
        gateway.wait_ready()
        asleep.update()
        until("all replies", lambda: {one.ticket for one in replies()} >= set(caller.sent), 200)
        # And once more everything, so that what would come twice has come.
        gateway.kill()
        gateway.start()
        gateway.request("device-0", "last", RequestKind.READ, "/3/0/0")
        gateway.reply("last")

        found = Counter(one.ticket for one in replies())
        # A repetition has a reply of its own, unless it came before the first had one.
        assert all(1 <= found[ticket] <= often for ticket, often in caller.sent.items())
        executed = Counter(one.payload for device in (*devices, asleep) for one in device.asked(Code.POST))
        assert set(executed.values()) == {1}
        unknown = set()
        for one in replies():
            if one.rep.code is ResponseCode.UNKNOWN:
                assert isinstance(one.rep.body, GenericBody)
                assert "outcome unknown" in one.rep.body.message
                unknown.add(one.ticket)
            elif one.ep == "missing":
                assert one.rep.code is ResponseCode.NOT_FOUND
            else:
                assert one.rep.code in (ResponseCode.CONTENT, ResponseCode.CHANGED), one
        asked = {one.ticket for one in replies() if one.ticket in caller.executes and one.ep != "missing"}
        assert len(asked - unknown) <= len(executed) <= len(asked)
        assert asleep.requests

        def standing() -> dict[str, CommandPhase]:
            """The last that was told of each command of which anything was."""
            told = [one for one in gateway.seen(gateway.topics.commands) if isinstance(one, CommandStatus)]
            return {one.ticket: one.state for one in told}

        # Whatever was told before a kill: nothing is left as queued or sent, and all of it is true.
        until("the last state of each", lambda: all(state.is_final for state in standing().values()))
        ended = standing()
        assert unknown <= set(ended)
        for ticket, state in ended.items():
            assert state is (CommandPhase.FAILED if ticket in unknown else CommandPhase.ANSWERED), ticket
        # Those of the last moment before it woke need not have been told of.
        assert {one.ticket for one in replies() if one.ep == "asleep"} & set(ended)
