"""The mutated datagrams are repeatable and cover what they say."""

from __future__ import annotations

import asyncio
import random
import socket
from itertools import islice

import pytest
from aiocoap import Message
from aiocoap.numbers import codes

from tests.faults.mutate import MUTATIONS, encode, mutated, valid
from tests.gateway.devices.test_device import running

pytestmark = pytest.mark.faults


def parses(data: bytes) -> bool:
    try:
        Message.decode(data)
    except Exception:  # noqa: BLE001  aiocoap's parser raises more than its own errors
        return False
    return True


def test_the_corpus_is_well_formed() -> None:
    for parts in valid():
        message = Message.decode(encode(parts))
        assert (int(message.mtype), int(message.code), message.mid) == (parts.kind, parts.code, parts.message_id)
        assert (message.token, message.payload) == (parts.token, parts.payload)
        assert sum(1 for _ in message.opt.option_list()) == len(parts.options)


def test_the_same_seed_gives_the_same_datagrams() -> None:
    assert list(islice(mutated(5), 500)) == list(islice(mutated(5), 500))
    assert list(islice(mutated(5), 500)) != list(islice(mutated(6), 500))


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_every_mutation_changes_messages(name: str) -> None:
    source = random.Random(name)
    corpus = [encode(parts) for parts in valid()]
    assert any(MUTATIONS[name](data, source) != data for data in corpus)
    assert all(isinstance(MUTATIONS[name](data, source), bytes) for data in [b"", b"\x40", *corpus])


def test_many_are_no_coap_and_some_are() -> None:
    outcomes = [parses(data) for data in islice(mutated(1), 3000)]
    assert outcomes.count(False) > 600
    assert outcomes.count(True) > 300
    assert all(len(data) <= 4096 for data in islice(mutated(2), 3000))


def test_a_device_answers_after_thousands_of_them() -> None:
    async def scenario() -> None:
        problems: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        async with running() as rig:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hostile:
                for number, data in enumerate(islice(mutated(11), 3000)):
                    hostile.sendto(data, ("127.0.0.1", rig.port))
                    if number % 50 == 0:
                        await asyncio.sleep(0)
            assert (await rig.server.ask(rig.port, codes.GET, "/3/0/0")).code is codes.CONTENT
            assert rig.sensor.device.socket.malformed > 100
        assert problems == []

    asyncio.run(scenario())
