"""The load over DTLS counts what happened: acknowledgements that are none, that get lost, and the servers' own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gateway.coap.message import Code, Message, Option, Type, build, empty, parse
from gateway.dtls.server import Server
from tests.bench import coaps
from tests.bench.secure_fleet import PATH, SecureFleet, key_of
from tests.bench.targets import COAPS, COAPS_PEER
from tests.gateway.dtls.dtls_udp_server import UdpServer

_NAMES = ["one", "two", "three"]


class _Observer:
    """An LwM2M server: registers, observes once, and answers each notification as ``answer`` says."""

    def __init__(self, answer: Callable[[Message, int], list[bytes]]) -> None:
        self._answer = answer
        #: How often each notification came, by its value and message id; the first values are not counted.
        self.came: Counter[tuple[bytes, int]] = Counter()
        self.udp = UdpServer(Server(lambda identity: key_of(identity.decode())), answers=self._answers)

    def _answers(self, data: bytes) -> list[bytes]:
        message = parse(data)
        if message.code == Code.POST:
            created = build(Type.ACK, Code.CREATED, message.mid, message.token, [(Option.LOCATION_PATH, b"rd")])
            path = [(Option.URI_PATH, one.encode()) for one in PATH]
            return [created, build(Type.CON, Code.GET, 7, b"token", [(Option.OBSERVE, b""), *path])]
        if message.type != Type.CON:
            return []
        self.came[message.payload, message.mid] += 1
        return self._answer(message, self.came.total())


def _notify(observer: _Observer, *, ahead: int = 50, seconds: float = 0.5) -> SecureFleet:
    with observer.udp as server, SecureFleet(("127.0.0.1", server.port), _NAMES) as fleet:
        fleet.set_up()
        fleet.protect_ahead(ahead)
        fleet.notify(seconds)
        fleet.notify_at(50.0, 0.2)
    return fleet


def test_each_notification_is_another_and_is_counted_once() -> None:
    observer = _Observer(lambda message, _: [empty(Type.ACK, message.mid)])
    tally = _notify(observer, ahead=10).tally
    assert tally.acknowledged == observer.came.total() > 3 * 10
    # Three devices that say the same, each once.
    assert set(observer.came.values()) <= {1, 2, 3}
    assert (tally.retried, tally.lost, tally.refused) == (0, 0, 0)
    assert tally.in_place > 0


def test_a_reset_or_an_acknowledgement_of_something_else_does_not_count() -> None:
    def answer(message: Message, number: int) -> list[bytes]:
        wrong = {5: empty(Type.RST, message.mid), 9: empty(Type.ACK, message.mid + 1)}
        return [wrong.get(number, empty(Type.ACK, message.mid))]

    observer = _Observer(answer)
    tally = _notify(observer).tally
    assert tally.refused == 2
    assert tally.acknowledged == observer.came.total() - 2


def test_what_is_not_acknowledged_is_said_again_and_counted_once() -> None:
    observer = _Observer(lambda message, number: [] if number in (4, 30) else [empty(Type.ACK, message.mid)])
    tally = _notify(observer, seconds=4.0).tally
    assert tally.retried == 2
    assert (tally.lost, tally.refused) == (0, 0)
    assert tally.acknowledged == observer.came.total() - 2


def test_both_servers_acknowledge_what_is_in_the_topic() -> None:
    measured = coaps.measure(runs=1, devices=20, warm_up=1.0, seconds=1.0)
    assert set(measured) == {COAPS, COAPS_PEER}
    for (figures,) in measured.values():
        assert figures["notify_max per_s"] > 0
        assert figures["acknowledged"] > 0
        assert figures["landed_share"] == 1.0
        assert figures["lost"] == 0
