"""One virtual device of a load and a server in the test's hands: real sockets, aiocoap's messages, the test's time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

import pytest
from aiocoap import Message
from aiocoap.numbers import codes
from aiocoap.numbers.types import ACK, CON, NON, RST, Type

from gateway.devices.load.content import Content
from gateway.devices.load.device import Device
from gateway.devices.load.plan import VALUE, Kind, Plan, Share
from gateway.devices.load.samples import Sample
from gateway.devices.load.shared import Doing, Load
from schemas.lwm2m.formats import ContentFormat, decode
from schemas.lwm2m.nodes import Resource
from schemas.lwm2m.objects import Definitions

NOW = 1000.0
#: 2026-11-23, 12:00:00 UTC at NOW.
EPOCH = 1_795_435_200.0


class Server:
    """The other end of the device's socket, and all that the device tells. Time is the test's."""

    def __init__(self, *shares: Share, loops: int = 1, keep: bool = False, lifetime: int = 86_400) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(0.2)
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.connect(self.sock.getsockname())
        self.sock.connect(own.getsockname())
        self.now = NOW
        self.size = 0
        self.samples: list[Sample] = []
        self.told: list[tuple[str, float]] = []
        self.waits: list[float] = []
        self.is_done = False
        self.asked: list[str] = []
        self.load = Load(
            plan=Plan(endpoints=("dev",), shares=shares, loops=loops, keep=keep, lifetime=lifetime),
            content=Content(VALUE, lifetime),
            recorder=self,
            ledger=self,
            reads=self,
            offset=EPOCH - NOW,
            wait=lambda when, device: self.waits.append(when),
            turn=lambda device: self.waits.append(self.now),
            done=lambda device: setattr(self, "is_done", True),
            run="run",
            random=Random(7),
        )
        self.device = Device(1, "dev", self.load, own, self.now)

    def record(self, sample: Sample) -> None:
        self.samples.append(sample)

    def settle(self) -> None:
        return None

    def sent(self, endpoint: str, path: str, value: float, confirmable: bool) -> None:
        self.told.append(("sent", value))

    def acknowledged(self, endpoint: str, path: str, value: float) -> None:
        self.told.append(("acknowledged", value))

    def ask(self, ticket: str, endpoint: str, path: str) -> None:
        self.asked.append(ticket)

    # The server's side

    def heard(self) -> Message:
        """The next message of the device; ``size`` is that of its datagram."""
        datagram = self.sock.recv(2048)
        self.size = len(datagram)
        return Message.decode(datagram)

    def heard_nothing(self) -> bool:
        try:
            self.sock.recv(2048)
        except TimeoutError:
            return True
        return False

    def say(self, message: Message) -> None:
        self.sock.send(message.encode())
        self.deliver()

    def deliver(self) -> None:
        """As the engine does it."""
        datagram = self.device.sock.recv(2048)
        if datagram == self.device.exchange.awaited:
            self.device.went_well(self.now, len(datagram))
        else:
            self.device.hear(datagram, self.now)

    def answer(self, request: Message, code: codes.Code, **options: object) -> None:
        answer = Message(code=code, **options)
        answer.mtype, answer.mid, answer.token = ACK, request.mid, request.token
        self.say(answer)

    def empty(self, kind: Type, mid: int) -> None:
        message = Message(code=codes.EMPTY)
        message.mtype, message.mid = kind, mid
        self.say(message)

    def registered(self) -> Message:
        """Have the device register; returns what it registered with."""
        self.device.step(self.now)
        request = self.heard()
        self.answer(request, codes.CREATED, location_path=("rd", "x1"))
        return request

    def observe(self, mid: int = 77, token: bytes = b"obs1") -> Message:
        """Observe the device's value; returns its answer."""
        request = Message(code=codes.GET, uri_path=("3303", "0", "5700"), observe=0, accept=ContentFormat.TLV)
        request.mtype, request.mid, request.token = CON, mid, token
        self.say(request)
        return self.heard()

    def notifying(self) -> Message:
        """Have it registered and observed; returns its first notification."""
        self.registered()
        self.observe()
        self.now = self.waits.pop()
        self.device.step(self.now)
        return self.heard()

    def at_deadline(self) -> None:
        self.now = self.device.exchange.deadline
        self.device.overdue(self.now)

    def close(self) -> None:
        self.sock.close()
        self.device.sock.close()


