"""`kill -9` of the gateway while commands flow: each has one reply, and what must not be repeated never is."""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster, producer
from schemas.avro import serde
from schemas.avro.records import (
    ExecuteRequest,
    GenericBody,
    Request,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
)
from tests.raw_device import RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

DEVICES = 20
KILLS = 5
SEED = 7_919


class Caller:
    """Asks for one thing after another; a record of the requests topic each."""

    def __init__(self, gateway: Gateway) -> None:
        self.sent: dict[str, RequestKind] = {}
        self._gateway = gateway
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(SEED)
        sender = producer(self._gateway.cluster)
        number = 0
        while not self._ended.wait(0.002):
            number += 1
            ep, ticket = f"device-{chance.randrange(DEVICES)}", f"t{number}"
            payload = RequestPayload(kind=RequestKind.READ, path="/3/0/0")
            if chance.random() < 0.3:
                body = ExecuteRequest(parameters=f"0='{number}'")
                payload = RequestPayload(kind=RequestKind.EXECUTE, path="/3/0/4", body=body)
            request = Request(server_id=self._gateway.id, ep=ep, ticket=ticket, payload=payload)
            sender.produce(self._gateway.topics.requests, serde.encode(request))
            sender.poll(0)
            self.sent[ticket] = payload.kind
        assert sender.flush(60) == 0

    def finish(self) -> None:
        self._ended.set()
        self._thread.join()


def test_commands_have_one_reply_each_and_are_never_executed_twice(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    with Gateway(gateway_id, kafka, tmp_path) as gateway, ExitStack() as stack:
        gateway.wait_ready()
        devices = [stack.enter_context(RawDevice(gateway.address, f"device-{n}")) for n in range(DEVICES)]
        for device in devices:
            device.register("b=U")
        caller = Caller(gateway)

        def answered() -> int:
            return len(gateway.seen(gateway.topics.replies))

        for _ in range(KILLS):
            wanted = answered() + chance.randint(20, 500)
            until("more replies", lambda wanted=wanted: answered() >= wanted)  # type: ignore[misc]  # bound now
            gateway.kill()
            gateway.start()
        wanted = answered() + 200
        until("it goes on", lambda: answered() >= wanted)
        caller.finish()
        until("all replies", lambda: answered() >= len(caller.sent), 180)
        # And once more everything, so that what would come twice has come.
        gateway.kill()
        gateway.start()
        gateway.request("device-0", "last", RequestKind.READ, "/3/0/0")
        gateway.reply("last")

        replies = [one for one in gateway.seen(gateway.topics.replies) if isinstance(one, Response)]
        assert Counter(one.ticket for one in replies) == Counter([*caller.sent, "last"])
        executed = Counter(one.payload for device in devices for one in device.asked(Code.POST))
        assert set(executed.values()) == {1}
        unknown = 0
        for one in replies:
            if one.rep.code is ResponseCode.UNKNOWN:
                assert isinstance(one.rep.body, GenericBody)
                assert "outcome unknown" in one.rep.body.message
                unknown += 1
            else:
                assert one.rep.code in (ResponseCode.CONTENT, ResponseCode.CHANGED), one
        assert sum(executed.values()) >= sum(kind is RequestKind.EXECUTE for kind in caller.sent.values()) - unknown
