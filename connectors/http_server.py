"""The one HTTP server of all our processes: small, threaded, bounded, and one request a connection.

Owns sockets, threads, time limits and TLS. It never decides what an answer is: it asks the two callables that it was
given, first whether the request is let in (before its body is read), then for the answer. What a request may look like
is in `http_messages`.

Bounds: a client has `CLIENT_TIMEOUT_S` for its whole request, the TLS handshake included, however slowly its bytes
come, and as long again to take the answer; a request's head and body have a size; and so has the number of connections.
When all are taken, the one that has been idle for longest makes room for the new one, so that those who only hold
connections cannot lock out whoever watches the process.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import structlog

from connectors.http_messages import MAX_HEAD_BYTES, Answer, Refused, Request, parse_head, render, text
from security.errors import FolderError
from security.secrets import read_key

__all__ = ["Admit", "HttpServer", "Respond", "ServerTls", "serve_http"]

#: None: let in; else the answer that refuses it. It sees the request without its body.
Admit = Callable[[Request], Answer | None]
#: The answer to a request. What it raises, other than `Refused`, becomes a 500 that tells the client nothing.
Respond = Callable[[Request], Answer]

#: Seconds for a whole request, and again for its answer.
CLIENT_TIMEOUT_S = 5.0
MAX_CLIENTS = 32
#: With those of connections that were hung up on, and are about to end.
MAX_THREADS = 2 * MAX_CLIENTS
MAX_BODY_BYTES = 256 * 1024
#: What a client may still send while it is told no, so that the answer is not lost in the reset of the connection.
_MAX_LEFT_BYTES = 1 << 20
LINGER_S = 1.0
#: The methods whose body is read; that of another one is left where it is.
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LF_ALONE = re.compile(rb"(?<!\r)\n")

_log = structlog.get_logger("headwater.http")


def _all(_: Request) -> None:
    """Everybody is let in."""


class ServerTls:
    """TLS of a server: the certificate and key of an identity's folder, read again when they were renewed there."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds ``cert.pem`` (with the chain, if there is one) and ``key.pem``.

        Raises:
            OSError: they are not there, cannot be read, or do not belong together.
            SecurityError: a file cannot be read, the key lies open to others, or the certificate names no host.
        """
        # Only who serves TLS needs them: they load a library of ten megabytes.
        from security.certificates import names_of
        from security.tls_folder import read_certificates

        read_key(folder / "key.pem")
        if not names_of(read_certificates(folder / "cert.pem")[0]):
            raise FolderError(f"{folder / 'cert.pem'} names no host, so no client takes it for a server's")
        self._files = (folder / "cert.pem", folder / "key.pem")
        self._lock = threading.Lock()
        self._seen = self._state()
        try:
            self._context = _context(*self._files)
        except ssl.SSLError as exc:
            raise OSError(f"{self._files[0]} and key.pem are no certificate and key of a server: {exc}") from exc

    def context(self) -> ssl.SSLContext:
        """For the next connection. Half of a renewal, or a broken one, leaves the certificate that there was."""
        with self._lock, suppress(OSError):
            state = self._state()
            if state != self._seen:
                self._context, self._seen = _context(*self._files), state
        return self._context

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        found = [file.stat() for file in self._files]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key, password=_no_password)
    return context


def _no_password() -> str:
    # Else OpenSSL would ask for one on the terminal.
    raise ssl.SSLError("the key is encrypted")


class HttpServer:
    """A running server; made by `serve_http`."""

    def __init__(self, server: _Server, name: str) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name=name, daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port in use, also where port 0 was asked for."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=CLIENT_TIMEOUT_S)
        self._server.server_close()


def serve_http(
    host: str,
    port: int,
    respond: Respond,
    *,
    admit: Admit = _all,
    tls: ServerTls | None = None,
    max_body: int = MAX_BODY_BYTES,
    name: str = "http",
) -> HttpServer:
    """Serve until `HttpServer.close`; returns once the port is bound.

    Args:
        host: the address to bind, IPv4 or IPv6; ``0.0.0.0`` in a container.
        port: TCP port; 0 takes a free one, see `HttpServer.port`.
        respond: called in a thread of the server, as is ``admit``.
        max_body: bytes of a body; more is refused unread.
        name: of the thread that accepts.

    Raises:
        OSError: the address is taken or is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return HttpServer(_Server((host, port), family, _Work(respond, admit, tls, max_body)), name)


@dataclass(frozen=True, slots=True)
class _Work:
    respond: Respond
    admit: Admit
    tls: ServerTls | None
    max_body: int