@pytest.fixture
def made() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for one in servers:
        one.close()


def server(made: list[Server], kind: Kind, loops: int = 1, **share: object) -> Server:
    one = Server(Share(kind=kind, **share), loops=loops)  # type: ignore[arg-type]  # of the tests alone
    made.append(one)
    return one


def value_of(message: Message) -> float:
    node = decode(message.opt.content_format, message.payload, VALUE, Definitions.builtin())
    assert isinstance(node, Resource)
    assert isinstance(node.value, float)
    return node.value


def test_registration_is_what_lwm2m_says_and_the_device_leaves_at_its_end(made: list[Server]) -> None:
    one = server(made, Kind.REGISTER)
    request = one.registered()
    assert (request.mtype, request.code, request.opt.uri_path) == (CON, codes.POST, ("rd",))
    assert set(request.opt.uri_query) == {"ep=dev", "lt=86400", "lwm2m=1.1", "b=U"}
    assert request.opt.content_format == 40
    assert b"</3303/0>" in request.payload
    leaving = one.heard()
    assert (leaving.code, leaving.opt.uri_path) == (codes.DELETE, ("rd", "x1"))
    one.answer(leaving, codes.DELETED)
    assert one.is_done
    assert [(sample.label, sample.code, sample.success) for sample in one.samples] == [
        ("register", "2.01", True),
        ("deregister", "2.02", True),
    ]


def test_register_does_it_anew_in_each_loop(made: list[Server]) -> None:
    one = server(made, Kind.REGISTER, loops=3)
    one.device.step(one.now)
    for _ in range(3):
        one.answer(one.heard(), codes.CREATED, location_path=("rd", "x"))
        one.answer(one.heard(), codes.DELETED)
    assert one.is_done
    assert [sample.label for sample in one.samples] == ["register", "deregister"] * 3


def test_message_is_said_again_after_2_to_3_seconds_doubled_and_given_up_after_four_times(made: list[Server]) -> None:
    one = server(made, Kind.REGISTER)
    one.device.step(one.now)
    first = one.sock.recv(2048)
    times = [one.now]
    for _ in range(4):
        one.at_deadline()
        times.append(one.now)
        assert one.sock.recv(2048) == first  # the very same message, under its id
    one.at_deadline()
    pauses = [later - earlier for earlier, later in zip([*times], [*times[1:], one.now], strict=True)]
    assert 2.0 <= pauses[0] <= 3.0
    assert pauses == pytest.approx([pauses[0] * factor for factor in (1, 2, 4, 8, 16)])
    (sample,) = one.samples
    assert (sample.label, sample.code, sample.success) == ("register", "timeout", False)
    assert sample.message == "no answer to 5 transmissions"
    assert sample.elapsed_us == pytest.approx((one.now - NOW) * 1e6, abs=2)
    assert one.load.counts["retransmitted"] == 4
    assert one.is_done  # each attempt is a loop, so that a load without a server ends


def test_notification_is_a_sample_once_it_is_acknowledged_and_another_id_is_no_acknowledgement(
    made: list[Server],
) -> None:
    one = server(made, Kind.NOTIFY)
    first = one.notifying()
    size = one.size
    assert (first.mtype, first.code, first.token) == (CON, codes.CONTENT, b"obs1")
    assert first.opt.observe is not None
    assert one.told == [("sent", value_of(first))]
    one.empty(ACK, first.mid ^ 1)
    assert one.device.exchange.doing is Doing.NOTIFY
    assert one.load.counts["copies"] + one.load.counts["strays"] == 1
    one.now += 0.25
    one.empty(ACK, first.mid)
    assert one.told[1:] == [("acknowledged", value_of(first))]
    sample = one.samples[-1]
    assert (sample.label, sample.code, sample.success, sample.elapsed_us) == ("notify CON", "ACK", True, 250_000)
    assert (sample.sent, sample.received) == (size, 4)


