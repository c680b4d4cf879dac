"""Send: which records it becomes, when it is answered, and what comes again after a crash.

The uplink is `tests.memory_uplink`, which reports when the test says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import cbor2
import pytest

from gateway import sending
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.message import Code, Message, Option, Options, Type, uint
from gateway.coap.peers import Address
from gateway.recovery import Recovered
from gateway.registration import parse_announcement
from gateway.registry import Device, KafkaPlace, Registry
from gateway.sending import Sends, narrowest
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.records import Binding, Notification, ReadBody, RequestKind, ResponseCode
from schemas.lwm2m.nodes import values
from schemas.lwm2m.objects import Definitions
from tests.memory_uplink import MemoryUplink

HERE: Address = ("127.0.0.1", 5000)
NOW = 1_700_000_000_000
TEMPERATURE = "/3303/0/5700"


class Request:
    """A Send that waits for its answer."""

    def __init__(
        self, *, code: int = Code.POST, fmt: int | None = 110, mid: int = 1, address: Address = HERE, path: str = "dp"
    ) -> None:
        options: Options = [(Option.URI_PATH, path.encode())]
        if fmt is not None:
            options.append((Option.CONTENT_FORMAT, uint(fmt)))
        self.mid = mid
        self.message = Message(Type.CON, code, mid, b"t", options, b"")
        self.address = address
        self.answer: int | str | None = None
        self.words = ""

    def waits(self) -> bool:
        return self.answer is None

    def reply(self, code: int, options: Options | None = None, payload: bytes = b"") -> None:
        assert self.answer is None, "answered twice"
        self.answer, self.words = code, payload.decode()

    def busy(self) -> None:
        assert self.answer is None, "answered twice"
        self.answer = "busy"

    def drop(self) -> None:
        assert self.answer is None, "answered twice"
        self.answer = "dropped"


class Bench:
    """Sends with one registered device, and a clock in the test's hands."""

    def __init__(self) -> None:
        self.uplink = MemoryUplink()
        self.registry = Registry()
        self.now_ms = NOW
        self.heard: list[str] = []
        self.sends = Sends(
            server_id="gw",
            uplink=cast(Uplink, self.uplink),
            registry=self.registry,
            definitions=Definitions.builtin(),
            heard=lambda device: self.heard.append(device.ep),
            wall_ms=lambda: self.now_ms,
        )
        self.registry.add(
            Device(
                ep="lamp",
                reg_id="r1",
                address=HERE,
                lifetime=60,
                version="1.1",
                binding=Binding.U,
                queue=False,
                sms=None,
                announcement=parse_announcement(b"</3/0>,</3303/0>"),
                attributes={},
                reg_date=NOW,
                last_up=NOW,
                place=KafkaPlace(key=b"lamp", observations=1, registrations=0, replies=0),
            )
        )

    def send(self, payload: bytes, request: Request | None = None, *, blocks: bool = False) -> Request:
        asked = request or Request()
        self.sends.serve(asked, payload, b"" if blocks else asked.mid.to_bytes(2, "big"))
        return asked

    @property
    def records(self) -> list[Notification]:
        found = [serde.decode(value) for _, _, _, value, _ in self.uplink.records]
        return [one for one in found if isinstance(one, Notification)]

    @property
    def rows(self) -> list[tuple[str, int | None, object]]:
        """Path, device time and value, as history has them."""
        return [
            (str(value.path), value.timestamp, value.value)
            for one in self.records
            if isinstance(one.rep.body, ReadBody)
            for value in values(one.rep.body.content)
        ]


def pack(*records: Mapping[str, object]) -> bytes:
    return json.dumps(records).encode()


def series(count: int, *, start: float = 1.6e9) -> bytes:
    return pack({"bn": TEMPERATURE, "bt": start, "v": 0.0}, *({"t": n, "v": float(n)} for n in range(1, count)))


def test_send_becomes_a_record_and_is_answered_when_kafka_has_it() -> None:
    bench = Bench()
    request = bench.send(pack({"n": TEMPERATURE, "v": 21.5}))
    assert request.waits()
    [record] = bench.records
    assert (record.ep, record.path, record.ticket, record.observation_id) == ("lamp", TEMPERATURE, "send", "")
    assert (record.rep.kind, record.rep.code, record.timestamp) == (RequestKind.SEND, ResponseCode.CONTENT, NOW)
    assert [record[:3] for record in bench.uplink.records] == [("iot.gw.observations", 1, b"lamp")]
    assert bench.rows == [(TEMPERATURE, None, 21.5)]
    bench.uplink.report()
    assert request.answer == Code.CHANGED and bench.sends.taken == 1
    assert bench.heard == ["lamp"]


