"""A file from the topic to devices: into the gateway's cache, told to them as a URI, sent to them, fetched by them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiocoap
import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code

from cloud import files
from connectors.kafka import Cluster, producer, read_to_end
from schemas.avro.records import FileRequest, GenericBody, RequestKind, ResponseCode
from schemas.files import File, describe, pieces
from tests.raw_device import RawDevice
from tests.way import Gateway, Part, until

pytestmark = [pytest.mark.kafka]

IMAGE = random.Random(11).randbytes(300_001)
FILE = describe(IMAGE, "image.bin")


def body(file: File = FILE) -> FileRequest:
    return FileRequest(sha256=file.sha256, size=file.size, name=file.name)


def fetch(uri: str) -> Message:
    async def scenario() -> Message:
        context = await aiocoap.Context.create_client_context()
        try:
            return await context.request(Message(code=aiocoap.GET, uri=uri)).response
        finally:
            await context.shutdown()

    return asyncio.run(asyncio.wait_for(scenario(), 60))


class Taking:
    """Takes a file in blocks; forgets what it had after ``forget_at`` bytes, once."""

    def __init__(self, forget_at: int | None = None) -> None:
        self.data = b""
        self.whole: bytes | None = None
        self.forget_at = forget_at
        self.incomplete = 0

    def __call__(self, request: Message) -> Message | None:
        block = request.opt.block1
        if block is None:
            return Message(code=Code.CHANGED)
        if self.forget_at is not None and len(self.data) >= self.forget_at:
            self.data, self.forget_at = b"", None
        if block.start != len(self.data):
            if not block.start:
                self.data = b""
            else:
                self.incomplete += 1
                return Message(code=Code.REQUEST_ENTITY_INCOMPLETE)
        self.data += request.payload
        answer = Message(code=Code.CONTINUE if block.more else Code.CHANGED)
        answer.opt.block1 = (block.block_number, block.more, block.size_exponent)
        if not block.more:
            self.whole = self.data
        return answer


def test_a_file_is_told_sent_and_fetched_and_survives_a_kill(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    with Gateway(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        taking = Taking()
        with RawDevice(gateway.address, "lamp", answer=taking) as device:
            device.register()
            gateway.request("lamp", "too-early", RequestKind.WRITE, "/5/0/1", body())
            early = gateway.reply("too-early")
            assert early.rep.code is ResponseCode.REQUEST_ENTITY_INCOMPLETE
            assert isinstance(early.rep.body, GenericBody)
            assert "not at this gateway" in early.rep.body.message
            assert files.send(kafka, gateway_id, FILE, IMAGE)
            assert not files.send(kafka, gateway_id, FILE, IMAGE)
            until("the file", lambda: gateway.metric("files") == 1)

            gateway.request("lamp", "told", RequestKind.WRITE, "/5/0/1", body())
            assert gateway.reply("told").rep.code is ResponseCode.CHANGED
            uri = f"coap://127.0.0.1:{gateway.coap_port}/files/{FILE.sha256}"
            assert uri.encode() in device.requests[-1].payload
            # This is another socket, so a stranger to the gateway: in small blocks, but whole.
            assert fetch(uri).payload == IMAGE

            gateway.request("lamp", "sent", RequestKind.WRITE, "/5/0/0", body())
            assert gateway.reply("sent").rep.code is ResponseCode.CHANGED
            assert taking.whole == IMAGE

            gateway.kill()
            gateway.start()
            gateway.wait_ready()
            assert gateway.metric("files") == 1
            assert fetch(uri).payload == IMAGE


def test_a_device_that_forgot_its_part_gets_all_of_it_again(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    files.send(kafka, gateway_id, FILE, IMAGE)
    with Gateway(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        until("the file", lambda: gateway.metric("files") == 1)
        taking = Taking(forget_at=100_000)
        with RawDevice(gateway.address, "lamp", answer=taking) as device:
            device.register()
            gateway.request("lamp", "sent", RequestKind.WRITE, "/5/0/0", body())
            assert gateway.reply("sent").rep.code is ResponseCode.CHANGED
            assert taking.whole == IMAGE
            assert taking.incomplete == 1


def test_a_device_that_slept_through_half_of_it_gets_the_rest(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    files.send(kafka, gateway_id, FILE, IMAGE)
    with Gateway(gateway_id, kafka, tmp_path, "--command-timeout", "2") as gateway:
        gateway.wait_ready()
        until("the file", lambda: gateway.metric("files") == 1)
        taking = Taking()

        def drowsy(request: Message) -> Message | None:
            if len(taking.data) >= 150_000 and not woken:
                device.listening = False
                return None
            return taking(request)

        woken: list[bool] = []
        with RawDevice(gateway.address, "lamp", answer=drowsy) as device:
            device.register()
            gateway.request("lamp", "sent", RequestKind.WRITE, "/5/0/0", body())
            until("that it sleeps", lambda: not device.listening)
            woken.append(True)
            device.listening = True
            assert gateway.reply("sent").rep.code is ResponseCode.CHANGED
            assert taking.whole == IMAGE
            assert taking.incomplete == 0


def test_the_line_carries_a_file_once_whatever_the_number_of_devices(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    assert files.send(cloud_kafka, gateway_id, FILE, IMAGE)
    lines = ("replicate", "--gateway", gateway_id, "--edge", kafka.bootstrap, "--cloud", cloud_kafka.bootstrap)
    with Gateway(gateway_id, kafka, tmp_path) as gateway, Part("replicator", tmp_path, *lines):
        gateway.wait_ready()
        until("the file", lambda: gateway.metric("files") == 1)
        uri = f"coap://127.0.0.1:{gateway.coap_port}/files/{FILE.sha256}"
        for _ in range(3):
            assert fetch(uri).payload == IMAGE
        assert not files.send(cloud_kafka, gateway_id, FILE, IMAGE)
        topic = gateway.topics.files
        for cluster in (kafka, cloud_kafka):
            keys = [message.key() for message in read_to_end(cluster, [topic])]
            assert keys == [FILE.sha256.encode()] * FILE.pieces


def test_a_file_that_the_cache_has_lost_is_taken_from_kafka_again(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    files.send(kafka, gateway_id, FILE, IMAGE)
    with Gateway(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        until("the file", lambda: gateway.metric("files") == 1)
        (gateway.state / "files" / FILE.sha256).unlink()
        uri = f"coap://127.0.0.1:{gateway.coap_port}/files/{FILE.sha256}"
        assert fetch(uri).code == Code.NOT_FOUND
        until("the file again", lambda: gateway.metric("files_completed_total") == 2)
        assert fetch(uri).payload == IMAGE


def test_what_is_no_piece_of_a_file_is_counted(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    with Gateway(gateway_id, kafka, tmp_path) as gateway:
        client = producer(kafka)
        client.produce(gateway.topics.files, b"what is this", b"key", 0)
        for piece in pieces(FILE, IMAGE):
            data = bytes(len(piece.data)) if piece.number == 2 else piece.data
            client.produce(gateway.topics.files, data, piece.key, 0, headers=piece.headers)
        client.flush(30)
        gateway.wait_ready()
        until("the count", lambda: gateway.metric("files_dropped_total", reason="no piece of a file") == 1)
        until("the other", lambda: gateway.metric("files_dropped_total", reason="wrong hash") == 1)
        files.send(kafka, gateway_id, FILE, IMAGE, again=True)
        until("the file", lambda: gateway.metric("files") == 1)
