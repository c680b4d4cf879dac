"""What is offered to whom of what comes to a real UDP socket, and when it is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.coap import receiving
from gateway.coap.endpoint import Endpoint
from gateway.coap.many import ManyDatagrams, Slots
from gateway.coap.message import Code, Option, Type, build, parse
from gateway.coap.peers import Address, UdpAddress
from gateway.coap.udp import BATCH, bind
from tests.gateway.coap.by_hand import WAIT, Peer, Recorder, post, running


def test_datagram_that_was_cut_off_never_reaches_the_short_path() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with running(handler) as (endpoint, peer):
            peer.send(build(Type.NON, Code.CONTENT, 5, b"t", [(Option.OBSERVE, b"\x01")], b" " * 5000))
            await peer.answers_before_ping()
            assert handler.notified == []
            assert endpoint.dropped_datagrams["too long"] == 1

    asyncio.run(run())


def test_short_path_that_fails_ends_neither_the_batch_nor_the_gateway() -> None:
    async def run() -> None:
        handler = Recorder()

        def fail() -> None:
            raise RuntimeError("a bug")

        handler.on_notify = fail
        async with running(handler) as (endpoint, peer):
            peer.send(build(Type.NON, Code.CONTENT, 5, b"t", [(Option.OBSERVE, b"\x01")], b"1"))
            assert parse(await peer.ask(post(7))).code == Code.CHANGED
            assert endpoint.dropped_datagrams["internal error"] == 1
            assert handler.batches >= 1

    asyncio.run(run())


def test_batch_ends_after_its_bound_and_the_rest_follows() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with running(handler) as (_, peer):
            # All wait in the socket before the loop has its turn.
            for _ in range(BATCH + 20):
                peer.send(build(Type.NON, Code.CONTENT, 5, b"t", [], b"1"))
            await peer.answers_before_ping()
            assert len(handler.notified) == BATCH + 20
            assert handler.batches >= 2

    asyncio.run(run())


@pytest.mark.parametrize("many", [True, False])
def test_posts_in_the_clear_are_offered_to_their_short_path_and_one_that_fails_costs_no_other(
    many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not many:
        monkeypatch.setattr("gateway.coap.lines.many_datagrams", lambda _: None)

    class Notified(Recorder):
        def notify_all(  # type: ignore[override]  # a method where the others have None
            self,
            received: ManyDatagrams,
            slots: Slots,
            leave: Callable[[bytes, UdpAddress], None],
            post: Callable[[bytes, int, bytes, bytes], bool],
        ) -> int:
            for slot, size in slots:
                leave(*received.datagram(slot, size))
            return 0

    async def run() -> None:
        handler = Notified()
        offered: list[int] = []

        def on_post(datagram: bytes, address: Address) -> bool:
            offered.append(datagram[3])
            if datagram[3] == 1:
                raise RuntimeError("on purpose")
            return datagram[3] == 2

        async with running(handler) as (endpoint, peer):
            endpoint.receiving.on_post = on_post
            for mid in (1, 2, 3):
                peer.send(build(Type.CON, Code.POST, mid, b"t", [(Option.URI_PATH, b"rd")]))
            peer.send(build(Type.CON, Code.GET, 4, b"t", [(Option.URI_PATH, b"rd")]))
            assert len(await peer.answers_before_ping()) == 2
            assert offered == [1, 2, 3]
            assert [one.message.mid for one in handler.requests] == [3, 4]
            assert endpoint.dropped_datagrams == {"internal error": 1}

    asyncio.run(run())


# Gathering


async def _gathering(endpoint: Endpoint, wanted: bool) -> None:
    async with asyncio.timeout(60):
        while endpoint.receiving.is_gathering is not wanted:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


@pytest.fixture
def long_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough to be seen also where the machine is busy."""
    monkeypatch.setattr(receiving, "GATHERING", 1.0)


@pytest.mark.usefixtures("long_gathering")
def test_few_notifications_are_gathered_and_what_comes_afterwards_is_heard() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with running(handler) as (endpoint, peer):
            notified = build(Type.CON, Code.CONTENT, 7, b"tok", [(Option.OBSERVE, b"\1")], b"1")
            for round_ in range(1, 3):
                peer.send(notified)
                await _gathering(endpoint, True)
                peer.send(notified)
                # Nothing comes any more: it waits to be told of the next again, and is.
                await _gathering(endpoint, False)
                assert len(handler.notified) == 2 * round_
                peer.send(post(round_))
                assert parse(await peer.receive()).code == Code.CHANGED
                assert not endpoint.receiving.is_gathering

    asyncio.run(run())


