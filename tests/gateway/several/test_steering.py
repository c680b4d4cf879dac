"""What names its process arrives at its socket, whatever the port it comes from; on real sockets."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy
from gateway.coap.message import Code, Option, Type, build
from gateway.several.steering import id_mark, steer, token_mark
from headwater.several import _sockets, _steer

PROCESSES = 3
#: So many ports that by their hash all of them come to one socket once in 10¹⁸ times.
PORTS = 40


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request: pytest.FixtureRequest) -> Iterator[list[socket.socket]]:
    try:
        sockets = _sockets((request.param, 0), PROCESSES)
    except OSError:
        pytest.skip("this machine has no IPv6")
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.fixture
def steered(group: list[socket.socket]) -> list[socket.socket]:
    steer(group[0])
    return group


def arrived_at(group: list[socket.socket], datagram: bytes) -> Counter[int]:
    """Which sockets had it, sent from PORTS ports, one after the other."""
    found: Counter[int] = Counter()
    for _ in range(PORTS):
        with socket.socket(group[0].family, socket.SOCK_DGRAM) as sender:
            sender.bind((group[0].getsockname()[0], 0))
            sender.sendto(datagram, group[0].getsockname())
            ready, _, _ = select.select(group, [], [], 60)
            assert len(ready) == 1
            assert ready[0].recvfrom(2000) == (datagram, sender.getsockname())
            found[group.index(ready[0])] += 1
    return found


def token_of(number: int) -> bytes:
    """A token as the process with this number makes them."""
    return Endpoint(None, Busy(), token_mark=token_mark(number)).client.new_token()


@pytest.mark.parametrize("number", range(PROCESSES))
def test_an_answer_arrives_at_whom_its_token_names(steered: list[socket.socket], number: int) -> None:
    token = token_of(number)
    for datagram in (
        build(Type.CON, Code.CONTENT, 5, token, [(Option.OBSERVE, b"\1")], b"21.5"),
        build(Type.NON, Code.CONTENT, 5, token, [], b"x" * 1100),
        build(Type.ACK, Code.CHANGED, 6, token, []),
        build(Type.ACK, Code.NOT_FOUND, 6, token, []),
        build(Type.CON, Code.INTERNAL_SERVER_ERROR, 6, token, []),
    ):
        assert arrived_at(steered, datagram) == {number: PORTS}


@pytest.mark.parametrize("number", range(PROCESSES))
@pytest.mark.parametrize("token", [b"", b"t", b"four", b"eight by"])
def test_a_request_below_rd_arrives_at_whom_the_registration_id_names(
    steered: list[socket.socket], number: int, token: bytes
) -> None:
    path = [(int(Option.URI_PATH), b"rd"), (int(Option.URI_PATH), f"{id_mark(number)}0123456789".encode())]
    for datagram in (
        build(Type.CON, Code.POST, 5, token, path),
        build(Type.NON, Code.POST, 5, token, [*path, (int(Option.URI_QUERY), b"lt=60")], b"</3/0>"),
        build(Type.CON, Code.DELETE, 5, token, path),
    ):
        assert arrived_at(steered, datagram) == {number: PORTS}


def _strangers() -> Iterator[tuple[str, bytes]]:
    """What names nobody, or nobody who is there."""
    rd = (int(Option.URI_PATH), b"rd")
    answer = build(Type.CON, Code.CONTENT, 5, token_of(1), [], b"21.5")
    yield "nothing", b""
    yield "short", answer[:11]
    yield "empty message", build(Type.ACK, Code.EMPTY, 5, b"", [])
    yield "another token", build(Type.CON, Code.CONTENT, 5, b"\x70" + bytes(7), [], b"1")
    yield "token of one process", build(Type.CON, Code.CONTENT, 5, b"\xc1" + bytes(7), [], b"1")
    yield "token of one that is not there", build(Type.CON, Code.CONTENT, 5, token_of(PROCESSES), [], b"1")
    yield "shorter token", build(Type.CON, Code.CONTENT, 5, token_of(1)[:7], [], b"12345678")
    yield "longer token", b"\x4f" + answer[1:] + bytes(40)
    yield "another version", b"\x88" + answer[1:]
    yield "signalling", answer[:1] + b"\xe1" + answer[2:]
    yield "register", build(Type.CON, Code.POST, 5, token_of(1), [rd, (int(Option.URI_QUERY), b"ep=x")], b"</3/0>")
    yield "id of one process", build(Type.CON, Code.POST, 5, b"t", [rd, (int(Option.URI_PATH), b"0123456789")])
    yield "of one not there", build(Type.CON, Code.POST, 5, b"t", [rd, (int(Option.URI_PATH), b"Z0123456789")])
    yield "cut", build(Type.CON, Code.POST, 5, b"eight by", [rd, (int(Option.URI_PATH), b"B0123456789")])[:18]


@pytest.mark.parametrize("datagram", [pytest.param(one, id=name) for name, one in _strangers()])
def test_what_names_nobody_is_spread_by_its_address(steered: list[socket.socket], datagram: bytes) -> None:
    assert len(arrived_at(steered, datagram)) > 1


def test_where_the_kernel_takes_no_program_all_is_spread_by_its_address(
    group: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of a kernel that does not know the option.
    monkeypatch.setattr("gateway.several.steering._SO_ATTACH_REUSEPORT_CBPF", 9999)
    with pytest.raises(OSError, match="not available"):
        steer(group[0])
    with capture_logs() as said:
        _steer(group)
    assert [(one["log_level"], "not available" in one["reason"]) for one in said] == [("info", True)]
    assert len(arrived_at(group, build(Type.CON, Code.CONTENT, 5, token_of(1), [], b"21.5"))) > 1


def test_whoever_has_no_letter_has_ids_without_one() -> None:
    marks = [id_mark(number) for number in range(64)]
    assert marks[:26] == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ") and set(marks[26:]) == {""}
