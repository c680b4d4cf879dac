"""What may stand in front of a store's real HTTP server: TLS, and whatever answers in its place."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from tests.installed_server import ANSWER_S

CERTIFICATE = Path(__file__).parent / "data" / "tls" / "localhost.pem"

#: Of a request, beside all that begin with ``Content-`` or ``X-``: what goes on to the server.
_PASSED_ON = frozenset({"accept", "authorization"})


class Answer(NamedTuple):
    """What is answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Asked(NamedTuple):
    """A request on its way; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


#: What is answered in the server's place; None lets it through.
Rule = Callable[[Asked], Answer | None]


@contextmanager
def front(
    url: str,
    rule: Rule,
    *,
    then: Callable[[Asked, Answer], Answer | None] = lambda _asked, _theirs: None,
    keeps_back: Collection[str] = (),
    tls: bool = False,
) -> Iterator[str]:
    """The address of the front of the server at ``url``.

    ``then`` may put another answer in the place of the server's; headers in ``keeps_back`` do not reach the server.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            asked = Asked(
                self.command,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(int(self.headers["Content-Length"] or 0)),
            )
            answer = rule(asked)
            if answer is None:
                theirs = _pass_on(url, asked, keeps_back)
                answer = then(asked, theirs) or theirs
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_PUT = do_GET = _handle

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


def _pass_on(url: str, asked: Asked, keeps_back: Collection[str]) -> Answer:
    kept = {
        name: value
        for name, value in asked.headers.items()
        if name not in keeps_back and (name in _PASSED_ON or name.startswith(("content-", "x-")))
    }
    kept.pop("content-length", None)
    request = urllib.request.Request(url + asked.path, data=asked.body or None, headers=kept, method=asked.method)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return Answer(answer.status, {}, answer.read())
    except urllib.error.HTTPError as exc:
        return Answer(exc.code, {}, exc.read())
