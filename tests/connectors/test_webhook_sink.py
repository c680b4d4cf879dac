"""What the webhook sink alone promises: its signature, what an answer means, and what it keeps to itself."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from connectors.runner import SinkSettings
from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.options import parse_options
from connectors.sinks.webhook import WebhookOptions, WebhookSink, open_webhook
from connectors.sinks.webhook_events import sign
from schemas.avro.records import GenericBody, ResponseCode
from schemas.lwm2m.nodes import Instance, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.sink_harness import dead_letters, eventually, make_topics, produce, running
from tests.sink_samples import at, delete, new, notification, reply, resource
from tests.webhook_receiver import SECRET, Asked, Inbox, Receiver, Said, receiver

CERTIFICATE = Path(__file__).parents[1] / "data" / "tls" / "localhost.pem"


class Hook:
    """A new inbox and the sinks that post to it."""

    def __init__(self) -> None:
        self.path, self.inbox = receiver().inbox()
        self.url = f"http://127.0.0.1:{receiver().port}{self.path}"

    def open(self, *, secret: str = SECRET, **options: object) -> WebhookSink:
        return open_webhook({"url": self.url, "secret": secret, **options})

    @property
    def values(self) -> list[object]:
        return [value["value"] for event in self.inbox.events.values() for value in event["values"]]


@pytest.fixture
def hook() -> Hook:
    return Hook()


def some(first: int, last: int) -> list[SinkRecord]:
    return [at(n, notification(resource("/3303/0/5700", float(n)))) for n in range(first, last)]


def refuses(unwanted: Callable[[float], bool], status: int) -> Callable[[Asked], Said | None]:
    def answer(asked: Asked) -> Said | None:
        guilty = any(unwanted(value["value"]) for event in asked.events for value in event["values"])
        return Said(status=status, body=b"bad  value\n!") if guilty else None

    return answer


def slowly(seconds: float, answer: Callable[[Asked], Said | None]) -> Callable[[Asked], Said | None]:
    def late(asked: Asked) -> Said | None:
        threading.Event().wait(seconds)
        return answer(asked)

    return late


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does with each connection whatever ``serve`` does; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


# ---- what is sent


def test_the_signature_is_what_openssl_makes_of_it() -> None:
    # printf '1700000000.[{"id":"é"}]' | openssl dgst -sha256 -hmac 'correct horse'
    assert sign(b"correct horse", 1_700_000_000, '[{"id":"é"}]'.encode()) == (
        "t=1700000000,v1=e29cc398f12d04de1f4e94587f16e5867c3ccf7bb9fdf9e38287e1b601bb4e3f"
    )


def test_an_event_of_history_tells_where_it_comes_from_and_what_it_holds(hook: Hook) -> None:
    sink = hook.open(send="single")
    sink.write([at(7, notification(resource("/3303/0/5700", 21.5, timestamp=5)), headers={"late": b"1"})])
    (asked,) = hook.inbox.requests
    assert json.loads(asked.body) == {
        "id": "iot.gw1.observations/0/7/1000",
        "kind": "history",
        "gateway": "gw1",
        "time": 1000,
        "topic": "iot.gw1.observations",
        "partition": 0,
        "offset": 7,
        "server": "gw1",
        "ep": "ep-1",
        "path": "/3303/0/5700",
        "operation": "observe",
        "code": "CONTENT",
        "ticket": "ticket#1",
        "observationId": "obs-1",
        "late": True,
        "values": [{"path": "/3303/0/5700", "type": "FLOAT", "value": 21.5, "deviceTime": 5}],
    }
    assert asked.headers["Idempotency-Key"] == "iot.gw1.observations/0/7/1000"
    assert asked.headers["Content-Type"] == "application/json"


def test_an_event_of_a_registration_tells_what_it_carries(hook: Hook) -> None:
    sink = hook.open()
    sink.write([at(0, new()), at(1, delete(expired=True))])
    born, gone = hook.inbox.events.values()
    assert (born["kind"], born["event"], born["ep"], born["id"]) == (
        "registrations",
        "NEW",
        "ep-1",
        "iot.gw1.registrations/0/0/1000000",
    )
    assert born["endpoint"]["attributes"] == {"model": "Thermo é"}
    assert born["endpoint"]["links"][3] == {"url": "/3303", "at": {"ver": "1.1"}}
    assert gone["endpoint"] == {"expired": True, "online": False, "regLastUpdate": 300}


def test_requests_hold_no_more_than_they_may(hook: Hook) -> None:
    sink = hook.open(max_events=4)
    sink.write(some(0, 10))
    assert [len(asked.events) for asked in hook.inbox.requests] == [4, 4, 2]
    hook.inbox.requests.clear()
    (size,) = {len(json.dumps(event, separators=(",", ":"))) for event in hook.inbox.events.values()}
    hook.open(max_bytes=3 * size + 10).write(some(0, 5))
    assert [len(asked.events) for asked in hook.inbox.requests] == [3, 2]
    hook.inbox.requests.clear()
    hook.open(max_bytes=1).write(some(0, 2))
    assert [len(asked.events) for asked in hook.inbox.requests] == [1, 1]


def test_only_what_was_chosen_is_sent(hook: Hook) -> None:
    device = Instance(
        path=Lwm2mPath(3303, 4),
        resources=(resource("/3303/4/5700", 1.0), resource("/3303/4/5701", "Cel", ResourceType.STRING)),
    )
    sink = hook.open(kinds=["history"], paths=["/3303/*/5700", "/3/0"])
    sink.write(
        [
            at(0, notification(device)),
            at(1, notification(resource("/3304/0/5700", 2.0))),
            at(2, notification(resource("/3/0/6/1", 3.0))),
            at(3, reply(GenericBody(message="none"), path="/3/1", code=ResponseCode.NOT_FOUND)),
            at(4, reply(GenericBody(message="composite"), path="", code=ResponseCode.NOT_FOUND)),
            at(0, new()),
        ]
    )
    assert hook.values == [1.0, 3.0]
    hook.inbox.requests.clear()
    sink.write([at(1, notification(resource("/3304/0/5700", 2.0)))])
    assert not hook.inbox.requests


def test_registrations_alone_can_be_chosen(hook: Hook) -> None:
    hook.open(kinds=["registrations"], paths=["/3303"]).write([*some(0, 3), at(0, new())])
    assert [event["kind"] for event in hook.inbox.events.values()] == ["registrations"]


# ---- what an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_taken(hook: Hook, status: int) -> None:
    hook.inbox.answer = lambda _asked: Said(status=status, keep=True)
    sink = hook.open()
    sink.write(some(0, 3))
    sink.write(some(3, 6))
    assert len(hook.inbox.events) == 6


@pytest.mark.parametrize("send", ["batch", "single"])
@pytest.mark.parametrize("status", [400, 403, 409, 422])
def test_only_the_guilty_of_a_batch_are_refused(hook: Hook, send: str, status: int) -> None:
    hook.inbox.answer = refuses(lambda value: value in (13.0, 14.0, 70.0), status)
    sink = hook.open(send=send)
    for _ in range(2):
        with pytest.raises(RejectedRecords) as refused:
            sink.write(some(0, 100))
        assert [(record.offset, reason) for record, reason in refused.value.rejected] == [
            (offset, f"the receiver answers {status} bad value !") for offset in (13, 14, 70)
        ]
        assert hook.values == [float(n) for n in range(100) if n not in (13, 14, 70)]
    if send == "batch":
        assert len(hook.inbox.requests) < 2 * 50


def test_a_batch_that_is_too_large_is_sent_in_pieces(hook: Hook) -> None:
    hook.inbox.answer = lambda asked: Said(status=413) if len(asked.events) > 3 else None
    hook.open().write(some(0, 20))
    assert hook.values == [float(n) for n in range(20)]


@pytest.mark.parametrize("status", [404, 405, 407, 408, 410, 425, 429, 500, 502, 503, 504, 599])
def test_what_is_not_about_the_records_asks_for_patience(hook: Hook, status: int) -> None:
    hook.inbox.answer = lambda _asked: Said(status=status, body=b"not now")
    sink = hook.open()
    for _ in range(2):
        with pytest.raises(RetryLater, match=f"{status} not now") as told:
            sink.write(some(0, 3))
        assert told.value.after_s is None
    hook.inbox.answer = lambda _asked: None
    sink.write(some(0, 3))
    assert hook.values == [0.0, 1.0, 2.0]


def test_a_wrong_secret_buries_nothing(hook: Hook) -> None:
    sink = hook.open(secret="wrong one")
    with pytest.raises(RetryLater, match="check the secret") as told:
        sink.write(some(0, 3))
    assert "wrong one" not in str(told.value)
    assert not hook.inbox.events


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0.0),
        ("999999999", 3600.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_honoured(hook: Hook, header: str, seconds: float | None) -> None:
    clock = [NOW]
    options = {"url": hook.url, "secret": SECRET}
    sink = WebhookSink(parse_options("webhook", WebhookOptions, options), clock=lambda: clock[0])
    server_said = Said(status=503, headers={"Retry-After": header})
    # The receiver finds the signature too old by its own clock, which is no part of this.
    hook.inbox.take = lambda asked: hook.inbox.requests.append(asked) or server_said  # type: ignore[method-assign, func-returns-value]  # only here
    with pytest.raises(RetryLater) as told:
        sink.write(some(0, 1))
    assert told.value.after_s == seconds
    if seconds:
        clock[0] += seconds - 1
        with pytest.raises(RetryLater) as told:
            sink.write(some(0, 1))
        assert told.value.after_s == 1.0
        assert len(hook.inbox.requests) == 1
        clock[0] += 1
    with pytest.raises(RetryLater):
        sink.write(some(0, 1))
    assert len(hook.inbox.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: Hook, status: int) -> None:
    other = Hook()
    hook.inbox.answer = lambda _asked: Said(status=status, headers={"Location": other.url + "&key=hidden"})
    with pytest.raises(RetryLater, match=r"redirects to http://127\.0\.0\.1:\d+, which is not followed") as told:
        hook.open().write(some(0, 1))
    assert "hidden" not in str(told.value)
    assert not other.inbox.requests


def test_what_was_taken_before_it_was_cut_short_is_not_sent_again(hook: Hook) -> None:
    def answer(asked: Asked) -> Said | None:
        if len(hook.inbox.requests) == 3:
            return Said(status=503)
        return refuses(lambda value: value == 1.0, 422)(asked)

    hook.inbox.answer = answer
    sink = hook.open(max_events=1)
    with pytest.raises(RetryLater):
        sink.write(some(0, 4))
    with pytest.raises(RejectedRecords) as refused:
        sink.write(some(0, 4))
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert [event["offset"] for asked in hook.inbox.requests for event in asked.events] == [0, 1, 2, 2, 3]
    assert hook.values == [0.0, 2.0, 3.0]


def test_a_slow_receiver_does_not_hold_the_sink(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.sinks.webhook.PATIENCE_S", 0.05)
    hook.inbox.answer = slowly(0.02, lambda _asked: None)
    sink = hook.open(send="single")
    batch, waits = some(0, 20), 0
    while True:
        try:
            sink.write(batch)
            break
        except RetryLater as exc:
            assert "slow" in exc.reason
            waits += 1
    assert waits
    assert [event["offset"] for asked in hook.inbox.requests for event in asked.events] == list(range(20))


def test_the_guilty_are_found_also_where_the_receiver_is_slow(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.sinks.webhook.PATIENCE_S", 0.0)
    hook.inbox.answer = slowly(0.001, refuses(lambda value: value == 5.0, 422))
    sink = hook.open()
    for _ in range(100):
        try:
            sink.write(some(0, 64))
        except RetryLater:
            continue
        except RejectedRecords as exc:
            assert [record.offset for record, _ in exc.rejected] == [5]
            break
    else:
        pytest.fail("it never came to an end")
    assert hook.values == [float(n) for n in range(64) if n != 5]


def test_an_answer_that_was_lost_is_no_second_event(hook: Hook) -> None:
    hook.inbox.answer = lambda _asked: Said(status=0, keep=True, hang_up=True)
    sink = hook.open()
    with pytest.raises(RetryLater):
        sink.write(some(0, 3))
    hook.inbox.answer = lambda _asked: None
    sink.write(some(0, 3))
    assert hook.values == [0.0, 1.0, 2.0]
    keys = {asked.headers["Idempotency-Key"] for asked in hook.inbox.requests}
    assert len(keys) == 1


def test_what_utf8_cannot_hold_is_refused_alone(hook: Hook) -> None:
    with pytest.raises(RejectedRecords) as refused:
        hook.open().write([*some(0, 1), at(1, notification(resource("/3303/0/5700", 1.0), ep="\ud800")), *some(2, 3)])
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert hook.values == [0.0, 2.0]


# ---- the connection


def test_a_connection_that_the_server_ended_meanwhile_is_no_failure(hook: Hook) -> None:
    hook.inbox.answer = lambda _asked: Said(status=200, keep=True, end_after=True)
    sink = hook.open()
    for n in range(5):
        sink.write(some(n, n + 1))
    assert len(hook.inbox.events) == 5


def test_nobody_there_asks_for_patience_until_somebody_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RetryLater, match=rf"webhook at http://127\.0\.0\.1:{port}: Connection refused"):
        open_webhook({"url": f"http://127.0.0.1:{port}/x", "secret": "s"}).write(some(0, 1))


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def dripping(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x")
        threading.Event().wait(0.02)


@pytest.mark.parametrize("serve", [silent, dripping])
def test_a_server_that_does_not_come_to_an_end_is_given_up(serve: Callable[[socket.socket], None]) -> None:
    with raw_server(serve) as port:
        sink = open_webhook({"url": f"http://127.0.0.1:{port}", "secret": "s", "timeout_s": 0.3})
        for _ in range(2):
            with pytest.raises(RetryLater, match="no answer"):
                sink.write(some(0, 1))


@pytest.mark.parametrize("said", [b"220 mail ready\r\n", b"", b"HTTP/1.1 abc\r\n\r\n", b"\xff" * 100_000])
def test_what_is_no_http_asks_for_patience(said: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with raw_server(serve) as port, pytest.raises(RetryLater):
        open_webhook({"url": f"http://127.0.0.1:{port}", "secret": "s"}).write(some(0, 1))


def test_of_an_endless_answer_only_the_beginning_is_read(hook: Hook) -> None:
    hook.inbox.answer = lambda _asked: Said(status=200, keep=True, body=b"x" * 10_000_000)
    sink = hook.open()
    sink.write(some(0, 1))
    hook.inbox.answer = lambda _asked: None
    sink.write(some(1, 2))
    assert len(hook.inbox.events) == 2


@pytest.fixture
def tls_receiver() -> Iterator[tuple[Receiver, str, Inbox]]:
    """A receiver with the certificate of ``localhost``, a path on it, and its inbox."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server = Receiver(context)
    path, inbox = server.inbox()
    yield server, path, inbox
    server.close()


