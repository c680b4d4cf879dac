"""The HTTP server as unfriendly clients meet it: silent, slow, huge, many, in other protocols; and over TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connectors import http_server
from connectors.http_messages import MAX_HEAD_BYTES, Answer, Request, text
from connectors.http_server import MAX_CLIENTS, HttpServer, ServerTls, serve_http
from security.errors import Exposed, FolderError, SecretError

OK = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def echo(request: Request) -> Answer:
    return Answer(body=b"%d:%s" % (len(request.body), "/".join(request.path).encode()))


@contextmanager
def server(**options: object) -> Iterator[HttpServer]:
    running = serve_http("127.0.0.1", 0, echo, **options)  # type: ignore[arg-type]  # handed through
    try:
        yield running
    finally:
        running.close()


def connected(at: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", at.port), timeout=20)


def everything(client: socket.socket) -> bytes:
    """What the server says until it ends the connection."""
    data = b""
    while more := client.recv(65536):
        data += more
    return data


def said(at: HttpServer, data: bytes) -> bytes:
    """The answer to raw bytes, whose sender ends its side after them only when the server has."""
    with connected(at) as client:
        client.sendall(data)
        return everything(client)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_one_request_is_answered_and_what_stands_behind_it_is_nobodys() -> None:
    with server() as at:
        answer = said(
            at, b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert answer.endswith(b"\r\n\r\n3:a")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert said(at, OK + OK).count(b"HTTP/1.1 ") == 1
        # A body that GET does not have is left where it is.
        assert said(at, b"GET /b HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\nxyz").endswith(b"0:b")


def test_a_body_is_read_to_its_end_and_no_further_than_the_limit() -> None:
    with server(max_body=10) as at:
        assert said(at, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789").endswith(b"10:")
        refused = said(at, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n0123456789x")
        assert status(refused) == 413
        assert status(said(at, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")) == 411


def test_a_client_that_asks_whether_to_go_on_is_told_so() -> None:
    with server() as at, connected(at) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ab")
        assert everything(client).endswith(b"2:")


def test_who_is_not_let_in_is_told_before_his_body_is_read() -> None:
    with server(admit=lambda _: text(HTTPStatus.UNAUTHORIZED, "no")) as at:
        assert status(said(at, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n")) == 401


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.0\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"A" * (MAX_HEAD_BYTES + 1), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\r\n\r\n", 400),
        (b"\x00" * 100 + b"\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_at_once(data: bytes, code: int) -> None:
    with server() as at:
        assert status(said(at, data)) == code
        assert status(said(at, OK)) == 200


def test_the_answer_arrives_although_the_client_is_still_sending() -> None:
    with server(max_body=10) as at, connected(at) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000)
        assert status(everything(client)) == 413


def test_an_error_tells_the_client_nothing_of_our_inside() -> None:
    def broken(_: Request) -> Answer:
        raise RuntimeError("the password is swordfish")

    running = serve_http("127.0.0.1", 0, broken)
    try:
        answer = said(running, OK)
        assert status(answer) == 500
        assert b"swordfish" not in answer
    finally:
        running.close()


def test_those_who_only_hold_connections_make_room_for_one_who_asks() -> None:
    with server() as at, ExitStack() as clients:
        silent = [clients.enter_context(connected(at)) for _ in range(MAX_CLIENTS)]
        for client in silent[1:]:
            client.sendall(b"GET / HTTP/1.1\r\n")
        # The first who came is hung up on; the others keep their places, and are answered when they go on.
        assert status(said(at, OK)) == 200
        assert everything(silent[0]) == b""
        silent[-1].sendall(b"Host: h\r\n\r\n")
        assert status(everything(silent[-1])) == 200


def test_those_who_do_not_go_after_their_answer_make_room_too() -> None:
    with server() as at, ExitStack() as clients:
        for _ in range(3 * MAX_CLIENTS):
            client = clients.enter_context(connected(at))
            client.sendall(OK)
            # Told, but the connection stays open on this side.
            assert client.recv(12) == b"HTTP/1.1 200"
        assert status(said(at, OK)) == 200


def test_a_request_that_comes_byte_by_byte_has_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CLIENT_TIMEOUT_S", 0.5)
    with server() as at, connected(at) as client:
        ended = threading.Event()

        def drip() -> None:
            # Each byte in good time, and never an end.
            try:
                while not ended.wait(0.05):
                    client.sendall(b"A")
            except OSError:
                pass

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert status(everything(client)) == 408
        finally:
            ended.set()
            dripping.join()


def test_a_body_that_never_comes_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CLIENT_TIMEOUT_S", 0.3)
    with server() as at:
        assert status(said(at, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")) == 408


def test_a_client_that_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CLIENT_TIMEOUT_S", 0.3)
    with server() as at, connected(at) as client:
        assert everything(client) == b""


def test_a_client_that_takes_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CLIENT_TIMEOUT_S", 0.5)
    running = serve_http("127.0.0.1", 0, lambda _: Answer(body=b"x" * 50_000_000))
    try:
        with connected(running) as client:
            client.sendall(OK)
            with connected(running) as other:
                other.sendall(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert b"Content-Length: 50000000" in everything(other)
            # The rest of it never comes: the server gave up.
            with pytest.raises((ConnectionError, AssertionError)):
                assert len(everything(client)) > 50_000_000
    finally:
        running.close()


def test_ipv6_is_served_where_it_is_asked_for() -> None:
    try:
        running = serve_http("::1", 0, echo)
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        with socket.create_connection(("::1", running.port), timeout=20) as client:
            client.sendall(OK)
            assert status(everything(client)) == 200
    finally:
        running.close()


def test_a_port_that_is_taken_is_an_error() -> None:
    with server() as at, pytest.raises(OSError, match="in use"):
        serve_http("127.0.0.1", at.port, echo)


def certificate(folder: Path, name: str, *hosts: str) -> Path:
    """A self-signed certificate for these hosts, as an identity's folder holds one; the path of it."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").touch(0o600)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "cert.pem"


