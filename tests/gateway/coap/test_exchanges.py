"""The state of the message layer (RFC 7252 section 4); the time is handed in, so nothing here waits."""

from __future__ import annotations

from gateway.coap.exchanges import (
    EXCHANGE_LIFETIME,
    MAX_TRANSMIT_WAIT,
    AcknowledgedResponses,
    Exchange,
    ExchangeError,
    Exchanges,
    RequestLog,
)
from gateway.coap.message import Message

PEER = ("127.0.0.1", 40000)
OTHER = ("127.0.0.1", 40001)


def _exchange(mid: int = 1, token: bytes = b"t", give_up: float = MAX_TRANSMIT_WAIT) -> Exchange:
    def finish(result: Message | ExchangeError) -> None:
        raise AssertionError(f"the table of exchanges finishes nothing itself: {result!r}")

    return Exchange(PEER, mid, token, b"datagram", finish, give_up)


def _run(exchanges: Exchanges) -> tuple[list[float], list[float]]:
    """The times of retransmissions and of failures."""
    sent: list[float] = []
    failed: list[float] = []
    while (deadline := exchanges.next_deadline()) is not None:
        again, gone = exchanges.due(deadline)
        sent += [deadline] * len(again)
        failed += [deadline] * len(gone)
    return sent, failed


def test_four_retransmissions_double_their_interval_and_then_it_fails() -> None:
    exchanges = Exchanges()
    exchanges.begin(_exchange(), 0.0, 0.0)
    assert _run(exchanges) == ([2.0, 6.0, 14.0, 30.0], [62.0])
    assert len(exchanges) == 0


def test_jitter_stretches_the_schedule_within_the_longest_wait() -> None:
    exchanges = Exchanges()
    exchanges.begin(_exchange(give_up=1000.0), 0.0, 1.0)
    sent, failed = _run(exchanges)
    assert sent == [3.0, 9.0, 21.0, 45.0]
    assert failed == [MAX_TRANSMIT_WAIT]


def test_what_a_peer_has_not_acknowledged_is_overdue_after_the_first_wait_once_in_that_time() -> None:
    exchanges = Exchanges()
    exchange = _exchange(exchanges.next_mid(PEER, 0))
    assert exchanges.overdue(PEER, 0.0) is None
    exchanges.begin(exchange, 0.0, 0.0)
    assert exchanges.overdue(PEER, 1.9) is None
    assert exchanges.due(2.0) == ([exchange], [])
    assert exchanges.overdue(PEER, 3.9) is None
    assert exchanges.overdue(OTHER, 4.0) is None
    assert [exchanges.overdue(PEER, now) is exchange for now in (4.0, 5.9, 6.0)] == [True, False, True]
    # Its own times are as they were.
    assert exchanges.next_deadline() == 6.0
    assert exchanges.due(6.0) == ([exchange], [])
    exchanges.acknowledged(PEER, exchange.mid)
    assert exchanges.overdue(PEER, 60.0) is None
    exchanges.close(exchange)
    assert exchanges.overdue(PEER, 60.0) is None


def test_acknowledgement_ends_retransmission_but_not_the_wait() -> None:
    exchanges = Exchanges()
    exchange = _exchange(give_up=50.0)
    exchanges.begin(exchange, 0.0, 0.0)
    assert exchanges.due(2.0) == ([exchange], [])
    assert exchanges.acknowledged(PEER, 1) is exchange
    assert _run(exchanges) == ([], [50.0])


def test_wait_that_is_shorter_than_the_schedule_ends_it() -> None:
    exchanges = Exchanges()
    exchanges.begin(_exchange(give_up=5.0), 0.0, 0.0)
    assert _run(exchanges) == ([2.0], [5.0])


def test_acknowledgement_of_another_mid_or_peer_changes_nothing() -> None:
    exchanges = Exchanges()
    exchange = _exchange()
    exchanges.begin(exchange, 0.0, 0.0)
    assert exchanges.acknowledged(PEER, 2) is None
    assert exchanges.acknowledged(OTHER, 1) is None
    assert exchanges.due(2.0) == ([exchange], [])


def test_response_ends_the_exchange_of_its_token_and_peer_alone() -> None:
    exchanges = Exchanges()
    one, two = _exchange(1, b"1"), _exchange(2, b"2")
    exchanges.begin(one, 0.0, 0.0)
    exchanges.begin(two, 0.0, 0.0)
    assert exchanges.answered(OTHER, b"1") is None
    assert exchanges.answered(PEER, b"3") is None
    assert exchanges.answered(PEER, b"1") is one
    assert exchanges.answered(PEER, b"1") is None
    assert exchanges.due(2.0) == ([two], [])


def test_piggybacked_response_must_have_the_mid_of_the_request() -> None:
    exchanges = Exchanges()
    exchange = _exchange(mid=7)
    exchanges.begin(exchange, 0.0, 0.0)
    assert exchanges.answered(PEER, b"t", acknowledged=6) is None
    assert len(exchanges) == 1
    assert exchanges.answered(PEER, b"t", acknowledged=7) is exchange


def test_second_exchange_with_the_same_token_outlives_the_first() -> None:
    exchanges = Exchanges()
    first, second = _exchange(1), _exchange(2)
    exchanges.begin(first, 0.0, 0.0)
    exchanges.begin(second, 0.0, 0.0)
    exchanges.close(first)
    exchanges.close(first)
    assert exchanges.answered(PEER, b"t") is second


