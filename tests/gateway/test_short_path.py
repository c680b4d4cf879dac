"""The short path of notifications: equal to the plain path byte for byte, and its batches.

The uplink is `tests.memory_uplink`: it reports when the test says so.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Coroutine
from typing import Any, cast

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import notification_batches
from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.client import CoapClient
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.message import Option, Options, Type, build, parse, parse_any_size, uint
from gateway.coap.peers import Address
from gateway.notification_batches import NotificationBatches
from gateway.notifications import Notifications
from gateway.number_decoders import decoders_for
from gateway.observations import Observation, ObservationTable, single_type
from gateway.registration import parse_announcement
from gateway.registry import Device, KafkaPlace
from gateway.short_path import ShortPath
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.records import Binding, Notification, ReadBody
from schemas.avro.serde import SerdeError
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.nodes import Resource
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.memory_uplink import MemoryUplink

PEER: Address = ("127.0.0.1", 40000)
DEFINITIONS = Definitions.builtin()
NOW_S = 1_700_000_000.25
NOW_MS = 1_700_000_000_250


class Bench:
    """A short path and the plain path behind it, with a clock in the test's hands."""

    def __init__(self) -> None:
        self.uplink = MemoryUplink()
        self.now = 1000.0
        self.acks: list[tuple[bytes, Address]] = []
        self.ended: list[Observation] = []
        self.table = ObservationTable("gw", decoders_for)
        uplink = cast(Uplink, self.uplink)
        self.batches = NotificationBatches(uplink, clock=lambda: self.now, wall=lambda: NOW_S)
        self.short = ShortPath(self.batches, self.table.by_token)
        self.batches.start(self._sendto)
        self.plain = Notifications(
            server_id="gw",
            table=self.table,
            batches=self.batches,
            uplink=uplink,
            definitions=DEFINITIONS,
            client=cast(CoapClient, self),
            link=cast(AiocoapLink, None),
            spawn=self._spawn,
            ended=self.ended.append,
            taken=lambda device, path: None,
        )

    def _sendto(self, datagram: bytes, address: Address) -> int:
        assert datagram[:2] == b"\x60\x00" and len(datagram) == 4
        self.acks.append((datagram[2:], address))
        return 4

    def acknowledge(self, address: Address, mid: int) -> None:
        self._sendto(b"\x60\x00" + mid.to_bytes(2, "big"), address)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        raise AssertionError("no blocks here")

    def device(self, ep: str = "ep", *, partition: int = 0, address: Address = PEER, queue: bool = False) -> Device:
        return Device(
            ep=ep,
            reg_id=f"r-{ep}",
            address=address,
            lifetime=60,
            version="1.1",
            binding=Binding.U,
            queue=queue,
            sms=None,
            announcement=parse_announcement(b"</3303/0>"),
            attributes={},
            reg_date=0,
            last_up=0,
            place=KafkaPlace(key=ep.encode(), observations=partition, registrations=0, replies=0),
        )

    def observe(self, device: Device, token: bytes = b"token678", path: str = "/3303/0/5700") -> Observation:
        where = Path.parse(path)
        observation = Observation(
            token=token,
            path=where,
            ticket="ticket#1",
            declared=False,
            content_format=None,
            created_ms=0,
            resource_type=single_type(where, None, DEFINITIONS),
        )
        self.table.add(observation, device)
        return observation

    def take(self, datagram: bytes, address: Address = PEER) -> str:
        """The way a datagram goes: "short", "plain" or "none"."""
        if datagram[1] == 0x45 and self.short.notify(datagram, address):
            return "short"
        return "plain" if self.plain.take(parse(datagram), address) else "none"

    @property
    def mids(self) -> list[int]:
        return [int.from_bytes(dict(headers)["coap.mid"], "big") for *_, headers in self.uplink.records]

    @property
    def acked(self) -> list[int]:
        return [int.from_bytes(mid, "big") for mid, _ in self.acks]