def over_tls(at: HttpServer, ca: Path) -> http.client.HTTPResponse:
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("localhost", at.port, context=context, timeout=20)
    connection.request("GET", "/tls")
    answer = connection.getresponse()
    assert answer.read() == b"0:tls"
    connection.close()
    return answer


def test_tls_serves_the_certificate_and_a_renewed_one_without_a_restart(tmp_path: Path) -> None:
    first = certificate(tmp_path / "a", "first", "localhost")
    with server(tls=ServerTls(tmp_path / "a")) as at:
        assert over_tls(at, first).status == 200
        old = tmp_path / "old.pem"
        old.write_bytes(first.read_bytes())
        # Half of a renewal: the certificate without its key.
        certificate(tmp_path / "b", "second", "localhost")
        first.write_bytes((tmp_path / "b" / "cert.pem").read_bytes())
        assert over_tls(at, old).status == 200
        (tmp_path / "a" / "key.pem").write_bytes((tmp_path / "b" / "key.pem").read_bytes())
        assert over_tls(at, tmp_path / "b" / "cert.pem").status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            over_tls(at, old)


def test_who_does_not_shake_hands_holds_up_nobody_who_does(tmp_path: Path) -> None:
    ca = certificate(tmp_path, "x", "localhost")
    with server(tls=ServerTls(tmp_path)) as at, ExitStack() as clients:
        for number in range(2 * MAX_CLIENTS):
            client = clients.enter_context(connected(at))
            if number % 2:
                client.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert over_tls(at, ca).status == 200
        # Without TLS there is no answer, and no hanging either.
        with suppress(ConnectionError):
            assert b"HTTP" not in said(at, OK)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    certificate(tmp_path, "x", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with server(tls=ServerTls(tmp_path)) as at, connected(at) as client, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(client)


def test_a_folder_without_a_certificate_and_its_key_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match=r"key\.pem: No such file"):
        ServerTls(tmp_path)
    certificate(tmp_path / "a", "a", "localhost")
    certificate(tmp_path / "b", "b", "localhost")
    (tmp_path / "a" / "key.pem").write_bytes((tmp_path / "b" / "key.pem").read_bytes())
    with pytest.raises(OSError, match="no certificate and key of a server"):
        ServerTls(tmp_path / "a")
    certificate(tmp_path / "c", "c")
    with pytest.raises(FolderError, match="names no host"):
        ServerTls(tmp_path / "c")
    (tmp_path / "b" / "key.pem").chmod(0o644)
    with pytest.raises(Exposed, match="can be read by everybody"):
        ServerTls(tmp_path / "b")
