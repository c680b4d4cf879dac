"""Request and reply by ticket, on a real Kafka; the gateway's side is played by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from cloud.feed import Feed, Start
from cloud.requests import NoReply, answers, ask, new_ticket
from connectors.kafka import Cluster, TopicMissing, Unreachable, ensure_topics, producer
from schemas.avro.records import (
    GenericBody,
    Key,
    Request,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from tests.sink_harness import eventually

pytestmark = pytest.mark.kafka


def request(ticket: str, kind: RequestKind = RequestKind.READ, path: str = "/3/0/0") -> Request:
    return Request(server_id="gw", ep="dev", ticket=ticket, payload=RequestPayload(kind=kind, path=path))


def reply_to(asked: Request, words: str = "") -> Response:
    return Response(
        ticket=asked.ticket,
        server_id=asked.server_id,
        ep=asked.ep,
        path=asked.payload.path,
        timestamp=1,
        rep=ResponsePayload(code=ResponseCode.CHANGED, kind=asked.payload.kind, body=GenericBody(message=words)),
    )


class Answering:
    """Plays the gateway: produces what ``answer`` makes of each request, until it is closed."""

    def __init__(self, cluster: Cluster, gateway: str, answer: Callable[[Request], list[Response]]) -> None:
        self._topics = Topics(gateway)
        self._feed = Feed(cluster, [self._topics.requests], start=Start.END)
        self._producer = producer(cluster)
        self._answer = answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for item in self._feed.poll():
                assert isinstance(item.record, Request)
                for response in self._answer(item.record):
                    self._producer.produce(
                        self._topics.replies, key=encode(Key(ep=response.ep)), value=encode(response)
                    )
                self._producer.flush(5)

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._feed.close()


@pytest.fixture
def gateway(kafka: Cluster, gateway_id: str) -> str:
    ensure_topics(kafka, Topics(gateway_id).partitions())
    return gateway_id


def test_reply_with_the_ticket_is_the_answer(kafka: Cluster, gateway: str) -> None:
    with Answering(kafka, gateway, lambda asked: [reply_to(asked, "done")]):
        exchange = ask(kafka, gateway, request("t1"), timeout=15)
    assert exchange.response.rep.body == GenericBody(message="done")
    assert exchange.response.ticket == "t1"


def test_other_replies_are_not_taken_for_the_answer(kafka: Cluster, gateway: str) -> None:
    def noisy(asked: Request) -> list[Response]:
        right = reply_to(asked, "right")
        return [
            replace(right, ticket="another"),
            replace(right, ep="another"),
            replace(right, path="/3/0/1"),
            replace(right, rep=replace(right.rep, kind=RequestKind.OBSERVE)),
            right,
        ]

    with Answering(kafka, gateway, noisy):
        exchange = ask(kafka, gateway, request("ticket#1"), timeout=15)
    assert exchange.response.rep.kind is RequestKind.READ
    assert exchange.response.path == "/3/0/0"
    assert exchange.response.ep == "dev"


def test_same_ticket_serves_observe_and_then_cancel(kafka: Cluster, gateway: str) -> None:
    with Answering(kafka, gateway, lambda asked: [reply_to(asked, asked.payload.kind.value)]):
        for kind in (RequestKind.OBSERVE, RequestKind.OBSERVE_CANCEL):
            exchange = ask(kafka, gateway, request("ticket#1", kind, "/3303/0/5700"), timeout=15)
            assert exchange.response.rep.body == GenericBody(message=kind.value)


def test_earlier_reply_with_the_ticket_is_not_taken(kafka: Cluster, gateway: str) -> None:
    with Answering(kafka, gateway, lambda asked: [reply_to(asked, "first")]):
        ask(kafka, gateway, request("again"), timeout=15)
    with pytest.raises(NoReply, match="again"):
        ask(kafka, gateway, request("again"), timeout=5)


def test_no_reply_says_what_to_look_at_and_leaves_the_request(kafka: Cluster, gateway: str) -> None:
    with pytest.raises(NoReply, match=r"within 5 s .*t9[\s\S]*is the gateway running"):
        ask(kafka, gateway, request("t9"), timeout=5)
    with Feed(kafka, [Topics(gateway).requests]) as feed:
        found = []
        while not feed.caught_up:
            found += [item.record for item in feed.poll()]
    assert found == [request("t9")]


def test_reply_for_another_path_with_the_ticket_is_mentioned(kafka: Cluster, gateway: str) -> None:
    def mentioned() -> bool:
        with pytest.raises(NoReply) as told:
            ask(kafka, gateway, request("t9"), timeout=2)
        return "used before" in str(told.value)

    with Answering(kafka, gateway, lambda asked: [replace(reply_to(asked), path="/5")]):
        # On a busy machine it may not be there in two seconds.
        eventually(mentioned, True)


def test_missing_topics_are_named_with_what_makes_them(kafka: Cluster, gateway_id: str) -> None:
    with pytest.raises(TopicMissing, match=f"iot.{gateway_id}.management.req .*topics create --gateway {gateway_id}"):
        ask(kafka, gateway_id, request("t"), timeout=5)


def test_no_kafka_is_said_within_the_timeout(gateway_id: str) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 "):
        ask(Cluster(bootstrap="127.0.0.1:1"), gateway_id, request("t"), timeout=1)


def test_paths_are_compared_by_their_meaning() -> None:
    asked = request("t", path="3/0")
    assert answers(replace(reply_to(asked), path="/3/0"), asked)
    assert not answers(replace(reply_to(asked), path="/3/1"), asked)


def test_tickets_are_unique() -> None:
    assert len({new_ticket() for _ in range(1000)}) == 1000