def notification(
    mid: int = 1,
    *,
    token: bytes = b"token678",
    observe: int = 5,
    content_format: int | None = 0,
    payload: bytes = b"21.5",
    type_: Type = Type.CON,
    code: int = 0x45,
    more: Options | None = None,
) -> bytes:
    options: Options = [(Option.OBSERVE, uint(observe)), *(more or [])]
    if content_format is not None:
        options.append((Option.CONTENT_FORMAT, uint(content_format)))
    return build(type_, code, mid, token, options, payload)


# Equality with the plain path


def _tlv(path: Path, value: float, size: int) -> bytes:
    data = struct.pack(">d" if size == 8 else ">f", value)
    wide = path.ids[-1] > 255
    number = path.ids[-1].to_bytes(2 if wide else 1, "big")
    if size == 8:
        return bytes((0xE8 if wide else 0xC8,)) + number + b"\x08" + data
    return bytes((0xE4 if wide else 0xC4,)) + number + data


_NUMBERS = st.one_of(
    st.floats(width=64), st.floats(width=32), st.floats(width=16), st.integers(-(2**70), 2**70), st.integers(-300, 300)
)
_PATHS = st.sampled_from(["/3303/0/5700", "/3303/65534/5700", "/3303/0/5601", "/3304/12/5700", "/6/0/5"])


@st.composite
def _senml(draw: st.DrawFn, path: str) -> list[dict[str, Any]]:
    cut = draw(st.integers(0, len(path)))
    fields: list[tuple[str, Any]] = draw(
        st.sampled_from(
            [[("n", path)], [("bn", path)], [("bn", path[:cut]), ("n", path[cut:])], [("n", "/3303/1/5700")]]
        )
    )
    fields = [*fields, (draw(st.sampled_from(["v", "v", "v", "vs", "vb", "bv"])), draw(_NUMBERS))]
    if draw(st.integers(0, 4)) == 0:
        fields.append(
            draw(st.sampled_from([("t", 5), ("bt", 1_700_000_000), ("u", "Cel"), ("x", 1), ("x_", 1), ("bv", 1)]))
        )
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    pack = [dict(fields)]
    return pack * draw(st.sampled_from([1, 1, 1, 1, 2, 0]))


