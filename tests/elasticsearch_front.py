"""What may stand in front of a real Elasticsearch: TLS, a login, and whatever else answers in its place."""

from __future__ import annotations

import gzip
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.elasticsearch_server import ElasticsearchServer
from tests.installed_server import ANSWER_S

CERTIFICATE = Path(__file__).parent / "data" / "tls" / "localhost.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request; ``body`` is without its compression, ``size`` with it."""

    method: str
    path: str
    authorization: str | None
    body: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


#: What is answered in the server's place; None lets it through.
Rule = Callable[[Asked], Said | None]


@contextmanager
def front(server: ElasticsearchServer, rule: Rule, *, tls: bool = False) -> Iterator[str]:
    """The address of the front of ``server``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            size = len(body)
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            asked = Asked(
                method=self.command,
                path=self.path,
                authorization=self.headers["Authorization"],
                body=body,
                size=size,
            )
            said = rule(asked) or self._pass_on(asked)
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        do_POST = do_PUT = do_GET = _handle

        def _pass_on(self, asked: Asked) -> Said:
            request = urllib.request.Request(
                server.url + asked.path,
                data=asked.body,
                method=asked.method,
                headers={"Content-Type": self.headers["Content-Type"]},
            )
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                    return Said(status=answer.status, body=answer.read())
            except urllib.error.HTTPError as exc:
                return Said(status=exc.code, body=exc.read())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
    thread = Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'https://localhost' if tls else 'http://127.0.0.1'}:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join(ANSWER_S)
