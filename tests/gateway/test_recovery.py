"""What a gateway that starts reads back from its own topics, on a real Kafka."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from connectors.kafka import (
    Cluster,
    Message,
    Producer,
    admin,
    describe_topics,
    end_offsets,
    ensure_topics,
    producer,
)
from gateway import recovery
from gateway.answering import HEADER_NOT_SENT, HEADER_REQUEST_ID, Said
from gateway.changes import HEADER_PEER
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.journal import Entry
from gateway.notification_batches import HEADER_MID, HEADER_MORE, HEADER_OBSERVE
from gateway.recovery import Recovered, recover
from gateway.sending import HEADER_SEND
from gateway.state import Positions
from schemas.avro import serde
from schemas.avro.records import (
    Binding,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
)
from schemas.avro.topics import Topics

pytestmark = pytest.mark.kafka

Headers = Sequence[tuple[str, bytes]]


class Log:
    """The topics of one gateway, to write into."""

    def __init__(self, cluster: Cluster, gateway: str) -> None:
        self.cluster = cluster
        self.topics = Topics(gateway)
        ensure_topics(cluster, self.topics.partitions())
        self._producer: Producer = producer(cluster)
        self.now_ms = time.time_ns() // 1_000_000

    def write(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), *, age: float = 0, at: int = 0
    ) -> None:
        self._producer.produce(topic, value, key, at, headers=list(headers), timestamp=self.now_ms - round(age * 1000))

    def flush(self) -> int:
        left: int = self._producer.flush(30)
        return left

    def recover(self, window: int = 64) -> Recovered:
        assert self.flush() == 0
        return recover(self.cluster, self.topics, window=window, now_ms=self.now_ms)


@pytest.fixture
def log(kafka: Cluster, gateway_id: str) -> Log:
    return Log(kafka, gateway_id)


def _is_empty(found: Recovered) -> bool:
    return not (found.mids or found.begun or found.sends or found.sends_begun or found.requests or found.answered)


def _mid(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _mids(numbers: Iterable[int]) -> bytes:
    return b"".join(map(_mid, numbers))


def test_gateway_that_never_ran_has_nothing_to_read_back(log: Log) -> None:
    assert _is_empty(log.recover())


def test_message_ids_come_back_by_device_in_their_order(log: Log) -> None:
    topic = log.topics.observations
    for number in range(5):
        log.write(topic, b"a", b"v", [(HEADER_MID, _mid(number)), (HEADER_OBSERVE, b"\x01")], at=0)
        log.write(topic, b"b", b"v", [(HEADER_MID, _mid(100 + number))], at=1)
    assert log.recover().mids == {b"a": _mids(range(5)), b"b": _mids(range(100, 105))}


def test_only_the_lifetime_of_an_exchange_is_read_back(log: Log) -> None:
    topic = log.topics.observations
    for age in (EXCHANGE_LIFETIME * 3, EXCHANGE_LIFETIME + 5):
        log.write(topic, b"a", b"v", [(HEADER_MID, _mid(1))], age=age)
    log.write(topic, b"a", b"v", [(HEADER_MID, _mid(2))], age=EXCHANGE_LIFETIME - 30)
    log.write(topic, b"a", b"v", [(HEADER_MID, _mid(3))])
    assert log.recover().mids == {b"a": _mids((2, 3))}


def test_all_that_is_too_old_is_nothing(log: Log) -> None:
    log.write(log.topics.observations, b"a", b"v", [(HEADER_MID, _mid(1))], age=EXCHANGE_LIFETIME * 2)
    assert _is_empty(log.recover())


def test_message_ids_of_one_device_are_bounded_and_the_newest_stay(log: Log) -> None:
    for number in range(500):
        log.write(log.topics.observations, b"a", b"v", [(HEADER_MID, _mid(number))])
    mids = log.recover(window=10).mids[b"a"]
    kept = len(mids) // 2
    assert 10 <= kept < 20
    assert mids == _mids(range(500 - kept, 500))


def test_notification_of_which_the_last_record_is_missing_was_never_taken(log: Log) -> None:
    topic = log.topics.observations
    for number in (1, 2):
        log.write(topic, b"a", b"v", [(HEADER_MID, _mid(number)), (HEADER_MORE, b"1")])
    log.write(topic, b"a", b"v", [(HEADER_MID, _mid(1)), (HEADER_MORE, b"1")])
    log.write(topic, b"a", b"v", [(HEADER_MID, _mid(2))])
    found = log.recover()
    assert found.mids == {b"a": _mids((2,))}
    # When it comes again, it goes on behind what is there.
    assert found.begun == {(b"a", _mid(1)): 2}


def test_sends_come_back_by_device_and_id_whole_or_begun(log: Log) -> None:
    topic = log.topics.observations
    for key, identity, records in ((b"a", b"one", 3), (b"b", b"one", 1), (b"a", _mid(7), 1)):
        for number in range(records):
            more = [(HEADER_MORE, b"1")] if number < records - 1 else []
            log.write(topic, key, b"v", [(HEADER_SEND, identity), *more])
    for _ in range(2):
        log.write(topic, b"a", b"v", [(HEADER_SEND, b"two"), (HEADER_MORE, b"1")])
    # One that came in blocks and without times is known by nothing.
    log.write(topic, b"a", b"v", [(HEADER_SEND, b"")])
    found = log.recover()
    assert list(found.sends) == [(b"a", b"one"), (b"b", b"one"), (b"a", _mid(7))]
    assert found.sends_begun == {(b"a", b"two"): 2}
    assert found.mids == {} and found.begun == {}


def test_records_that_are_not_ours_are_passed_over(log: Log) -> None:
    for topic in (log.topics.observations, log.topics.registrations, log.topics.replies):
        log.write(topic, None, b"v", [(HEADER_MID, _mid(1))])
        log.write(topic, b"a", None, [])
        log.write(topic, b"a", b"no avro", [(HEADER_PEER, b"127.0.0.1 5000"), ("else", b"1")])
    peer = (HEADER_PEER, b"127.0.0.1 5000")
    log.write(log.topics.registrations, b"a", b"no avro", [(HEADER_MID, _mid(1)), peer])
    log.write(log.topics.registrations, b"a", None, [(HEADER_MID, _mid(1)), peer])
    good = serde.encode(_delete())
    for wrong in (b"", b"127.0.0.1", b"127.0.0.1 port", b"\xff 1"):
        log.write(log.topics.registrations, b"a", good, [(HEADER_MID, _mid(1)), (HEADER_PEER, wrong)])
    assert _is_empty(log.recover())


def _delete() -> Registration:
    return Registration(
        kind=RegistrationKind.DELETE, body=RegistrationDelete(ep="a", server_id="gw", expired=False, last_up=1)
    )


def test_registration_requests_come_back_with_their_answers(log: Log) -> None:
    new = RegistrationNew(
        ep="a",
        server_id="gw",
        reg_date=1,
        address="127.0.0.1",
        port=5000,
        reg_addr="127.0.0.1",
        reg_port=5683,
        lt=60,
        ver="1.1",
        bnd=Binding.U,
        reg_id="reg-1",
        links=(),
        root="/",
        last_up=1,
    )
    update = RegistrationUpdate(ep="a", server_id="gw", reg_id="reg-2", address="::1", port=5001, last_up=2)
    records = [
        (Registration(kind=RegistrationKind.NEW, body=new), 1, b"127.0.0.1 5000"),
        (Registration(kind=RegistrationKind.UPDATE, body=update), 2, b"::1 5001"),
        (_delete(), 3, b"127.0.0.1 5000"),
    ]
    for record, mid, peer in records:
        headers = [(HEADER_MID, _mid(mid)), (HEADER_PEER, peer)]
        log.write(log.topics.registrations, b"a", serde.encode(record), headers)
    # The expiry of a registration came by no request.
    log.write(log.topics.registrations, b"a", serde.encode(_delete()))
    assert log.recover().requests == {
        ("127.0.0.1", 5000, 1): (RegistrationKind.NEW, "reg-1"),
        ("::1", 5001, 2): (RegistrationKind.UPDATE, "reg-2"),
        ("127.0.0.1", 5000, 3): (RegistrationKind.DELETE, ""),
    }
    assert log.recover().clocks == {"reg-2": 2}


def test_updates_of_the_journal_that_kafka_has_are_found_however_old_they_are(log: Log) -> None:
    def entry(number: int, last_up: int, at: float) -> Entry:
        update = RegistrationUpdate(ep="a", server_id="gw", reg_id="r", address="::1", port=5001, last_up=last_up)
        value = serde.encode(Registration(kind=RegistrationKind.UPDATE, body=update))
        at_ms = log.now_ms - round(at * 1000)
        return Entry(at_ms=at_ms, mid=_mid(number), peer=b"::1 5001", key=b"a", value=value)

    days = 5 * 86_400.0
    there, wrong_clock, missing, also_missing = (entry(n, n, days - n) for n in range(1, 5))
    for one, value in ((there, there.value), (wrong_clock, entry(2, 99, days).value)):
        headers = [(HEADER_MID, one.mid), (HEADER_PEER, one.peer)]
        log.write(log.topics.registrations, b"a", value, headers, age=days)
    for number in range(50):
        log.write(log.topics.registrations, b"a", serde.encode(_delete()), age=EXCHANGE_LIFETIME * 2, at=number % 2)
    assert log.flush() == 0
    journalled = [there, wrong_clock, missing, also_missing]
    found = recover(log.cluster, log.topics, window=64, now_ms=log.now_ms, journalled=journalled)
    assert list(found.missing.values()) == [wrong_clock, missing, also_missing]
    # Their clocks count, but a message id of that time is no copy.
    assert found.clocks == {"r": 99} and found.requests == {}


def test_what_others_write_meanwhile_has_nothing_read_twice(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other processes of a gateway do, at each look."""
    for number in range(100):
        log.write(log.topics.observations, b"a", b"v", [(HEADER_MID, _mid(number)), (HEADER_MORE, b"")], at=number % 2)
    taken: Counter[tuple[int | None, int | None]] = Counter()
    written = 0

    def look_again(cluster: Cluster, names: Sequence[str]) -> dict[tuple[str, int], int]:
        nonlocal written
        ends = end_offsets(cluster, names)
        log.write(log.topics.observations, b"b", b"v", [(HEADER_MID, _mid(written))], at=written % 2)
        assert log.flush() == 0
        written += 1
        return ends

    def take(found: Recovered, message: Message) -> None:
        taken[message.partition(), message.offset()] += 1
        really_take(found, message)

    really_take = recovery._take_observation
    monkeypatch.setattr(recovery, "_take_observation", take)
    monkeypatch.setattr(recovery, "end_offsets", look_again)
    found = log.recover()
    assert set(taken.values()) == {1} and len(taken) == 100 + written - 1
    assert found.begun == {(b"a", _mid(number)): 1 for number in range(100)}
    assert len(found.mids[b"b"]) == 2 * (written - 1)


