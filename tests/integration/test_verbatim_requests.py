"""The six requests of the contract, letter for letter, through a gateway process to a device process on a real Kafka.

Each goes both ways in: `headwater request --file -`, and as a record without a key, as a console producer makes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from connectors.kafka import Cluster
from headwater.demo.audit import read_side
from schemas.avro import serde
from schemas.avro.records import ReadBody, RequestKind, Response, ResponseCode
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.way import Gateway, Part, Sensors, produce, until

pytestmark = [pytest.mark.kafka]

OBSERVE = '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#1", "payload": {"kind": "observe", "path": "/3303/0/5700", "contentFormat": "TLV", "body": null}}'  # noqa: E501
CANCEL = '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#1", "payload": {"kind": "observeCancel", "path": "/3303/0/5700", "contentFormat": "TLV", "body": null}}'  # noqa: E501
READ = '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#2", "payload": {"kind": "read", "path": "/3/0/0", "contentFormat": "TLV", "body": null}}'  # noqa: E501
READ_FLAG = '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#3", "payload": {"kind": "read", "path": "/1/0/6", "contentFormat": "TLV", "body": null}}'  # noqa: E501
WRITE = '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#4", "payload": {"kind": "write", "path": "/1/0/6", "contentFormat": "TLV", "body": {"io.zeelos.leshan.avro.request.AvroWriteRequest": {"mode": "REPLACE", "node": {"io.zeelos.leshan.avro.resource.AvroResource": {"id": 6, "path": "/1/0/6", "kind": "SINGLE_RESOURCE", "type": "BOOLEAN", "value": {"boolean": false}}}}}}}'  # noqa: E501
EXECUTE = '{"serverId": "server1", "ep": "EP", "ticket": "ticket#5", "payload": {"kind": "execute", "path": "/3/0/4", "contentFormat": "TLV", "body": {"io.zeelos.leshan.avro.request.AvroExecuteRequest": {"parameters": "param1,param2"}}}}'  # noqa: E501

#: Puts a request in.
Send = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A gateway with one device; what the device reads besides is observed, as a clock for the test."""

    gateway: Gateway
    sensors: dict[str, Sensors]

    def produce(self, text: str) -> None:
        """As a console producer does."""
        produce(self.gateway.cluster, self.gateway.topics.requests, serde.encode(serde.request_from_json(text)))

    def request(self, text: str) -> None:
        """As a person does."""
        gateway = self.gateway
        command = [*(sys.executable, "-m", "headwater.cli", "request", "--file", "-", "--output", "json")]
        command += ["--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ticket"] == json.loads(text)["ticket"]

    def replies(self, ep: str) -> list[Response]:
        found = self.gateway.seen(self.gateway.topics.replies)
        return [one for one in found if isinstance(one, Response) and one.ep == ep and one.ticket != "declared"]

    def reply(self, ep: str, count: int) -> Response:
        """The last of so many replies to this device's requests, waited for."""
        until(f"{count} replies", lambda: len(self.replies(ep)) >= count)
        found = self.replies(ep)
        assert len(found) == count, found
        return found[-1]

    def wait_for_notifications(self, ep: str, path: str, more: int) -> None:
        wanted = len(self.gateway.notifications(ep, path)) + more
        until(f"{wanted} notifications of {path}", lambda: len(self.gateway.notifications(ep, path)) >= wanted)