@pytest.mark.usefixtures("long_gathering")
def test_a_request_of_ours_ends_the_gathering() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with running(handler) as (endpoint, peer):
            peer.send(build(Type.CON, Code.CONTENT, 7, b"tok", [(Option.OBSERVE, b"\1")], b"1"))
            await _gathering(endpoint, True)
            future = endpoint.client.request(peer.address, Code.GET, [], timeout=WAIT)
            assert not endpoint.receiving.is_gathering
            asked = parse(await peer.receive())
            peer.send(build(Type.CON, Code.CONTENT, 8, b"tok", [(Option.OBSERVE, b"\2")], b"1"))
            async with asyncio.timeout(60):
                while len(handler.notified) < 2:  # noqa: ASYNC110  # nothing tells of it
                    await asyncio.sleep(0.01)
            assert not endpoint.receiving.is_gathering
            peer.send(build(Type.ACK, Code.CHANGED, asked.mid, asked.token, []))
            assert (await future).code == Code.CHANGED

    asyncio.run(run())


@pytest.mark.usefixtures("long_gathering")
def test_an_endpoint_that_gathers_can_be_closed() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with running(handler) as (endpoint, peer):
            peer.send(build(Type.CON, Code.CONTENT, 7, b"tok", [(Option.OBSERVE, b"\1")], b"1"))
            await _gathering(endpoint, True)
            endpoint.close()
            await asyncio.sleep(0.01)
            assert not endpoint.receiving.is_gathering

    asyncio.run(run())


# Beside other processes of the port


@pytest.mark.parametrize("way", ["many", "notify alone", "one by one"])
def test_what_no_short_path_takes_may_be_another_processes_and_what_that_one_hands_over_is_of_the_same_batch(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "one by one":
        monkeypatch.setattr("gateway.coap.lines.many_datagrams", lambda _: None)

    class Ours(Recorder):
        """Takes the notifications to the token ``ours``."""

        def notify(self, datagram: bytes, address: Address) -> bool:
            if datagram[4:8] != b"ours":
                return False
            self.notified.append(datagram)
            return True

    class OursAtOnce(Ours):
        def notify_all(  # type: ignore[override]  # a method where the others have None
            self,
            received: ManyDatagrams,
            slots: Slots,
            leave: Callable[[bytes, UdpAddress], None],
            _: Callable[[bytes, int, bytes, bytes], bool],
        ) -> int:
            for slot, size in slots:
                datagram, address = received.datagram(slot, size)
                if size < 8 or datagram[1] != Code.CONTENT or not self.notify(datagram, address):
                    leave(datagram, address)
            return 0

    def notification(mid: int, token: bytes) -> bytes:
        return build(Type.NON, Code.CONTENT, mid, token, [(Option.OBSERVE, b"\1")], b"1")

    async def run() -> None:
        handler = Ours() if way == "notify alone" else OursAtOnce()
        handler.takes_responses = True
        asked: list[int] = []
        batches: list[int] = []

        def is_elsewhere(datagram: bytes, address: UdpAddress) -> bool:
            """The even ones; and as if what another process handed over was found while its facts were looked for."""
            asked.append(datagram[3])
            if datagram[3] == 4:
                endpoint.receiving.handed([(notification(20, b"ours"), address), (notification(22, b"none"), address)])
                endpoint.receiving.handed([(build(Type.NON, Code.POST, 24, b"t", [(Option.URI_PATH, b"rd")]), address)])
                endpoint.receiving.batch_done(0)
                batches.append(handler.batches)
            return datagram[3] % 2 == 0

        bound = bind("127.0.0.1", 0)
        endpoint = Endpoint(("127.0.0.1", 0), handler, seed=1, bound=bound, is_elsewhere=is_elsewhere)
        assert endpoint.lines.local_address == bound.getsockname()
        assert (endpoint.lines.many is None) is (way == "one by one")
        endpoint.receiving.on_post = lambda datagram, address: datagram[3] == 10
        peer = Peer(endpoint.lines.local_address)
        for datagram in (
            notification(2, b"ours"),
            notification(4, b"none"),
            notification(5, b"none"),
            build(Type.CON, Code.POST, 8, b"t", [(Option.URI_PATH, b"rd")]),
            build(Type.CON, Code.POST, 10, b"t", [(Option.URI_PATH, b"rd")]),
            build(Type.CON, Code.GET, 11, b"t", [(Option.URI_PATH, b"rd")]),
        ):
            peer.send(datagram)
        endpoint.start(asyncio.get_running_loop())
        try:
            await peer.receive()
            async with asyncio.timeout(WAIT):
                while endpoint.receiving.received < 6:  # noqa: ASYNC110  # nothing tells of it
                    await asyncio.sleep(0.01)
            assert asked == [4, 5, 8, 11]
            assert [parse(one).mid for one in handler.notified] == [2, 20]
            assert [one.mid for one in handler.responses] == [22, 5]
            assert [one.message.mid for one in handler.requests] == [24, 11]
            # In the middle of the batch none had ended.
            assert batches == [0] and handler.batches > 0
            # Nor is a datagram gathered while there are others than notifications.
            assert not endpoint.receiving.is_gathering
            endpoint.receiving.handed([(notification(26, b"ours"), peer.address)])
            before = handler.batches
            endpoint.receiving.batch_done(0)
            assert handler.batches == before + 1
        finally:
            peer.close()
            endpoint.close()

    asyncio.run(run())