_LABELS = {"bv": -5, "bt": -3, "bn": -2, "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "t": 6}


@st.composite
def _payloads(draw: st.DrawFn) -> tuple[str, int, bytes]:
    """A path, a content format and a payload that is right, nearly right or wrong."""
    text = draw(_PATHS)
    path = Path.parse(text)
    kind = draw(st.sampled_from(["tlv8", "tlv4", "text", "free text", "cbor", "json", "other", "wild"]))
    number = draw(_NUMBERS)
    match kind:
        case "tlv8" | "tlv4":
            try:
                payload = _tlv(path, float(number), 8 if kind == "tlv8" else 4)
            except OverflowError:
                payload = _tlv(path, 0.0, 4)
            content_format = 11542
        case "text":
            content_format, payload = 0, draw(st.sampled_from([str(number), repr(number), f"{number:f}"])).encode()
        case "free text":
            content_format, payload = 0, draw(st.text("0123456789.-+eE _", max_size=8)).encode()
        case "cbor":
            records = draw(_senml(text))
            content_format = 112
            payload = cbor2.dumps(
                [{_LABELS.get(label, label): value for label, value in record.items()} for record in records],
                canonical=draw(st.booleans()),
            )
        case "json":
            separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :")]))
            content_format, payload = 110, json.dumps(draw(_senml(text)), separators=separators).encode()
        case "other":
            content_format, payload = draw(st.integers(0, 65535)), b"21.5"
        case _:
            content_format = draw(st.sampled_from([0, 110, 112, 11542]))
            payload = draw(st.binary(max_size=30))
    if payload and draw(st.integers(0, 5)) == 0:
        changed = bytearray(payload)
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        payload = bytes(changed)
    if draw(st.integers(0, 12)) == 0:
        payload += draw(st.sampled_from([b" ", b"\x00", b"0", b"\n", b"]"]))
    return text, content_format, payload


def _check_equal(text: str, content_format: int, payload: bytes, observe: int, token: bytes) -> bool:
    bench = Bench()
    observation = bench.observe(bench.device(), token, text)
    datagram = notification(token=token, observe=observe, content_format=content_format, payload=payload)
    try:
        plain = bench.plain.encode(observation, parse(datagram), payload, NOW_MS)
    except (CodecError, SerdeError) as exc:
        refused: Exception | None = exc
    else:
        refused = None
    if not bench.short.notify(datagram, PEER):
        assert bench.uplink.records == [] and bench.batches.taken == 0
        return False
    assert refused is None, f"the plain path refuses: {refused}"
    bench.batches.flush()
    ((topic, partition, key, value, headers),) = bench.uplink.records
    assert [value] == plain
    assert (topic, partition, key) == ("iot.gw.observations", 0, b"ep")
    # The plain path's own record, headers and all.
    other = Bench()
    other.observe(other.device(), token, text)
    assert other.plain.take(parse(datagram), PEER)
    other.batches.flush()
    assert other.uplink.records == bench.uplink.records
    assert headers[:2] == [("coap.mid", b"\x00\x01"), ("coap.observe", uint(observe))]
    return True


_TEXT_PATH = "/3303/0/5700"


@settings(max_examples=1500, deadline=None)
@given(_payloads(), st.integers(0, 0xFFFFFF), st.binary(min_size=1, max_size=8))
@example((_TEXT_PATH, 0, b"0" * 450 + b"1"), 1, b"t")
@example((_TEXT_PATH, 0, b"-0"), 0, b"t")
@example((_TEXT_PATH, 0, b"."), 0, b"t")
@example((_TEXT_PATH, 0, b""), 0, b"t")
@example((_TEXT_PATH, 110, b'[{"n":"/3303/0/5700","v":-0}]'), 0, b"t")
@example((_TEXT_PATH, 110, b'[{"n":"/3303/0/5700","v":01}]'), 0, b"t")
@example((_TEXT_PATH, 110, b'[{"n":"/3303/0/5700","v":1e400}]'), 0, b"t")
@example((_TEXT_PATH, 110, b'[{"n":"/3303/0/5700","v":NaN}]'), 0, b"t")
@example((_TEXT_PATH, 110, b'[{"n":"/3303/0/5700","v":1,"v":2}]'), 0, b"t")
@example((_TEXT_PATH, 110, b'[{"n":"/3303/1/5700","n":"/3303/0/5700","v":2}]'), 0, b"t")
@example((_TEXT_PATH, 110, '[{"n":"/3303/0/5700","v":2}]'.encode("utf-16")), 0, b"t")
@example((_TEXT_PATH, 110, b'\xef\xbb\xbf[{"n":"/3303/0/5700","v":2}]'), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a2006c") + b"/3303/0/5700" + bytes.fromhex("0201") + b"\x00"), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a2f46c") + b"/3303/0/5700" + bytes.fromhex("0201")), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a3006c") + b"/3303/0/5700" + bytes.fromhex("02010202")), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("d9d9f781a2006c") + b"/3303/0/5700" + bytes.fromhex("0201")), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a2006c") + b"/3303/0/5700" + bytes.fromhex("02c24101")), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a2006c") + b"/3303/0/5700" + bytes.fromhex("02c48221196ab3")), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a2006c") + b"/3303/0/5700" + bytes.fromhex("02f5")), 0, b"t")
@example((_TEXT_PATH, 112, bytes.fromhex("81a2006c") + b"/3303/0/5700" + bytes.fromhex("02f97c00")), 0, b"t")
@example(
    (_TEXT_PATH, 112, bytes.fromhex("81a2006c") + b"/3303/0/5700" + bytes.fromhex("02fb7ff8000000000000")), 0, b"t"
)
def test_what_the_short_path_takes_the_plain_path_makes_the_same_of(
    case: tuple[str, int, bytes], observe: int, token: bytes
) -> None:
    _check_equal(*case, observe, token)