@pytest.fixture(scope="module")
def bench(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("verbatim")
    gateway = Gateway("rock64", kafka, folder, observe=("/3304/0/5700",))
    sensors = {
        ep: Sensors(gateway.address, folder, "--period", "0.2", "--log-level", "info", endpoint=ep)
        for ep in ("console", "person")
    }
    parts: list[Part] = [gateway, *sensors.values()]
    try:
        for part in parts:
            part.start()
        gateway.wait_ready()
        until("both devices", lambda: gateway.metric("observations") == 2)
        yield Bench(gateway=gateway, sensors=sensors)
    finally:
        for part in parts:
            part.end()


@pytest.mark.parametrize("ep", ["console", "person"])
def test_the_six_requests_of_the_contract_get_one_reply_each(bench: Bench, ep: str) -> None:
    put: Send = bench.produce if ep == "console" else bench.request
    device = bench.sensors[ep]

    def send(text: str) -> None:
        put(text.replace('"EP"', f'"{ep}"'))

    send(OBSERVE)
    reply = bench.reply(ep, 1)
    _is(reply, ep, "ticket#1", RequestKind.OBSERVE, "/3303/0/5700", ResponseCode.CONTENT)
    assert isinstance(reply.rep.body, ReadBody)
    assert isinstance(reply.rep.body.content, Resource)
    assert reply.rep.body.content.type is ResourceType.FLOAT
    bench.wait_for_notifications(ep, "/3303/0/5700", 2)
    assert {one.ticket for one in bench.gateway.notifications(ep, "/3303/0/5700")} == {"ticket#1"}

    send(CANCEL)
    reply = bench.reply(ep, 2)
    _is(reply, ep, "ticket#1", RequestKind.OBSERVE_CANCEL, "/3303/0/5700", ResponseCode.CONTENT)
    cancelled = len(bench.gateway.notifications(ep, "/3303/0/5700"))
    # The device still measures and tells what else is observed; of this nothing more comes.
    bench.wait_for_notifications(ep, "/3304/0/5700", 5)
    assert len(bench.gateway.notifications(ep, "/3303/0/5700")) == cancelled

    send(READ)
    reply = bench.reply(ep, 3)
    _is(reply, ep, "ticket#2", RequestKind.READ, "/3/0/0", ResponseCode.CONTENT)
    assert _content(reply) == Resource(path=Lwm2mPath(3, 0, 0), type=ResourceType.STRING, value="Headwater")

    send(READ_FLAG)
    reply = bench.reply(ep, 4)
    _is(reply, ep, "ticket#3", RequestKind.READ, "/1/0/6", ResponseCode.CONTENT)
    assert _content(reply) == Resource(path=Lwm2mPath(1, 0, 6), type=ResourceType.BOOLEAN, value=True)

    send(WRITE)
    _is(bench.reply(ep, 5), ep, "ticket#4", RequestKind.WRITE, "/1/0/6", ResponseCode.CHANGED)
    send(READ_FLAG.replace("ticket#3", "ticket#3b"))
    written = bench.reply(ep, 6)
    assert _content(written) == Resource(path=Lwm2mPath(1, 0, 6), type=ResourceType.BOOLEAN, value=False)

    send(EXECUTE)
    _is(bench.reply(ep, 7), ep, "ticket#5", RequestKind.EXECUTE, "/3/0/4", ResponseCode.CHANGED)
    executed = _executions(device)
    assert len(executed) == 1
    assert "param1,param2" in executed[0]

    # The same again is answered from the store, also by the next life of the gateway: the device is not asked.
    send(EXECUTE)
    assert bench.reply(ep, 8) == bench.replies(ep)[6]
    bench.gateway.kill()
    bench.gateway.start()
    bench.gateway.wait_ready()
    send(EXECUTE)
    assert bench.reply(ep, 9) == bench.replies(ep)[6]
    # A read that was not answered yet has its turn after them, so that an execute had had its own.
    send(READ.replace("ticket#2", "ticket#6"))
    _is(bench.reply(ep, 10), ep, "ticket#6", RequestKind.READ, "/3/0/0", ResponseCode.CONTENT)
    assert len(_executions(device)) == 1
    stored = read_side(bench.gateway.cluster, [bench.gateway.topics.replies])
    told = [one.record.ticket for one in stored if isinstance(one.record, Response) and one.record.ep == ep]
    assert [ticket for ticket in told if ticket != "declared"] == [
        *("ticket#1", "ticket#1", "ticket#2", "ticket#3", "ticket#4", "ticket#3b", "ticket#5", "ticket#5", "ticket#5"),
        "ticket#6",
    ]


def _is(reply: Response, ep: str, ticket: str, kind: RequestKind, path: str, code: ResponseCode) -> None:
    told = (reply.ep, reply.ticket, reply.rep.kind, reply.path, reply.rep.code, reply.server_id)
    assert told == (ep, ticket, kind, path, code, "rock64"), reply


def _content(reply: Response) -> object:
    assert isinstance(reply.rep.body, ReadBody), reply
    return reply.rep.body.content


def _executions(device: Sensors) -> list[str]:
    return [line for line in device.log.read_text().splitlines() if "reboot asked for" in line]