def test_values_are_the_devices_clock_and_rise_though_time_stands_still(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY, loops=50)
    message = one.notifying()
    values = []
    for _ in range(49):
        values.append(value_of(message))
        one.empty(ACK, message.mid)
        message = one.heard()
    assert values == sorted(set(values))
    assert values[0] == pytest.approx((EPOCH + one.now - NOW) * 1e6, abs=2)
    assert all(value == int(value) < 2**53 for value in values)
    observed = [sample.label for sample in one.samples]
    assert observed.count("notify CON") == 49


def test_observe_request_that_comes_again_gets_the_same_answer(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY)
    one.registered()
    answer = one.observe(mid=5)
    again = one.observe(mid=5)
    assert answer.payload == again.payload  # the clock of the device, so no other answer has it
    assert (answer.mtype, answer.code) == (ACK, codes.CONTENT)
    assert answer.opt.observe is not None
    assert one.load.counts["requests again"] == 1
    assert [sample.label for sample in one.samples] == ["register", "observe"]


def test_notifications_go_on_in_the_format_and_with_the_token_of_the_latest_observation(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY, loops=2)
    first = one.notifying()
    request = Message(code=codes.GET, uri_path=("3303", "0", "5700"), observe=0, accept=ContentFormat.SENML_CBOR)
    request.mtype, request.mid, request.token = CON, 99, b"\x01\x02\x03\x04\x05\x06\x07\x08"
    one.say(request)
    assert one.heard().opt.content_format == ContentFormat.SENML_CBOR
    one.empty(ACK, first.mid)
    # What is acknowledged is what was notified, though the observer was told a later value meanwhile.
    assert one.told[1] == ("acknowledged", value_of(first))
    second = one.heard()
    assert second.token == request.token
    assert value_of(second) > value_of(first)


def test_a_non_is_a_sample_at_once_and_waits_its_delay(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY, loops=2, confirmable=False, delay=0.5)
    message = one.notifying()
    assert message.mtype == NON
    assert (one.samples[-1].label, one.samples[-1].code, one.samples[-1].success) == ("notify NON", "", True)
    assert one.waits == [one.now + 0.5]


def test_notification_waits_its_delay_after_the_acknowledgement(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY, loops=2, delay=0.5)
    first = one.notifying()
    one.now += 0.1
    one.empty(ACK, first.mid)
    assert one.waits == [one.now + 0.5]
    assert one.heard_nothing()
    one.now = one.waits.pop()
    one.device.step(one.now)
    one.empty(ACK, one.heard().mid)
    assert one.heard().code == codes.DELETE  # no pause after the last one


def test_what_else_is_due_goes_before_the_next_notification(made: list[Server]) -> None:
    one = Server(Share(kind=Kind.NOTIFY), loops=0, lifetime=100)
    made.append(one)
    first = one.notifying()
    one.now += 80
    one.empty(ACK, first.mid)
    update = one.heard()
    assert (update.code, update.opt.uri_path) == (codes.POST, ("rd", "x1"))
    one.answer(update, codes.CHANGED)
    second = one.heard()
    assert second.code == codes.CONTENT
    one.load.ending = True
    one.empty(ACK, second.mid)
    assert one.heard().code == codes.DELETE
    assert [sample.label for sample in one.samples if sample.label.startswith("notify")] == ["notify CON"] * 2


def test_device_that_is_not_observed_any_more_waits_for_it(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY, loops=0)
    first = one.notifying()
    request = Message(code=codes.GET, uri_path=("3303", "0", "5700"), observe=1, accept=ContentFormat.TLV)
    request.mtype, request.mid, request.token = CON, 78, b"obs1"
    one.say(request)
    assert one.heard().opt.observe is None
    one.empty(ACK, first.mid)
    assert one.device.exchange.doing is Doing.OBSERVE
    assert one.heard_nothing()