TAKEN: list[tuple[int, bytes, float]] = [
    (0, b"21.5", 21.5),
    (0, b"-3", -3.0),
    (11542, _tlv(Path.parse(_TEXT_PATH), 21.25, 8), 21.25),
    (11542, _tlv(Path.parse(_TEXT_PATH), 21.25, 4), 21.25),
    (110, b'[{"n":"/3303/0/5700","v":21.5}]', 21.5),
    (110, b'[{"bn":"/3303/0/5700","v":21.5}]', 21.5),
    (110, b'[{"bn":"/3303/0/","n":"5700","v":-2.5e-3}]', -0.0025),
    (110, b'[{"bn": "/3303/0/", "n": "5700", "v": 7}]', 7.0),
    (112, cbor2.dumps([{0: _TEXT_PATH, 2: 21.3}]), 21.3),
    (112, cbor2.dumps([{-2: _TEXT_PATH, 2: 21.3}]), 21.3),
    (112, cbor2.dumps([{-2: "/3303/0/", 0: "5700", 2: 21.5}], canonical=False), 21.5),
    (112, cbor2.dumps([{0: _TEXT_PATH, 2: 21.5}], canonical=True), 21.5),
    *(
        (112, cbor2.dumps([{0: _TEXT_PATH, 2: n}]), float(n))
        for n in (0, 23, 24, 255, 70000, 2**33, -1, -24, -25, -256, -70000)
    ),
]


@pytest.mark.parametrize(("content_format", "payload", "value"), TAKEN)
def test_usual_shapes_take_the_short_path(content_format: int, payload: bytes, value: float) -> None:
    assert _check_equal(_TEXT_PATH, content_format, payload, 9, b"token678")
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(content_format=content_format, payload=payload)) == "short"
    bench.batches.flush()
    record = serde.decode(bench.uplink.records[0][3])
    assert isinstance(record, Notification) and isinstance(record.rep.body, ReadBody)
    content = record.rep.body.content
    assert isinstance(content, Resource) and content.value == value
    assert (record.ep, record.path, record.ticket, record.timestamp) == ("ep", _TEXT_PATH, "ticket#1", NOW_MS)


def test_absent_content_format_is_text() -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(content_format=None)) == "short"


PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("a time of the device's own", {"content_format": 112, "payload": cbor2.dumps([{0: _TEXT_PATH, 2: 1.5, 6: -5}])}),
    ("a format without a decoder", {"content_format": 60, "payload": cbor2.dumps(1.5)}),
    ("another option", {"more": [(Option.MAX_AGE, b"\x3c")]}),
    ("text with an exponent", {"payload": b"1e3"}),
    ("infinity", {"content_format": 11542, "payload": _tlv(Path.parse(_TEXT_PATH), math.inf, 8)}),
]


@pytest.mark.parametrize(("what", "given"), PLAIN, ids=[what for what, _ in PLAIN])
def test_unusual_notification_takes_the_plain_path_and_is_recorded(what: str, given: dict[str, Any]) -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(**given)) == "plain"
    bench.batches.flush()
    assert bench.mids == [1]
    assert bench.uplink.records[0][0] == "iot.gw.observations"
    bench.uplink.report()
    assert bench.acked == [1]


# Hostile and confused messages


def test_unknown_token_is_not_taken() -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(token=b"unknown!")) == "none"
    assert bench.take(notification(token=b"")) == "none"


def test_notification_from_another_address_is_neither_recorded_nor_answered() -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(), ("127.0.0.1", 40001)) == "plain"
    bench.batches.flush()
    assert bench.uplink.records == [] and bench.acks == []
    assert bench.plain.dropped["unknown address"] == 1


@pytest.mark.parametrize("type_", [Type.ACK])
def test_notification_as_acknowledgement_is_dropped(type_: Type) -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(type_=type_)) == "plain"
    bench.batches.flush()
    assert bench.uplink.records == []