def test_closed_exchange_is_not_sent_again() -> None:
    exchanges = Exchanges()
    exchange = _exchange()
    exchanges.begin(exchange, 0.0, 0.0)
    exchanges.close(exchange)
    assert exchanges.next_deadline() is None
    assert exchanges.due(1000.0) == ([], [])


def test_all_open_exchanges_are_given_back_when_it_ends() -> None:
    exchanges = Exchanges()
    both = [_exchange(1, b"1"), _exchange(2, b"2")]
    for exchange in both:
        exchanges.begin(exchange, 0.0, 0.0)
    assert exchanges.close_all() == both
    assert exchanges.next_deadline() is None


def test_mids_to_one_peer_come_again_only_after_all_others() -> None:
    exchanges = Exchanges()
    mids = [exchanges.next_mid(PEER, 777) for _ in range(65536)]
    assert len(set(mids)) == 65536
    assert exchanges.next_mid(PEER, 1) == mids[0]


def test_mids_of_peers_are_independent() -> None:
    exchanges = Exchanges()
    assert [exchanges.next_mid(PEER, 5), exchanges.next_mid(OTHER, 900), exchanges.next_mid(PEER, 0)] == [6, 901, 7]


def test_memory_of_mids_is_bounded_and_forgets_the_longest_silent_peer() -> None:
    exchanges = Exchanges()
    exchanges.next_mid(PEER, 0)
    exchanges.next_mid(OTHER, 0)
    exchanges.next_mid(PEER, 0)
    for port in range(65535):
        exchanges.next_mid(("10.0.0.1", port), 0)
    assert len(exchanges._mids) == 65536
    assert exchanges.next_mid(PEER, 100) == 3
    assert exchanges.next_mid(OTHER, 100) == 101


def test_duplicate_request_gets_the_answer_once_there_is_one() -> None:
    log = RequestLog()
    assert log.seen(PEER, 1, 0.0) == (False, None)
    assert log.seen(PEER, 1, 1.0) == (True, None)
    log.answer(PEER, 1, b"answer")
    assert log.seen(PEER, 1, 2.0) == (True, b"answer")
    assert log.seen(OTHER, 1, 2.0) == (False, None)
    assert log.seen(PEER, 2, 2.0) == (False, None)


def test_mid_is_new_after_the_lifetime_of_an_exchange() -> None:
    log = RequestLog()
    log.seen(PEER, 1, 0.0)
    log.answer(PEER, 1, b"old")
    assert log.seen(PEER, 1, EXCHANGE_LIFETIME - 0.1) == (True, b"old")
    assert log.seen(PEER, 1, EXCHANGE_LIFETIME) == (False, None)
    assert log.seen(PEER, 1, EXCHANGE_LIFETIME + 0.1) == (True, None)


def test_forgotten_request_is_new() -> None:
    log = RequestLog()
    log.seen(PEER, 1, 0.0)
    log.answer(PEER, 1, b"busy")
    log.forget(PEER, 1)
    log.forget(OTHER, 1)
    assert log.seen(PEER, 1, 1.0) == (False, None)


def test_answer_is_kept_by_the_note_of_its_request_as_long_as_that_is_in_the_log() -> None:
    log = RequestLog(per_peer=2, most_bytes=100)
    first, second = log.note(PEER, 1, 0.0), log.note(PEER, 2, 0.0)
    assert first is not None and second is not None and log.note(PEER, 1, 1.0) is None
    log.keep(first, b"one")
    assert log.seen(PEER, 1, 1.0) == (True, b"one") and log.seen(PEER, 2, 1.0) == (True, None)
    log.seen(PEER, 3, 1.0)
    log.keep(first, b"one")  # the third is in its place
    log.keep(second, b"two")
    assert log._bytes == 3
    log.forget(PEER, 2)
    log.keep(second, b"two")
    assert log._bytes == 0 and log.seen(PEER, 2, 1.0) == (False, None)
    large = log.note(OTHER, 1, 1.0)
    assert large is not None
    log.keep(large, b"x" * 101)
    assert log._bytes == 0 and log.seen(OTHER, 1, 1.0) == (False, None)


def test_memory_of_requests_is_bounded_by_peer_and_in_peers() -> None:
    log = RequestLog(peers=3, per_peer=2)
    for mid in range(10):
        log.seen(PEER, mid, 0.0)
    assert log.seen(PEER, 9, 0.0)[0] and log.seen(PEER, 8, 0.0)[0]
    assert not log.seen(PEER, 7, 0.0)[0]
    for port in range(100):
        log.seen(("10.0.0.1", port), 1, 0.0)
        log.seen(PEER, 50, 0.0)  # who goes on speaking is not forgotten
    assert len(log._peers) == 3
    assert log.seen(PEER, 50, 0.0)[0]


def test_acknowledged_responses_are_known_for_the_lifetime_of_an_exchange_and_bounded() -> None:
    known = AcknowledgedResponses(most=2)
    for mid in (1, 2, 3):
        known.add(PEER, mid, 10.0 * mid)
    assert [known.has(PEER, mid, 31.0) for mid in (1, 2, 3)] == [False, True, True]
    assert [known.has(PEER, mid, 21.0 + EXCHANGE_LIFETIME) for mid in (2, 3)] == [False, True]