@pytest.mark.parametrize(
    ("fmt", "payload"),
    [
        (110, pack({"n": TEMPERATURE, "v": 21.5}, {"n": "/3/0/9", "v": 87}, {"n": "/3303/0/5601", "v": 1})),
        (112, cbor2.dumps([{0: TEMPERATURE, 2: 21.5}, {0: "/3/0/9", 2: 87}, {0: "/3303/0/5601", 2: 1}])),
        (11544, cbor2.dumps({3303: {0: {5700: 21.5, 5601: 1}}, (3, 0, 9): 87})),
    ],
)
def test_values_of_several_objects_are_a_record_an_object(fmt: int, payload: bytes) -> None:
    bench = Bench()
    bench.send(payload, Request(fmt=fmt))
    assert [record.path for record in bench.records] == ["/3/0/9", "/3303/0"]
    assert sorted(bench.rows) == [
        ("/3/0/9", None, 87),
        ("/3303/0/5601", None, 1.0),
        (TEMPERATURE, None, 21.5),
    ]


def test_hundreds_of_times_are_as_many_rows_with_the_devices_own_times() -> None:
    bench = Bench()
    request = bench.send(series(300), blocks=True)
    assert bench.rows == [(TEMPERATURE, 1_600_000_000_000 + 1000 * n, float(n)) for n in range(300)]
    # One report vouches for all of them, in one partition.
    assert len(bench.uplink.reports) == 1 and request.waits()
    bench.uplink.report()
    assert request.answer == Code.CHANGED and bench.sends.taken == 1


def test_times_come_in_any_order_and_may_be_relative() -> None:
    bench = Bench()
    bench.send(
        pack(
            {"bn": TEMPERATURE, "t": -5, "v": 2},
            {"v": 3},
            {"t": -60.5, "v": 1},
            {"t": 1.7e9 - 3600, "v": 0},
        )
    )
    assert bench.rows == [
        (TEMPERATURE, NOW - 3_600_000, 0.0),
        (TEMPERATURE, NOW - 60_500, 1.0),
        (TEMPERATURE, NOW - 5_000, 2.0),
        (TEMPERATURE, None, 3.0),
    ]


@pytest.mark.parametrize(
    ("request_", "payload", "code", "words"),
    [
        (Request(code=Code.GET), b"", Code.METHOD_NOT_ALLOWED, "POST"),
        (Request(address=("10.0.0.1", 9)), series(1), Code.NOT_FOUND, "register"),
        (Request(fmt=None), series(1), Code.UNSUPPORTED_CONTENT_FORMAT, "SenML"),
        (Request(fmt=11542), b"", Code.UNSUPPORTED_CONTENT_FORMAT, "SenML"),
        (Request(), b"[", Code.BAD_REQUEST, "JSON"),
        (Request(), b"[]", Code.BAD_REQUEST, "no value"),
        (Request(fmt=11544), b"\xa0", Code.BAD_REQUEST, "no value"),
        (Request(), pack({"n": TEMPERATURE, "vs": "warm"}), Code.BAD_REQUEST, "a text"),
        (Request(), pack({"n": "/3303/0", "v": 1}), Code.BAD_REQUEST, "no path of a resource"),
        (Request(), pack({"n": TEMPERATURE, "v": 1, "t": 1_700_000_000_000}), Code.BAD_REQUEST, "makes no sense"),
        (Request(), pack({"n": TEMPERATURE, "v": 1}, {"n": TEMPERATURE, "v": 2}), Code.BAD_REQUEST, "twice"),
    ],
)
def test_send_that_makes_no_sense_is_refused_in_words_and_recorded_nowhere(
    request_: Request, payload: bytes, code: Code, words: str
) -> None:
    bench = Bench()
    bench.send(payload, request_)
    assert request_.answer == code and words in request_.words
    assert bench.uplink.records == [] and sum(bench.sends.refused.values()) == 1


def test_nothing_is_taken_while_kafka_takes_nothing() -> None:
    bench = Bench()
    bench.uplink.closed = "down"
    assert bench.send(series(1)).answer == "busy"
    assert bench.uplink.records == []


def test_send_whose_records_are_lost_is_not_answered() -> None:
    bench = Bench()
    request = bench.send(series(3))
    bench.uplink.report(durable=False)
    assert request.answer == "dropped" and bench.sends.taken == 0


@pytest.mark.parametrize("payload", [series(4), pack({"n": TEMPERATURE, "v": 1}, {"n": "/3/0/9", "v": 8})])
@pytest.mark.parametrize("room", range(4))
def test_send_that_meets_a_full_queue_is_recorded_once_when_it_comes_again(payload: bytes, room: int) -> None:
    bench = Bench()
    whole = Bench()
    whole.send(payload)
    bench.uplink.room = room
    first = bench.send(payload)
    bench.uplink.report()
    if room >= len(whole.records):
        assert first.answer == Code.CHANGED
        return
    assert first.answer == "dropped"
    bench.uplink.room = 1 << 30
    again = bench.send(payload)
    bench.uplink.report()
    assert again.answer == Code.CHANGED
    assert bench.rows == whole.rows
    assert [("coap.more", b"1") in headers for *_, headers in bench.uplink.records] == [True] * (
        len(whole.records) - 1
    ) + [False]


