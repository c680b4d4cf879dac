"""Many datagrams by one call, over real sockets: the same bytes and addresses as one by one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from gateway.coap.many import MESSAGE, MOST, REQUEST, ManyDatagrams, many_datagrams
from gateway.coap.message import MAX_DATAGRAM
from gateway.coap.udp import bind


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    try:
        sock = bind(request.param, 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with sock:
        yield sock


@pytest.fixture
def many(server: socket.socket) -> ManyDatagrams:
    found = many_datagrams(server)
    assert found is not None, "Linux has had recvmmsg since 2.6.33"
    return found


def _client(server: socket.socket) -> socket.socket:
    sock = socket.socket(server.family, socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.bind((server.getsockname()[0], 0))
    return sock


def test_what_comes_is_what_recvfrom_gives(server: socket.socket, many: ManyDatagrams) -> None:
    assert many.receive() == []
    with _client(server) as one, _client(server) as other:
        for sender, data in ((one, b"a"), (other, b""), (one, b"x" * MAX_DATAGRAM), (other, b"bc")):
            sender.sendto(data, server.getsockname())
        sizes = many.receive()
        assert sizes == [1, 0, MAX_DATAGRAM, 2]
        found = [many.datagram(slot, size) for slot, size in enumerate(sizes)]
        assert [data for data, _ in found] == [b"a", b"", b"x" * MAX_DATAGRAM, b"bc"]
        assert [address for _, address in found] == [one.getsockname(), other.getsockname()] * 2
        one.sendto(b"d", server.getsockname())
        assert many.receive() == [1]
        assert many.datagram(0, 1) == (b"d", one.getsockname())
        one.sendto(b"d", server.getsockname())
        assert server.recvfrom(10) == (b"d", many.address(many.name(0)))


def test_more_than_a_call_takes_stays_for_the_next(server: socket.socket, many: ManyDatagrams) -> None:
    with _client(server) as one:
        for number in range(MOST + 3):
            one.sendto(number.to_bytes(2, "big"), server.getsockname())
        assert len(many.receive()) == MOST
        assert many.datagram(MOST - 1, 2)[0] == (MOST - 1).to_bytes(2, "big")
        assert [many.datagram(slot, size)[0][1] for slot, size in enumerate(many.receive())] == [
            MOST,
            MOST + 1,
            MOST + 2,
        ]


def test_a_datagram_that_is_too_long_is_seen_to_be(server: socket.socket, many: ManyDatagrams) -> None:
    with _client(server) as one:
        one.sendto(b"x" * (MAX_DATAGRAM + 1), server.getsockname())
        one.sendto(b"x" * 20_000, server.getsockname())
        one.sendto(b"y", server.getsockname())
        first, second, third = many.receive()
        assert first > MAX_DATAGRAM and second > MAX_DATAGRAM and third == 1
        assert many.datagram(2, 1) == (b"y", one.getsockname())


def test_each_peer_gets_its_own_message(server: socket.socket, many: ManyDatagrams) -> None:
    clients = [_client(server) for _ in range(7)]
    try:
        for client in clients:
            client.sendto(b"?", server.getsockname())
        names = [many.name(slot) for slot, _ in enumerate(many.receive())]
        # More than one call takes, too.
        slots = [name + bytes((number, 0, 0, turn)) for turn in range(40) for number, name in enumerate(names)]
        many.send(slots)
        for number, client in enumerate(clients):
            for turn in range(40):
                assert client.recvfrom(MESSAGE + 1) == (bytes((number, 0, 0, turn)), server.getsockname())
    finally:
        for client in clients:
            client.close()


def test_messages_of_any_one_size_go_by_a_call(server: socket.socket, many: ManyDatagrams) -> None:
    with _client(server) as one:
        one.sendto(b"?", server.getsockname())
        many.receive()
        name = many.name(0)
        for size in (12, MESSAGE, 5, 12):
            many.send([name + bytes((number,)) * size for number in range(MOST + 2)], size)
            assert [one.recv(20) for _ in range(MOST + 2)] == [bytes((number,)) * size for number in range(MOST + 2)]


def test_one_that_cannot_be_reached_keeps_nothing_from_the_others(server: socket.socket, many: ManyDatagrams) -> None:
    with _client(server) as one:
        one.sendto(b"?", server.getsockname())
        many.receive()
        name = many.name(0)
        nowhere = name[:2] + bytes(len(name) - 2)  # port 0
        many.send([nowhere + b"lost", name + b"here", nowhere + b"lost", name + b"also"])
        assert one.recv(10) == b"here" and one.recv(10) == b"also"


def test_nothing_is_sent_or_received_by_a_socket_that_is_closed(server: socket.socket, many: ManyDatagrams) -> None:
    with _client(server) as one:
        one.sendto(b"?", server.getsockname())
        many.receive()
        name = many.name(0)
    server.close()
    many.send([name + b"late"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        many.receive()


def test_each_peer_gets_its_own_request_of_any_size(server: socket.socket, many: ManyDatagrams) -> None:
    clients = [_client(server) for _ in range(3)]
    try:
        names = [many.name_of(client.getsockname()) for client in clients]
        for client, name in zip(clients, names, strict=True):
            client.sendto(b"?", server.getsockname())
            assert many.receive() == [1] and many.name(0) == name
            assert many.address(name) == client.getsockname()
        # More than one call takes, too.
        sizes = [1, REQUEST, 17, 2, 64]
        requests = [(names[turn % 3], bytes([turn % 256]) * sizes[turn % 5]) for turn in range(MOST + 22)]
        assert many.send_requests(requests) == []
        for turn, (_, data) in enumerate(requests):
            assert clients[turn % 3].recvfrom(REQUEST + 1) == (data, server.getsockname())
    finally:
        for client in clients:
            client.close()


def test_it_is_said_which_requests_did_not_go(server: socket.socket, many: ManyDatagrams) -> None:
    with _client(server) as one:
        name = many.name_of(one.getsockname())
        nowhere = name[:2] + bytes(len(name) - 2)  # port 0
        lost = many.send_requests([(nowhere, b"lost"), (name, b"here"), (nowhere, b"lost too"), (name, b"also")])
        assert lost == [errno.EINVAL] * 2
        assert one.recv(10) == b"here" and one.recv(10) == b"also"
        server.close()
        assert many.send_requests([(name, b"late"), (name, b"later")]) == [errno.EBADF] * 2