def test_every_truncation_is_left_to_the_plain_path_or_is_a_shorter_text() -> None:
    whole = notification(payload=b"21.5")
    for size in range(5, len(whole)):
        bench = Bench()
        bench.observe(bench.device())
        taken = bench.short.notify(whole[:size], PEER)
        assert taken == (size > len(whole) - 4 and whole[:size].endswith((b"2", b"21", b"21.")))


def test_token_length_beyond_the_datagram_matches_no_token() -> None:
    bench = Bench()
    bench.observe(bench.device())
    for length in range(9, 16):
        assert not bench.short.notify(bytes((0x40 | length, 0x45, 0, 1)) + b"token678", PEER)


def test_undecodable_payload_goes_as_it_came_to_the_dead_letters_and_is_acknowledged_when_there() -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(7, payload=b"warm")) == "plain"
    bench.batches.flush()
    ((topic, _, key, value, headers),) = bench.uplink.records
    assert (topic, key, value) == ("iot.gw.deadletter", b"ep", b"warm")
    assert dict(headers)["stage"] == b"gateway:decode" and dict(headers)["path"] == b"/3303/0/5700"
    assert bench.acks == []
    bench.uplink.report()
    assert bench.acked == [7]


@pytest.mark.parametrize(("code", "observe"), [(0x84, True), (0x45, False)])
def test_last_word_of_an_observation_is_recorded_and_ends_it(code: int, observe: bool) -> None:
    bench = Bench()
    observation = bench.observe(bench.device())
    options: Options = [(Option.OBSERVE, b"\x01")] if observe else []
    assert bench.take(build(Type.CON, code, 3, b"token678", options, b"1")) == "plain"
    bench.batches.flush()
    bench.uplink.report()
    assert bench.acked == [3]
    assert bench.ended == [observation]


# Batches


def test_one_report_for_a_partition_and_batch_and_acknowledgements_after_it() -> None:
    bench = Bench()
    for partition in (0, 1):
        device = bench.device(f"ep{partition}", partition=partition)
        bench.observe(device, b"token67%d" % partition)
    for mid in range(1, 11):
        assert bench.take(notification(mid, token=b"token67%d" % (mid % 2), observe=mid)) == "short"
    assert bench.uplink.reports == []
    bench.batches.flush()
    assert [partition for partition, _ in bench.uplink.reports] == [0, 1]
    assert sorted(bench.mids) == list(range(1, 11))
    assert bench.acks == []
    bench.uplink.report()
    assert sorted(bench.acked) == list(range(1, 11))


def test_flush_of_nothing_sends_nothing() -> None:
    bench = Bench()
    bench.batches.flush()
    assert bench.uplink.records == []


def test_non_confirmable_is_recorded_and_not_acknowledged() -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(notification(1, type_=Type.NON)) == "short"
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1] and bench.acks == []
    assert bench.take(notification(1, type_=Type.NON)) == "short"
    bench.batches.flush()
    assert bench.mids == [1] and bench.acks == []


@pytest.mark.parametrize("more", [[], [(Option.MAX_AGE, b"\x01")]], ids=["short", "plain"])
def test_duplicate_is_acknowledged_only_once_the_first_is_durable(more: Options) -> None:
    bench = Bench()
    bench.observe(bench.device())
    way = bench.take(notification(1, more=more))
    assert bench.take(notification(1, more=more)) == way  # in the same batch
    bench.batches.flush()
    assert bench.take(notification(1, more=more)) == way
    bench.batches.flush()
    assert bench.mids == [1] and bench.acks == []
    bench.uplink.report()
    assert bench.acked == [1]
    assert bench.take(notification(1, more=more)) == way
    bench.batches.flush()
    assert bench.mids == [1]
    assert bench.acked == [1, 1]
    assert bench.batches.duplicates == 3