@pytest.mark.parametrize("blocks", [False, True])
def test_send_that_was_told_to_come_again_and_was_recorded_all_the_same_is_recorded_once(blocks: bool) -> None:
    bench = Bench()
    first = bench.send(series(3), blocks=blocks)
    # Kafka stalls: whoever waits is answered 5.03, and comes again with another message id before Kafka has the first.
    first.busy()
    second = bench.send(series(3), Request(mid=2), blocks=blocks)
    assert second.answer == "dropped"
    first.answer = None
    bench.uplink.report()
    third = bench.send(series(3), Request(mid=3), blocks=blocks)
    assert third.answer == Code.CHANGED
    assert len(bench.rows) == 3 and (bench.sends.taken, bench.sends.repeated) == (1, 1)
    # And other values of the same moments are others.
    bench.send(series(3).replace(b"1.0", b"1.5"), Request(mid=4), blocks=blocks)
    assert len(bench.rows) == 6


def test_send_that_was_lost_under_way_is_recorded_when_it_comes_again() -> None:
    bench = Bench()
    bench.send(series(3))
    bench.uplink.report(durable=False)
    bench.uplink.records.clear()
    again = bench.send(series(3))
    bench.uplink.report()
    assert again.answer == Code.CHANGED and len(bench.rows) == 3


def test_message_id_that_a_device_has_again_after_a_restart_of_its_own_is_another_send() -> None:
    bench = Bench()
    for _ in range(2):
        bench.send(pack({"n": TEMPERATURE, "v": 21.5}))
        bench.uplink.report()
    assert len(bench.rows) == 2 and bench.sends.repeated == 0


def test_sends_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST_RECORDED", 2)
    bench = Bench()
    for start in (1.6e9, 1.61e9, 1.62e9, 1.6e9):
        bench.send(series(1, start=start))
        bench.uplink.report()
    assert len(bench.rows) == 4 and bench.sends.repeated == 0


def _recovered(bench: Bench) -> Recovered:
    """What a gateway that starts now reads back."""
    found = Recovered(window=64)
    for _, _, key, _, headers in bench.uplink.records:
        identity = (key, dict(headers)["send.id"])
        if ("coap.more", b"1") in headers:
            found.sends_begun[identity] = found.sends_begun.get(identity, 0) + 1
        else:
            found.sends_begun.pop(identity, None)
            found.sends[identity] = None
    return found


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("written", range(4))
def test_send_that_a_killed_gateway_has_recorded_in_part_goes_on_there(written: int, blocks: bool) -> None:
    dead = Bench()
    dead.send(series(3), blocks=blocks)
    del dead.uplink.records[written:]
    bench = Bench()
    found = _recovered(dead)
    bench.sends.remember(found.sends_begun, found.sends)
    # In blocks it comes with another message id.
    request = bench.send(series(3), Request(mid=77 if blocks else 1), blocks=blocks)
    bench.uplink.report()
    assert request.answer == Code.CHANGED
    assert dead.rows + bench.rows == [(TEMPERATURE, 1_600_000_000_000 + 1000 * n, float(n)) for n in range(3)]
    assert bench.sends.repeated == (written == 3)


@pytest.mark.parametrize("payload", [pack({"n": TEMPERATURE, "v": 1}), pack({"n": TEMPERATURE, "v": 1, "t": -5})])
def test_same_bytes_without_absolute_times_are_another_send(payload: bytes) -> None:
    dead = Bench()
    dead.send(payload)
    bench = Bench()
    found = _recovered(dead)
    bench.sends.remember(found.sends_begun, found.sends)
    bench.send(payload, Request(mid=2))
    bench.send(payload, Request(mid=3), blocks=True)
    assert len(bench.records) == 2
    # But the same message is the same.
    assert bench.send(payload, Request(mid=1)).answer == Code.CHANGED
    assert len(bench.records) == 2


def test_what_was_read_back_is_forgotten_after_the_lifetime_of_an_exchange() -> None:
    bench = Bench()
    bench.sends.remember({(b"lamp", b"\x00\x01"): 1}, {(b"lamp", b"\x00\x02")})
    bench.now_ms += int(EXCHANGE_LIFETIME * 1000) + 1
    bench.send(pack({"n": TEMPERATURE, "v": 1}, {"n": "/3/0/9", "v": 8}))
    bench.send(pack({"n": TEMPERATURE, "v": 1}), Request(mid=2))
    assert len(bench.records) == 3