def test_a_certificate_and_its_name_are_verified(tls_receiver: tuple[Receiver, str, Inbox]) -> None:
    server, path, inbox = tls_receiver
    known = {"secret": SECRET, "ca_file": str(CERTIFICATE)}
    with pytest.raises(RetryLater, match=r"(?i)self.signed certificate"):
        open_webhook({"url": f"https://localhost:{server.port}{path}", "secret": SECRET}).write(some(0, 1))
    with pytest.raises(RetryLater, match="IP address mismatch"):
        open_webhook({"url": f"https://127.0.0.1:{server.port}{path}", **known}).write(some(0, 1))
    assert not inbox.requests
    sink = open_webhook({"url": f"https://localhost:{server.port}{path}", **known})
    sink.write(some(0, 1))
    sink.write(some(1, 2))
    assert len(inbox.events) == 2


# ---- its options


def test_the_secret_may_be_in_a_file(hook: Hook, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n", "utf-8")
    open_webhook({"url": hook.url, "secret_file": str(file)}).write(some(0, 1))
    assert len(hook.inbox.events) == 1


def test_neither_the_secret_nor_the_address_is_told(hook: Hook, tmp_path: Path) -> None:
    hook.inbox.answer = lambda _asked: Said(status=500)
    sink = hook.open()
    with pytest.raises(RetryLater) as told:
        sink.write(some(0, 1))
    said = f"{told.value}{sink._options!r}"
    assert SECRET not in said
    assert hook.path not in said
    with pytest.raises(SinkConfigError) as wrong:
        open_webhook({"url": "ftp://x/hidden-path", "secret": "hidden-secret", "secret_file": str(tmp_path)})
    assert "hidden" not in str(wrong.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "https://example.org"},
        {"url": "https://example.org", "secret": "s", "secret_file": "f"},
        {"url": "https://example.org", "secret": ""},
        {"url": "https://example.org", "secret_file": "/nowhere/at/all"},
        {"url": "https://example.org", "secret": "s", "ca_file": "/nowhere/at/all"},
        {"url": "https://example.org", "secret": "s", "kinds": []},
        {"url": "https://example.org", "secret": "s", "kinds": ["gossip"]},
        {"url": "https://example.org", "secret": "s", "paths": ["/a/b"]},
        {"url": "https://example.org", "secret": "s", "max_events": 0},
        {"url": "https://example.org", "secret": "s", "timeout_s": 0},
        *({"url": url, "secret": "s"} for url in ("", "example.org", "ftp://example.org", "https://", "http://h:port")),
        *({"url": f"https://{url}", "secret": "s"} for url in ("me:pw@h/", "h/#here", "h/a b", "h/é", "h/\r\nX: y")),
    ],
)
def test_wrong_options_are_told(options: Mapping[str, object]) -> None:
    with pytest.raises(SinkConfigError):
        open_webhook(options)


@pytest.mark.kafka
def test_what_the_receiver_refuses_is_a_dead_letter_and_what_it_waits_with_comes_later(
    kafka: Cluster, gateway_id: str, hook: Hook
) -> None:
    topics = make_topics(kafka, gateway_id)
    produce(kafka, topics.observations, [record.record for record in some(0, 50)])
    settings = SinkSettings(
        sink="webhook",
        gateway=gateway_id,
        kafka=kafka,
        options={"url": hook.url, "secret": SECRET, "kinds": ["history"]},
        batch_records=20,
    )
    hook.inbox.answer = lambda _asked: Said(status=503, headers={"Retry-After": "1"}, body=b"in a moment")
    with running(settings) as runner:
        eventually(lambda: "in a moment" in (runner.waiting_for() or ""), True)
        hook.inbox.answer = refuses(lambda value: value == 7.0, 422)
        eventually(lambda: sorted(map(str, hook.values)), sorted(str(float(n)) for n in range(50) if n != 7))
        eventually(lambda: [letter.record.offset for letter in dead_letters(kafka, gateway_id)], [7])
    (letter,) = dead_letters(kafka, gateway_id)
    assert (letter.stage, letter.error) == ("sink:webhook", "the receiver answers 422 bad value !")