@pytest.mark.parametrize("more", [[], [(Option.MAX_AGE, b"\x01")]], ids=["short", "plain"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "quiet"])
def test_message_id_is_new_after_the_lifetime_of_an_exchange(more: Options, busy: bool) -> None:
    bench = Bench()
    bench.observe(bench.device())
    other = bench.device("other", address=("127.0.0.1", 40001))
    bench.observe(other, b"other678")
    bench.take(notification(1, more=more))
    bench.batches.flush()
    bench.uplink.report()
    for second in range(1, 250):
        bench.now = 1000.0 + second
        if busy:
            bench.short.notify(notification(second + 100, token=b"other678"), ("127.0.0.1", 40001))
            bench.batches.flush()
    bench.uplink.records.clear()
    bench.now = 1000.0 + EXCHANGE_LIFETIME + 2.5
    bench.take(notification(1, more=more))
    bench.batches.flush()
    assert bench.mids == [1]
    assert bench.batches.duplicates == 0


def test_message_id_of_a_later_batch_of_the_same_second_is_new_after_the_lifetime_too() -> None:
    bench = Bench()
    bench.observe(bench.device())
    for mid in (1, 2):
        bench.take(notification(mid))
        bench.batches.flush()
        bench.now += 0.3
    bench.uplink.report()
    bench.now += EXCHANGE_LIFETIME + 2.0
    bench.take(notification(2))
    bench.batches.flush()
    assert bench.mids == [1, 2, 2] and bench.acked == [1, 2]


def test_what_was_read_back_at_the_start_is_new_after_the_lifetime() -> None:
    bench = Bench()
    device = bench.device()
    bench.observe(device)
    device.window.put(b"\0\1", bench.batches.recovered)
    bench.take(notification(1))
    assert bench.batches.duplicates == 1
    bench.batches.flush()
    bench.now += EXCHANGE_LIFETIME + 2.0
    bench.take(notification(1))
    assert bench.batches.duplicates == 1 and bench.batches.taken == 1


def test_message_id_is_known_until_the_lifetime_of_an_exchange() -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.take(notification(1))
    bench.batches.flush()
    bench.now += EXCHANGE_LIFETIME - 0.5
    bench.take(notification(1))
    bench.batches.flush()
    assert bench.mids == [1] and bench.batches.duplicates == 1


def test_batch_that_failed_is_not_acknowledged_and_is_new_when_forgotten() -> None:
    bench = Bench()
    device = bench.device()
    bench.observe(device)
    bench.take(notification(1))
    bench.batches.flush()
    bench.uplink.report()
    bench.take(notification(2))
    bench.batches.flush()
    bench.uplink.report(durable=False)
    assert bench.acked == [1]
    bench.take(notification(2))
    bench.batches.flush()
    assert bench.mids == [1, 2] and bench.acked == [1]  # under way for all that is known
    bench.batches.forget_undelivered([device])
    bench.take(notification(2))
    bench.take(notification(1))
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1, 2, 2]
    assert bench.acked == [1, 1, 2]


def test_what_an_old_producer_recorded_is_known_when_it_is_read_back() -> None:
    bench = Bench()
    device = bench.device()
    bench.observe(device)
    bench.take(notification(1))
    bench.batches.flush()
    bench.uplink.report()
    bench.now += EXCHANGE_LIFETIME + 2.0  # so that the first marks are old
    bench.take(notification(2))
    bench.batches.flush()
    bench.uplink.report(durable=False)
    bench.batches.forget_undelivered([device])
    device.window.put(b"\0\2", bench.batches.recovered)  # it is in Kafka all the same
    bench.take(notification(2))
    bench.batches.flush()
    assert bench.mids == [1, 2] and bench.acked == [1, 2]


def test_record_whose_batch_lost_its_report_is_acknowledged_with_the_next() -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.uplink.room = 1
    bench.take(notification(1))
    bench.take(notification(2))
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1] and bench.acked == []
    bench.uplink.room = 10
    bench.take(notification(2))
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1, 2] and bench.acked == [1, 2]


def test_copies_of_an_undecodable_notification_make_one_dead_letter() -> None:
    bench = Bench()
    bench.observe(bench.device())
    broken = notification(1, content_format=11542, payload=b"\xe8")
    bench.take(broken)
    bench.take(broken)
    assert len(bench.uplink.records) == 1 and bench.acked == []
    bench.uplink.report()
    bench.take(broken)
    assert len(bench.uplink.records) == 1 and bench.acked == [1, 1]
    bench.uplink.report()


