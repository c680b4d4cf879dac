"""Notifications that come by one call: the same records, acknowledgements and counts as one by one, byte for byte."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.coap.many import MOST, ManyDatagrams, many_datagrams
from gateway.coap.message import Malformed, Option, Type, build, parse, uint
from gateway.coap.peers import Address
from gateway.coap.udp import bind
from gateway.registry import Registry
from tests.gateway.test_short_path import NOW_MS, Bench, notification

ADDRESSES: tuple[tuple[str, int], ...] = (("127.0.0.1", 40000), ("127.0.0.2", 40000), ("127.0.0.1", 40001))
TOKENS = (b"token000", b"token001", b"token002")
_AF_INET = struct.Struct("=H").pack(socket.AF_INET)


@pytest.fixture(scope="module")
def many() -> Iterator[ManyDatagrams]:
    with bind("127.0.0.1", 0) as sock:
        found = many_datagrams(sock)
        assert found is not None
        yield found


def _name(address: tuple[str, int]) -> bytes:
    return _AF_INET + address[1].to_bytes(2, "big") + socket.inet_aton(address[0]) + bytes(8)


class Batched(Bench):
    """The same bench, whose datagrams come by one call."""

    def __init__(self, many: ManyDatagrams) -> None:
        super().__init__()
        self.many = many
        self.batches.start(self._sendto, self._send_slots)

    def _send_slots(self, slots: list[bytes]) -> None:
        for slot in slots:
            self._sendto(slot[self.many.name_size :], self.many.address(slot[: self.many.name_size]))

    def come(self, datagrams: list[tuple[bytes, tuple[str, int]]]) -> list[bytes]:
        """As the kernel fills the slots; returns what is left."""
        left: list[bytes] = []

        def leave(datagram: bytes, address: Address) -> None:
            left.append(datagram)
            _take_plain(self, datagram, address)

        for slot, (datagram, address) in enumerate(datagrams):
            at = slot * self.many.stride
            whole = _name(address) + datagram
            self.many.buffer[at : at + len(whole)] = whole
        sizes = [len(datagram) for datagram, _ in datagrams]
        self.short.notify_all(self.many, enumerate(sizes), leave, lambda *_: False)
        return left


def _take_plain(bench: Bench, datagram: bytes, address: Address) -> None:
    try:
        message = parse(datagram)
    except Malformed:
        return
    bench.plain.take(message, address)


def _set_up(bench: Bench) -> None:
    for number, token in enumerate(TOKENS):
        device = bench.device(f"ep{number}", partition=number % 2, address=ADDRESSES[number], queue=number == 2)
        bench.observe(device, token, "/3303/0/5700" if number else "/3303/0/5601")


_DOUBLES = st.one_of(st.floats(width=64), st.floats(width=32), st.integers(-300, 300).map(float))


@st.composite
def _datagram(draw: st.DrawFn) -> tuple[bytes, tuple[str, int]]:
    which = draw(st.integers(0, 2))
    path = "/3303/0/5700" if which else "/3303/0/5601"
    number = int(path.rpartition("/")[2])
    value = draw(_DOUBLES)
    name = struct.pack(">H", number)
    kind = draw(st.sampled_from(["tlv", "tlv", "tlv", "tlv", "single", "cbor", "based", "text", "other id", "wild"]))
    payload, content_format = b"\xe8" + name + b"\x08" + struct.pack(">d", value), 11542
    match kind:
        case "single":
            payload = b"\xe4" + name + struct.pack(">f", draw(st.floats(width=32)))
        case "cbor":
            payload, content_format = cbor2.dumps([{0: path, 2: value}]), 112
        case "based":
            payload, content_format = cbor2.dumps([{-2: path[:-4], 0: path[-4:], 2: value}]), 112
        case "text":
            payload, content_format = str(value).encode(), 0
        case "other id":
            payload = b"\xe8" + struct.pack(">H", number + 1) + b"\x08" + struct.pack(">d", value)
        case "wild":
            payload = draw(st.binary(max_size=30))
    token = draw(st.sampled_from([TOKENS[which]] * 6 + [b"token009", b"short"]))
    type_ = draw(st.sampled_from([Type.CON] * 5 + [Type.NON, Type.ACK]))
    made = notification(
        draw(st.integers(0, 40)),
        token=token,
        observe=draw(st.sampled_from([0, 1, 255, 256, 70000, 0x800001, 0xFFFFFF])),
        content_format=draw(st.sampled_from([content_format] * 8 + [None])),
        payload=payload,
        type_=type_,
        code=draw(st.sampled_from([0x45] * 9 + [0x84, 0x00])),
        more=[(Option.MAX_AGE, b"\x3c")] if draw(st.integers(0, 9)) == 0 else None,
    )
    match draw(st.integers(0, 12)):
        case 0:
            made = made[: draw(st.integers(0, len(made)))]
        case 1:
            changed = bytearray(made)
            changed[draw(st.integers(0, len(made) - 1))] = draw(st.integers(0, 255))
            made = bytes(changed)
    address = ADDRESSES[which] if draw(st.integers(0, 9)) else draw(st.sampled_from(ADDRESSES))
    return made, address


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_datagram(), max_size=12), max_size=5), room=st.sampled_from([1 << 30, 1 << 30, 7]))
def test_what_comes_by_one_call_is_taken_as_one_by_one(
    many: ManyDatagrams, batches: list[list[tuple[bytes, tuple[str, int]]]], room: int
) -> None:
    together, single = Batched(many), Bench()
    for bench in (together, single):
        _set_up(bench)
        bench.uplink.room = room
    for batch in batches:
        together.come(batch)
        for datagram, address in batch:
            if not (len(datagram) > 4 and datagram[1] == 0x45 and single.short.notify(datagram, address)):
                _take_plain(single, datagram, address)
        for bench in (together, single):
            bench.batches.flush()
            bench.uplink.report()
            bench.now += 50.0
    assert together.uplink.records == single.uplink.records
    assert sorted(together.acks) == sorted(single.acks)
    for counted in ("taken", "duplicates", "refused", "late"):
        assert getattr(together.batches, counted) == getattr(single.batches, counted), counted
    assert together.plain.dropped == single.plain.dropped
    assert [one.ep for one in together.batches.awake] == [one.ep for one in single.batches.awake]


def _double(number: float, mid: int, **more: Any) -> bytes:
    payload = b"\xe8\x16\x44\x08" + struct.pack(">d", number)
    return notification(mid, token=TOKENS[1], observe=mid, content_format=11542, payload=payload, **more)


def test_the_second_of_a_kind_is_not_looked_at_one_by_one(many: ManyDatagrams, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Batched(many)
    _set_up(bench)
    assert bench.come([(_double(1.0, 1), ADDRESSES[1])]) == []
    monkeypatch.setattr(bench.short, "notify", lambda *_: pytest.fail("looked at"))
    assert bench.come([(_double(mid / 7, mid), ADDRESSES[1]) for mid in range(2, MOST)]) == []
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == sorted(bench.acked) == list(range(1, MOST))
    assert bench.batches.now_ms == NOW_MS


def test_a_device_that_moved_is_not_known_by_its_old_address(many: ManyDatagrams) -> None:
    bench = Batched(many)
    _set_up(bench)
    bench.come([(_double(1.0, 1), ADDRESSES[1])])
    observation = bench.table.by_token[TOKENS[1]]
    registry = Registry()
    registry.move(observation.device, ADDRESSES[2])
    bench.come([(_double(2.0, 2), ADDRESSES[1]), (_double(3.0, 3), ADDRESSES[2])])
    bench.batches.flush()
    assert bench.mids == [1, 3] and bench.plain.dropped["unknown address"] == 1


def test_what_a_full_queue_leaves_is_acknowledged_when_it_comes_again(many: ManyDatagrams) -> None:
    bench = Batched(many)
    _set_up(bench)
    bench.come([(_double(1.0, 1), ADDRESSES[1])])
    bench.batches.flush()
    bench.uplink.room = 3
    bench.come([(_double(float(mid), mid), ADDRESSES[1]) for mid in range(2, 6)])
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1, 2, 3] and bench.acked == [1]
    bench.uplink.room = 100
    bench.come([(_double(float(mid), mid), ADDRESSES[1]) for mid in range(2, 6)])
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == sorted(bench.acked) == [1, 2, 3, 4, 5]
    assert bench.uplink.records[-1][4] == [("coap.mid", b"\0\5"), ("coap.observe", uint(5))]


def test_a_response_to_something_else_is_left(many: ManyDatagrams) -> None:
    bench = Batched(many)
    _set_up(bench)
    other = build(Type.ACK, 0x45, 9, b"whatever", [], b"x" * 40)
    long = build(Type.CON, 0x02, 9, b"t", [(Option.URI_PATH, b"rd")], b"x" * 900)
    assert bench.come([(other, ADDRESSES[0]), (long, ADDRESSES[1])]) == [other, long]