@pytest.mark.parametrize("confirmable", [True, False])
def test_device_whose_notification_is_reset_registers_anew(made: list[Server], confirmable: bool) -> None:
    one = server(made, Kind.NOTIFY, loops=2, confirmable=confirmable)
    message = one.notifying()
    one.empty(RST, message.mid)
    if confirmable:
        assert (one.samples[-1].code, one.samples[-1].success) == ("RST", False)
    else:
        assert one.load.counts["resets"] == 1
        one.device.step(one.now)
    assert one.heard().opt.uri_path == ("rd",)
    assert not any(kind == "acknowledged" for kind, _ in one.told)


def test_device_that_is_unknown_to_the_server_registers_anew(made: list[Server]) -> None:
    one = server(made, Kind.UPDATE, loops=2)
    one.registered()
    update = one.heard()
    assert (update.code, update.opt.uri_path, update.payload) == (codes.POST, ("rd", "x1"), b"")
    one.answer(update, codes.NOT_FOUND, payload=b"no such registration")
    sample = one.samples[-1]
    assert (sample.code, sample.success, sample.message) == ("4.04", False, "no such registration")
    assert one.heard().opt.uri_path == ("rd",)


def test_answer_with_another_token_or_id_is_a_stray(made: list[Server]) -> None:
    one = server(made, Kind.UPDATE, loops=2)
    one.registered()
    update = one.heard()
    for mid, token in ((update.mid, b"\xff\xff\xff\xff"), (update.mid ^ 0x8000, update.token)):
        wrong = Message(code=codes.CHANGED)
        wrong.mtype, wrong.mid, wrong.token = ACK, mid, token
        one.say(wrong)
    assert one.device.exchange.doing is Doing.UPDATE
    assert one.load.counts["copies"] + one.load.counts["strays"] == 2
    one.answer(update, codes.CHANGED)
    assert (one.samples[-1].label, one.samples[-1].code) == ("update", "2.04")


def test_separate_response_is_acknowledged_each_time_it_comes(made: list[Server]) -> None:
    one = server(made, Kind.SEND, loops=2)
    one.registered()
    request = one.heard()
    assert (request.code, request.opt.uri_path) == (codes.POST, ("dp",))
    one.empty(ACK, request.mid)
    # It is not said again any more.
    assert one.device.exchange.deadline > one.now + 90
    separate = Message(code=codes.CHANGED)
    separate.mtype, separate.mid, separate.token = CON, 4711, request.token
    one.say(separate)
    acknowledgement = one.heard()
    assert (acknowledgement.mtype, acknowledgement.mid) == (ACK, 4711)
    assert [kind for kind, _ in one.told] == ["sent", "acknowledged", "sent"]
    one.heard()  # the next Send
    one.say(separate)
    again = one.heard()
    assert (again.mtype, again.mid) == (ACK, 4711)
    assert len(one.samples) == 2


def test_device_waits_as_long_as_a_busy_server_says(made: list[Server]) -> None:
    one = server(made, Kind.REGISTER, loops=5)
    one.device.step(one.now)
    one.answer(one.heard(), codes.SERVICE_UNAVAILABLE, max_age=17)
    assert one.waits == [one.now + 17]
    assert (one.samples[0].code, one.samples[0].success) == ("5.03", False)


def test_message_ids_do_not_come_back_within_exchange_lifetime(made: list[Server]) -> None:
    one = server(made, Kind.UPDATE, loops=0)
    one.registered()
    used: dict[int, float] = {}
    for _ in range(80_000):
        if one.waits:
            one.now = one.waits.pop()
            one.device.step(one.now)
        mid = one.heard().mid
        assert one.now >= used.get(mid, -1e9) + 247 - 1e-6, f"{mid} came again after {one.now - used[mid]} s"
        used[mid] = one.now
        one.now += 0.001
        one.device.went_well(one.now, 8)
    assert one.load.counts["held back"] > 0


