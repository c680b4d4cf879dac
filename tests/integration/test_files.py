"""A file from the topic to devices: into the gateway's cache, told to them as a URI, sent to them, fetched by them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import aiocoap
import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code

from cloud import files
from cloud.campaigns.machine import NOT_HERE
from connectors.kafka import Cluster, producer, read_to_end
from gateway import file_intake
from gateway.file_cache import SPARE, FileCache
from schemas.avro.records import FileRequest, GenericBody, RequestKind, ResponseCode
from schemas.avro.topics import Topics
from schemas.files import File, describe, pieces
from tests.raw_device import RawDevice
from tests.way import Gateway, Part, until

pytestmark = [pytest.mark.kafka]

IMAGE = random.Random(11).randbytes(200_001)
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


def ask_for(gateway: Gateway, device: RawDevice, file: File = FILE) -> None:
    """Have a device told where the file is, as often as it takes until it is there."""
    tickets = itertools.count()

    def told() -> bool:
        ticket = f"ask-{device.ep}-{file.sha256[:8]}-{next(tickets)}"
        gateway.request(device.ep, ticket, RequestKind.WRITE, "/5/0/1", body(file))
        return gateway.reply(ticket).rep.code is ResponseCode.CHANGED

    until("the file", told)


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
            # It was asked for, so it is waited for.
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
        taking = Taking(forget_at=100_000)
        with RawDevice(gateway.address, "lamp", answer=taking) as device:
            device.register()
            ask_for(gateway, device)
            gateway.request("lamp", "sent", RequestKind.WRITE, "/5/0/0", body())
            assert gateway.reply("sent").rep.code is ResponseCode.CHANGED
            assert taking.whole == IMAGE
            assert taking.incomplete == 1


def test_a_device_that_slept_through_half_of_it_gets_the_rest(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    files.send(kafka, gateway_id, FILE, IMAGE)
    with Gateway(gateway_id, kafka, tmp_path, "--command-timeout", "2") as gateway:
        gateway.wait_ready()
        taking = Taking()

        def drowsy(request: Message) -> Message | None:
            if len(taking.data) >= 100_000 and not woken:
                device.listening = False
                return None
            return taking(request)

        woken: list[bool] = []
        with RawDevice(gateway.address, "lamp", answer=drowsy) as device:
            device.register()
            ask_for(gateway, device)
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
    with (
        Gateway(gateway_id, kafka, tmp_path) as gateway,
        Part("replicator", tmp_path, *lines),
        RawDevice(gateway.address, "lamp", answer=Taking()) as device,
    ):
        gateway.wait_ready()
        device.register()
        ask_for(gateway, device)
        uri = f"coap://127.0.0.1:{gateway.coap_port}/files/{FILE.sha256}"
        for _ in range(3):
            assert fetch(uri).payload == IMAGE
        assert not files.send(cloud_kafka, gateway_id, FILE, IMAGE)
        topic = gateway.topics.files
        for cluster in (kafka, cloud_kafka):
            keys = [message.key() for message in read_to_end(cluster, [topic])]
            assert keys == [FILE.sha256.encode()] * FILE.pieces


def device_and_gateway(
    kafka: Cluster, gateway_id: str, folder: Path
) -> AbstractContextManager[tuple[Gateway, RawDevice]]:
    """A gateway and a device that is registered there."""

    @contextmanager
    def both() -> Iterator[tuple[Gateway, RawDevice]]:
        with Gateway(gateway_id, kafka, folder) as gateway:
            gateway.wait_ready()
            with RawDevice(gateway.address, "lamp", answer=Taking()) as device:
                device.register()
                yield gateway, device

    return both()


def test_a_file_that_the_cache_has_lost_is_taken_from_kafka_again(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    files.send(kafka, gateway_id, FILE, IMAGE)
    with device_and_gateway(kafka, gateway_id, tmp_path) as (gateway, device):
        ask_for(gateway, device)
        (gateway.state / "files" / FILE.sha256).unlink()
        uri = f"coap://127.0.0.1:{gateway.coap_port}/files/{FILE.sha256}"
        assert fetch(uri).code == Code.NOT_FOUND
        until("the file again", lambda: gateway.metric("files_completed_total") == 2)
        assert fetch(uri).payload == IMAGE


def test_what_nobody_asked_for_is_left_where_it_is(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    other = random.Random(12).randbytes(100_000)
    theirs = describe(other, "other.bin")
    for file, data in ((theirs, other), (FILE, IMAGE)):
        files.send(kafka, gateway_id, file, data)
    with device_and_gateway(kafka, gateway_id, tmp_path) as (gateway, device):
        # A stranger who asks for what no device was told of does not have the topic read.
        assert fetch(f"coap://127.0.0.1:{gateway.coap_port}/files/{theirs.sha256}").code == Code.NOT_FOUND
        assert fetch(f"coap://127.0.0.1:{gateway.coap_port}/files/{'0' * 64}").code == Code.NOT_FOUND
        ask_for(gateway, device)
        assert gateway.metric("files_completed_total") == gateway.metric("files") == 1
        # Behind it in the topic, and before it.
        third = random.Random(13).randbytes(70_000)
        files.send(kafka, gateway_id, describe(third, "third.bin"), third)
        ask_for(gateway, device, describe(third, "third.bin"))
        ask_for(gateway, device, theirs)
        assert gateway.metric("files") == 3


def test_what_has_no_room_is_told_and_taken_when_there_is_some(
    kafka: Cluster, gateway_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_intake, "_NOT_AGAIN_FOR", 0.2)
    free = [SPARE]
    cache = FileCache(tmp_path, free=lambda: free[0])
    intake = file_intake.FileIntake(kafka, Topics(gateway_id).files, cache)
    files.send(kafka, gateway_id, FILE, IMAGE)
    intake.want(FILE.sha256)
    until("that it is told", lambda: "no room for its 200001 bytes" in (intake.why(FILE.sha256) or ""))
    until("that it gives up", lambda: not intake.reads)
    assert [*tmp_path.iterdir()] == []
    free[0] += len(IMAGE)

    def is_here() -> bool:
        intake.want(FILE.sha256)
        return FILE.sha256 in cache

    until("the file", is_here)
    # At rest it reads nothing.
    until("the end", lambda: not intake.reads)
    assert intake.why(FILE.sha256) is None
    intake.stop()
    cache.close()


def test_what_is_no_piece_of_a_file_is_counted_and_what_is_wrong_is_told(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with device_and_gateway(kafka, gateway_id, tmp_path) as (gateway, device):
        client = producer(kafka, batch_size=65_536)
        client.produce(gateway.topics.files, b"what is this", b"key", 0)
        for piece in pieces(FILE, IMAGE):
            data = bytes(len(piece.data)) if piece.number == 2 else piece.data
            client.produce(gateway.topics.files, data, piece.key, 0, headers=piece.headers)
        # Cut off within a piece, of another size, and a piece of a file that never comes whole.
        (first, *_) = pieces(FILE, IMAGE)
        client.produce(gateway.topics.files, first.data[:100], first.key, 0, headers=first.headers)
        client.produce(gateway.topics.files, first.data, b"0" * 64, 0, headers=first.headers)
        assert client.flush(30) == 0
        gateway.request("lamp", "told", RequestKind.WRITE, "/5/0/1", body())
        assert gateway.reply("told").rep.code is ResponseCode.REQUEST_ENTITY_INCOMPLETE
        until("the count", lambda: gateway.metric("files_dropped_total", reason="no piece of a file") == 2)
        until("the other", lambda: gateway.metric("files_dropped_total", reason="wrong hash") == 1)
        gateway.request("lamp", "told why", RequestKind.WRITE, "/5/0/1", body())
        why = gateway.reply("told why").rep
        assert why.code is ResponseCode.REQUEST_ENTITY_INCOMPLETE
        assert isinstance(why.body, GenericBody)
        assert why.body.message.endswith(
            f"{FILE.sha256}{NOT_HERE}what came is not what its SHA-256 says; send it again"
        )
        # All numbers are there, and it is sent all the same, as they do not make it.
        assert files.send(kafka, gateway_id, FILE, IMAGE)
        ask_for(gateway, device)
        assert not files.send(kafka, gateway_id, FILE, IMAGE)