def test_record_that_kafka_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST_RECORD_BYTES", 100)
    bench = Bench()
    assert bench.send(pack({"n": "/3/0/0", "vs": "x" * 200})).answer == Code.REQUEST_ENTITY_TOO_LARGE
    assert bench.uplink.records == []


def test_other_paths_and_blocks_are_not_taken() -> None:
    bench = Bench()
    assert not bench.sends.request(Request(path="rd"))
    blocks = Request()
    blocks.message.options.append((Option.BLOCK1, b"\x08"))
    assert not bench.sends.request(blocks)
    assert bench.sends.request(Request())


def test_narrowest_node_of_one_value_is_its_resource() -> None:
    bench = Bench()
    bench.send(pack({"n": "/3/0/6/1", "v": 5}, {"n": TEMPERATURE, "v": 2}))
    assert [record.path for record in bench.records] == ["/3/0/6/1", TEMPERATURE]
    body = bench.records[0].rep.body
    assert isinstance(body, ReadBody) and narrowest(body.content) is body.content


def _behind(bench: Bench) -> None:
    """The lamp is a gateway with two devices behind it, of other keys and partitions."""
    gateway = bench.registry.device("lamp")
    assert gateway is not None
    found: dict[str, Device] = {}
    for number, prefix in enumerate(("p0", "p1")):
        found[prefix] = Device(
            ep=f"lamp/{prefix}",
            reg_id=f"r-{prefix}",
            address=HERE,
            lifetime=60,
            version="1.1",
            binding=Binding.U,
            queue=False,
            sms=None,
            announcement=parse_announcement(b"</3303/0>"),
            attributes={},
            reg_date=NOW,
            last_up=NOW,
            place=KafkaPlace(key=f"lamp/{prefix}".encode(), observations=number, registrations=0, replies=0),
            behind="lamp",
            prefix=prefix,
        )
    bench.sends = Sends(
        server_id="gw",
        uplink=cast(Uplink, bench.uplink),
        registry=bench.registry,
        definitions=Definitions.builtin(),
        heard=lambda device: bench.heard.append(device.ep),
        behind=lambda device: found if device is gateway else None,
        wall_ms=lambda: bench.now_ms,
    )


OF_TWO = pack({"n": "/p0/3303/0/5700", "v": 1}, {"n": "/p1/3303/0/5700", "v": 2}, {"n": "/3/0/9", "v": 3})


def test_send_of_a_gateway_is_records_of_each_device_and_answered_when_all_are_there() -> None:
    bench = Bench()
    _behind(bench)
    request = bench.send(OF_TWO)
    assert [(one.ep, one.path) for one in bench.records] == [
        ("lamp/p0", TEMPERATURE),
        ("lamp/p1", TEMPERATURE),
        ("lamp", "/3/0/9"),
    ]
    assert [record[1:3] for record in bench.uplink.records] == [(0, b"lamp/p0"), (1, b"lamp/p1"), (1, b"lamp")]
    # One partition after the other reports.
    reports, bench.uplink.reports = bench.uplink.reports, []
    assert len(reports) == 3
    for _, done in reports:
        assert request.waits()
        # What comes of the first is not known while it is under way.
        copy = Request()
        bench.send(OF_TWO, copy)
        assert copy.answer == "dropped"
        done(True)
    assert request.answer == Code.CHANGED and bench.sends.taken == 1
    assert bench.heard[0] == "lamp"


@pytest.mark.parametrize("taken", [1, 2])
def test_of_a_send_that_is_cut_between_devices_nothing_is_there_twice(taken: int) -> None:
    bench = Bench()
    _behind(bench)
    bench.uplink.room = taken
    request = bench.send(OF_TWO)
    assert request.waits()
    bench.uplink.room = 1 << 30
    bench.uplink.report()
    assert request.answer == "dropped"
    # It comes again, and goes on with those who were not told of.
    again = bench.send(OF_TWO)
    bench.uplink.report()
    assert again.answer == Code.CHANGED
    assert [(one.ep, one.path) for one in bench.records] == [
        ("lamp/p0", TEMPERATURE),
        ("lamp/p1", TEMPERATURE),
        ("lamp", "/3/0/9"),
    ]


def test_send_for_somebody_who_is_not_behind_the_gateway_is_refused_as_a_whole() -> None:
    bench = Bench()
    _behind(bench)
    request = bench.send(pack({"n": "/p0/3303/0/5700", "v": 1}, {"n": "/p9/3303/0/5700", "v": 2}))
    assert request.answer == Code.NOT_FOUND and "'p9'" in request.words
    assert bench.records == [] and bench.sends.refused == {"unknown prefix": 1}


def test_a_prefix_from_a_device_that_is_no_gateway_is_no_path() -> None:
    bench = Bench()
    request = bench.send(OF_TWO)
    assert request.answer == Code.BAD_REQUEST and bench.records == []