def test_replies_come_back_by_the_identity_of_their_request(log: Log) -> None:
    log.write(log.topics.replies, b"a", b"first", [(HEADER_REQUEST_ID, b"id-1")], at=0)
    log.write(log.topics.replies, b"a", b"second", [(HEADER_REQUEST_ID, b"id-2"), (HEADER_NOT_SENT, b"")], at=1)
    log.write(log.topics.replies, b"a", b"declared", [])
    assert log.recover().answered == {
        b"id-1": Said(reply=b"first", sent=True),
        b"id-2": Said(reply=b"second", sent=False),
    }


def test_replies_are_read_only_where_requests_may_have_been_answered(log: Log) -> None:
    log.write(log.topics.replies, b"a", b"first", [(HEADER_REQUEST_ID, b"id-1")], at=0)
    log.write(log.topics.requests, None, b"any")
    [facts] = describe_topics(admin(log.cluster), [log.topics.requests]).values()

    def replies(unanswered: bool, positions: Positions) -> int:
        assert log.flush() == 0
        found = recover(
            log.cluster, log.topics, window=64, now_ms=log.now_ms, unanswered=unanswered, positions=positions
        )
        return len(found.answered)

    assert replies(unanswered=False, positions={(facts.id, 0): 1}) == 0
    assert replies(unanswered=True, positions={(facts.id, 0): 1}) == 1
    assert replies(unanswered=False, positions={(facts.id, 0): 0}) == 1
    # What is known of a topic that was deleted says nothing of the one that is there.
    assert replies(unanswered=False, positions={("another", 0): 500}) == 1