def test_notification_too_large_for_a_record_is_a_dead_letter() -> None:
    bench = Bench()
    observation = bench.observe(bench.device(), path="/2000/0/1")
    # A multiple resource of many small instances (TLV): its record is ten times as large. It came in blocks.
    instances = b"".join(b"\x61" + number.to_bytes(2, "big") + b"\x01" for number in range(40_000))
    payload = b"\x98\x01" + len(instances).to_bytes(3, "big") + instances
    bench.plain.record(observation, parse_any_size(notification(1, content_format=11542, payload=payload)), PEER)
    [(topic, *_, headers)] = bench.uplink.records
    assert topic == bench.uplink.topics.deadletter and b"too large" in dict(headers)["error"]
    bench.uplink.report()
    assert bench.acked == [1]


def test_nothing_is_taken_while_kafka_takes_nothing() -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.uplink.closed = "down"
    assert bench.take(notification(1)) == "short"
    assert bench.take(notification(2, more=[(Option.MAX_AGE, b"\x01")])) == "plain"
    bench.batches.flush()
    assert bench.uplink.records == [] and bench.acks == []
    assert bench.batches.refused == 2
    bench.uplink.closed = None
    bench.take(notification(1))
    bench.take(notification(2, more=[(Option.MAX_AGE, b"\x01")]))
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1, 2] and sorted(bench.acked) == [1, 2]


@pytest.mark.parametrize("room", range(6))
def test_queue_that_is_full_in_the_middle_loses_nothing_that_is_acknowledged(room: int) -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.uplink.room = room
    for mid in range(1, 6):
        bench.take(notification(mid, observe=mid))
    bench.batches.flush()
    bench.uplink.report()
    assert set(bench.acked) <= set(bench.mids)
    # The device sends again what was not acknowledged; in the end each is recorded once and acknowledged.
    bench.uplink.room = 1 << 30
    for _ in range(2):
        for mid in range(1, 6):
            if mid not in bench.acked:
                bench.take(notification(mid, observe=mid))
        bench.take(notification(99, observe=99))
        bench.batches.flush()
        bench.uplink.report()
    assert sorted(bench.mids) == [1, 2, 3, 4, 5, 99]
    assert set(bench.acked) == {1, 2, 3, 4, 5, 99}


def _series(mid: int, values: int) -> bytes:
    pack = [{0: _TEXT_PATH, 2: float(n), 6: -1.0 - n} for n in range(values)]
    return notification(mid, content_format=112, payload=cbor2.dumps(pack))


def test_series_is_one_record_a_time_and_acknowledged_once() -> None:
    bench = Bench()
    bench.observe(bench.device())
    assert bench.take(_series(1, 3)) == "plain"
    bench.batches.flush()
    bench.uplink.report()
    assert bench.mids == [1, 1, 1] and bench.acked == [1]
    assert [("coap.more", b"1") in headers for *_, headers in bench.uplink.records] == [True, True, False]


@pytest.mark.parametrize("room", range(5))
@pytest.mark.parametrize("before", [0, 1])
def test_series_is_acknowledged_only_when_all_of_it_is_recorded(room: int, before: int) -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.uplink.room = room
    for _ in range(before):
        bench.take(notification(9))
    bench.take(_series(1, 3))
    bench.batches.flush()
    bench.uplink.report()
    whole = [headers for *_, headers in bench.uplink.records if ("coap.mid", b"\x00\x01") in headers]
    assert (1 in bench.acked) == (len(whole) == 3)
    bench.uplink.room = 1 << 30
    bench.take(_series(1, 3))
    bench.batches.flush()
    bench.uplink.report()
    assert 1 in bench.acked
    # Each value once, in their order, and the last of them says that it is the last.
    series = [(value, headers) for *_, value, headers in bench.uplink.records if ("coap.mid", b"\x00\x01") in headers]
    assert _values([value for value, _ in series]) == [2.0, 1.0, 0.0]
    assert [("coap.more", b"1") in headers for _, headers in series] == [True, True, False]