def test_reply_to_a_read_has_to_have_what_the_device_answered(made: list[Server]) -> None:
    one = server(made, Kind.ANSWER, loops=3)
    one.registered()
    for mid, change in ((1, 0.0), (2, 1.0)):
        request = Message(code=codes.GET, uri_path=("3303", "0", "5700"), accept=ContentFormat.TLV)
        request.mtype, request.mid, request.token = CON, mid, b"rd"
        one.say(request)
        told = value_of(one.heard())
        one.device.replied(one.asked[-1], "2.05", told + change, "", one.now)
    assert [sample.success for sample in one.samples if sample.label == "answer"] == [True, False]
    assert "the device answered" in one.samples[-1].message
    one.device.replied(one.asked[-1], "error", None, "the device is gone", one.now)
    assert (one.samples[-1].code, one.samples[-1].message) == ("error", "the device is gone")
    one.device.replied("run-1-0", "2.05", 1.0, "", one.now)
    assert one.load.counts["late replies"] == 1


@pytest.mark.parametrize(
    ("code", "path", "accept", "answered"),
    [
        (codes.GET, "3/0", 11542, codes.CONTENT),
        (codes.GET, "3/0/0", 0, codes.CONTENT),
        (codes.GET, "1/0/1", 110, codes.CONTENT),
        (codes.GET, "3303/0", 112, codes.CONTENT),
        (codes.GET, "3/0", 0, codes.NOT_ACCEPTABLE),
        (codes.GET, "3/0", 42, codes.NOT_ACCEPTABLE),
        (codes.GET, "5/0", 11542, codes.NOT_FOUND),
        (codes.GET, "nothing/like/it", 11542, codes.NOT_FOUND),
        (codes.PUT, "3303/0/5700", None, codes.METHOD_NOT_ALLOWED),
        (codes.POST, "3/0/4", None, codes.METHOD_NOT_ALLOWED),
    ],
)
def test_requests_of_the_gateway_are_answered(
    made: list[Server], code: codes.Code, path: str, accept: int | None, answered: codes.Code
) -> None:
    one = server(made, Kind.UPDATE)
    request = Message(code=code, uri_path=tuple(path.split("/")))
    if accept is not None:
        request.opt.accept = accept
    request.mtype, request.mid, request.token = CON, 9, b"t"
    one.say(request)
    answer = one.heard()
    assert (answer.mtype, answer.mid, answer.token, answer.code) == (ACK, 9, b"t", answered)


def test_what_is_no_coap_is_counted_and_a_ping_is_answered(made: list[Server]) -> None:
    one = server(made, Kind.UPDATE)
    one.sock.send(b"\xff\xff")
    one.deliver()
    one.sock.send(b"")
    one.deliver()
    assert one.load.counts["malformed"] == 2
    one.empty(CON, 12)
    answer = one.heard()
    assert (answer.mtype, answer.mid) == (RST, 12)


def test_device_that_is_not_observed_has_the_server_asked_again_and_then_gives_up(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY)
    one.registered()
    one.at_deadline()
    update = one.heard()
    assert update.opt.uri_path == ("rd", "x1")
    one.answer(update, codes.CHANGED)
    one.at_deadline()
    failed = [sample for sample in one.samples if not sample.success]
    assert [sample.label for sample in failed] == ["observe", "observe"]
    assert "--observe '/3303/*/5700'" in failed[0].message
    assert one.heard().code == codes.DELETE
    assert one.load.counts["not observed"] == 1


def test_registration_is_updated_before_it_runs_out(made: list[Server]) -> None:
    one = Server(Share(kind=Kind.SEND, delay=100.0), loops=0, lifetime=100)
    made.append(one)
    one.registered()
    one.answer(one.heard(), codes.CHANGED)
    one.now = one.waits.pop()
    one.device.step(one.now)
    assert one.heard().opt.uri_path == ("rd", "x1")


def test_device_that_is_to_stay_says_nothing_at_the_end(made: list[Server]) -> None:
    one = Server(Share(kind=Kind.REGISTER), keep=True)
    made.append(one)
    one.registered()
    assert one.is_done
    assert one.heard_nothing()


def test_what_is_open_when_there_is_no_time_left_is_no_sample(made: list[Server]) -> None:
    one = server(made, Kind.NOTIFY, loops=0)
    one.notifying()
    before = len(one.samples)
    one.device.abandon(one.now)
    assert one.heard().code == codes.DELETE
    assert one.load.counts["unfinished"] == 1
    one.device.abandon(one.now)
    assert one.is_done
    assert len(one.samples) == before