class _Server(TCPServer):
    # Not http.server's: that asks the resolver for our own name first, which can hang where there is no network.
    allow_reuse_address = True
    request_queue_size = 4 * MAX_CLIENTS

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, work: _Work) -> None:
        self.address_family = family
        self._work = work
        self._lock = threading.Lock()
        #: The connections, the oldest first; and how many threads there are, those of ended ones too.
        self._open: dict[_Connection, None] = {}
        self._threads = 0
        super().__init__(address, None)  # type: ignore[arg-type]  # finish_request, which would call it, is never called

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            # Out of file descriptors: the one who waits in the queue would keep this loop spinning.
            time.sleep(0.05)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        connection = _Connection(request, str(client_address[0]), self)
        with self._lock:
            if self._threads >= MAX_THREADS:
                self.shutdown_request(request)
                return
            if len(self._open) >= MAX_CLIENTS:
                oldest = next((one for one in self._open if one.idle), next(iter(self._open)))
                del self._open[oldest]
                oldest.hang_up()
            self._open[connection] = None
            self._threads += 1
        try:
            threading.Thread(target=connection.serve, args=(self._work,), name="http client", daemon=True).start()
        except RuntimeError:
            # No thread can be had now.
            self.release(connection)
            self.shutdown_request(request)

    def release(self, connection: _Connection) -> None:
        """It is over."""
        with self._lock:
            self._open.pop(connection, None)
            self._threads -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is no news of ours."""


class _Connection:
    """One client. `serve` is called once in a thread of its own; `hang_up` by the server's."""

    def __init__(self, link: socket.socket, peer: str, server: _Server) -> None:
        self._link = link
        self._peer = peer
        self._server = server
        self._swap = threading.Lock()
        self._deadline = time.monotonic() + CLIENT_TIMEOUT_S
        #: It keeps its request back, or has its answer and does not go.
        self.idle = True

    def hang_up(self) -> None:
        """End it from another thread: whatever waits for its bytes sees the end of them."""
        with self._swap, suppress(OSError):
            # Not SSLSocket's own, which would take the TLS object away from the thread that reads with it.
            socket.socket.shutdown(self._link, socket.SHUT_RDWR)

    def serve(self, work: _Work) -> None:
        try:
            if work.tls is not None:
                self._wrap(work.tls.context())
            self._tell(self._answer(work))
            self.idle = True
            self._linger()
        except (OSError, ValueError):
            # It went away or was too slow; a TLS object that was shut down under the reader raises ValueError.
            pass
        finally:
            self._server.release(self)
            with self._swap, suppress(OSError):
                self._link.close()

    def _answer(self, work: _Work) -> bytes:
        head_only = False
        try:
            request, rest = self._head()
            head_only = request.method == "HEAD"
            answer = _asked(work.admit, request)
            if answer is None:
                if request.method in _WITH_BODY:
                    request = replace(request, body=self._body(request, rest, work.max_body))
                self.idle = False
                answer = _asked(work.respond, request)
                assert answer is not None
        except Refused as exc:
            answer = text(exc.status, str(exc), exc.fields)
        self.idle = False
        return render(answer, head_only=head_only)

    def _wrap(self, context: ssl.SSLContext) -> None:
        with self._swap:
            self._link = context.wrap_socket(
                self._link, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
        self._limit()
        assert isinstance(self._link, ssl.SSLSocket)
        self._link.do_handshake()

    def _limit(self) -> None:
        """Let the next step take no longer than what is left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._link.settimeout(left)

    def _head(self) -> tuple[Request, bytes]:
        data = bytearray()
        searched = 0
        while True:
            self._limit()
            try:
                more = self._link.recv(4096)
            except TimeoutError as exc:
                if not data:
                    raise
                raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the request took too long") from exc
            if not more:
                raise ConnectionAbortedError
            data += more
            end = data.find(b"\r\n\r\n", max(0, searched - 3))
            if _LF_ALONE.search(data, max(0, searched - 1), len(data) if end < 0 else end):
                raise Refused(HTTPStatus.BAD_REQUEST, "lines end with CR LF")
            searched = len(data)
            if 0 <= end <= MAX_HEAD_BYTES:
                return parse_head(bytes(data[: end + 4]), self._peer), bytes(data[end + 4 :])
            if len(data) > MAX_HEAD_BYTES:
                raise Refused(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"no more than {MAX_HEAD_BYTES} bytes of head are read"
                )

    def _body(self, request: Request, rest: bytes, limit: int) -> bytes:
        if request.length > limit:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"no more than {limit} bytes of body are read")
        if request.length and not rest and request.fields.get("expect", "").lower() == "100-continue":
            self._link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = bytearray(rest)
        while len(data) < request.length:
            self._limit()
            try:
                more = self._link.recv(min(65536, request.length - len(data)))
            except TimeoutError as exc:
                raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the request took too long") from exc
            if not more:
                raise ConnectionAbortedError
            data += more
        # What stands behind it is nobody's request: the connection ends.
        return bytes(data[: request.length])

    def _tell(self, answer: bytes) -> None:
        self._deadline = time.monotonic() + CLIENT_TIMEOUT_S
        self._limit()
        self._link.sendall(answer)

    def _linger(self) -> None:
        """End our side, and read what the client still sends: closed with bytes unread, the kernel resets the
        connection, and the client may lose the answer."""
        self._deadline = time.monotonic() + LINGER_S
        self._limit()
        if isinstance(self._link, ssl.SSLSocket):
            # close_notify, or a strict client takes the answer for cut off.
            with suppress(OSError, ValueError):
                self._link.unwrap()
        socket.socket.shutdown(self._link, socket.SHUT_WR)
        left = _MAX_LEFT_BYTES
        while left > 0:
            self._limit()
            got = socket.socket.recv(self._link, 65536)
            if not got:
                return
            left -= len(got)


def _asked(ask: Callable[[Request], Answer | None], request: Request) -> Answer | None:
    try:
        return ask(request)
    except Refused:
        raise
    except Exception:  # noqa: BLE001  the process goes on, and the client is told nothing of its inside
        _log.exception("an HTTP request failed", method=request.method)
        return text(HTTPStatus.INTERNAL_SERVER_ERROR, "that failed; the log of the process says how")