@pytest.mark.parametrize("written", range(3))
def test_series_that_a_killed_gateway_has_begun_goes_on_where_it_was_cut(written: int) -> None:
    bench = Bench()
    device = bench.device()
    bench.observe(device)
    if written:
        bench.batches.begun[device.key, b"\x00\x01"] = (bench.batches.recovered, written)
    for _ in range(2):
        bench.take(_series(1, 3))
        bench.batches.flush()
        bench.uplink.report()
    assert _values([value for *_, value, _ in bench.uplink.records]) == [2.0, 1.0, 0.0][written:]
    assert bench.acked == [1, 1]


def test_message_id_of_a_series_that_was_cut_is_new_after_the_lifetime_of_an_exchange() -> None:
    bench = Bench()
    device = bench.device()
    bench.observe(device)
    bench.batches.begun[device.key, b"\x00\x01"] = (bench.batches.recovered, 2)
    bench.now += EXCHANGE_LIFETIME + 1
    bench.take(_series(1, 3))
    bench.batches.flush()
    assert len(bench.uplink.records) == 3


def test_series_that_were_cut_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification_batches, "MOST_BEGUN", 4)
    bench = Bench()
    bench.observe(bench.device())
    for mid in range(1, 20):
        bench.take(_series(mid, 2))
        bench.batches.flush()
    assert len(bench.batches.begun) == 4


def _values(records: list[bytes]) -> list[object]:
    found: list[object] = []
    for record in records:
        notification = serde.decode(record)
        assert isinstance(notification, Notification) and isinstance(notification.rep.body, ReadBody)
        assert isinstance(notification.rep.body.content, Resource)
        found.append(notification.rep.body.content.value)
    return found


@pytest.mark.parametrize("more", [[], [(Option.MAX_AGE, b"\x01")]], ids=["short", "plain"])
def test_notification_behind_a_newer_one_is_marked_late(more: Options) -> None:
    bench = Bench()
    bench.observe(bench.device())
    for mid, observe in enumerate((5, 7, 6, 7, 8, 0xFFFFFF, 0), start=1):
        bench.take(notification(mid, observe=observe, more=more))
    bench.batches.flush()
    late = [("late", b"1") in headers for *_, headers in bench.uplink.records]
    # RFC 7641, section 3.4: 24 bit serial number arithmetic.
    assert late == [False, False, True, False, False, True, True]
    assert bench.batches.late == 3


@pytest.mark.parametrize("more", [[], [(Option.MAX_AGE, b"\x01")]], ids=["short", "plain"])
def test_notification_that_was_not_taken_is_not_late_when_it_comes_again(more: Options) -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.uplink.room = 0
    bench.take(notification(1, observe=5, more=more))
    bench.batches.flush()
    bench.uplink.room = 1
    bench.take(notification(1, observe=5, more=more))
    bench.batches.flush()
    assert bench.mids == [1] and bench.batches.late == 0


def test_number_wraps_around_and_a_long_silence_makes_any_number_new() -> None:
    bench = Bench()
    bench.observe(bench.device())
    bench.take(notification(1, observe=0xFFFFFE))
    bench.take(notification(2, observe=1))
    bench.batches.flush()
    bench.now += 129
    bench.take(notification(3, observe=0))
    bench.batches.flush()
    assert bench.batches.late == 0


def test_suspended_observation_takes_nothing() -> None:
    bench = Bench()
    observation = bench.observe(bench.device())
    bench.table.suspend(observation)
    assert bench.take(notification(1)) == "none"


def test_queue_mode_device_that_speaks_is_awake() -> None:
    bench = Bench()
    device = bench.device(queue=True)
    bench.observe(device)
    bench.take(notification(1))
    bench.take(notification(2, more=[(Option.MAX_AGE, b"\x01")]))
    assert bench.batches.awake == [device, device]
