"""HTTP to one of several nodes of an Elasticsearch or OpenSearch cluster (RFC 9110, RFC 9112), on the standard library.

Owns the connection, time limits, TLS, who we are, and which node is asked. Decides nothing about documents, follows no
redirect and uses no proxy. A secret is in no error.

Not the client `elasticsearch`: it refuses every server that does not say that it is Elastic's own, and each of its
major versions speaks with one or two of the servers'. What is asked here (``_bulk``, ``_mget``, ``_index_template``) is
the same in all of them.
"""

from __future__ import annotations

import gzip
import json
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from connectors.sinks.elasticsearch_options import ElasticsearchOptions
from connectors.sinks.http_deadline import deadline, no_answer
from connectors.sinks.sink import SinkConfigError

#: More of an answer is not read; it would not be one to what was asked.
_ANSWER_BYTES = 64 * 1024 * 1024
#: A node that says so is asked no more for now, if there is another: it is a proxy without its server, or it starts.
_ANOTHER_NODE = (502, 503, 504)


class NoAnswer(Exception):
    """No node is there, or no whole answer came in time; what was asked may have been done or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node said."""

    status: int
    #: Of the body, where it was JSON; else None.
    told: Any
    #: The body's beginning as one line, where it was no JSON.
    words: str
    #: ``Retry-After`` as it came.
    retry_after: str | None
    #: Which node it was.
    node: str


class Nodes:
    """The cluster, on one connection to the node that answered last, as long as that keeps it."""

    def __init__(self, options: ElasticsearchOptions) -> None:
        """It connects to nothing yet.

        Raises:
            SinkConfigError: there is something wrong with a secret's or the certificates' file.
        """
        self._options = options
        self._tls: ssl.SSLContext | None = None
        if any(url.startswith("https") for url in options.hosts):
            try:
                # `create_default_context` verifies the certificate and the name.
                self._tls = ssl.create_default_context(cafile=options.ca_file and str(options.ca_file))
            except OSError as exc:
                raise SinkConfigError(
                    f"ca_file of the sink elasticsearch, {options.ca_file}: {exc.strerror or 'no certificates'}"
                ) from exc
        elif options.ca_file is not None and not options.ca_file.is_file():
            raise SinkConfigError(f"ca_file of the sink elasticsearch: there is no file {options.ca_file}")
        options.authorization()
        self._turn = 0
        self._connection: HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes, *, kind: str = "application/json") -> Answer:
        """The answer of the first node that gives one; nobody more is asked after ``timeout_s``.

        Raises:
            NoAnswer: none of them did. SinkConfigError: the secret's file cannot be read now.
        """
        headers = {"Content-Type": kind, "Accept": "application/json"}
        authorization = self._options.authorization()
        if authorization is not None:
            headers["Authorization"] = authorization
        if self._options.gzip and len(body) > 1024:
            # A higher level costs several times the CPU, to send little less.
            body, headers["Content-Encoding"] = gzip.compress(body, 1, mtime=0), "gzip"
        said: list[str] = []
        answer: Answer | None = None
        began = time.monotonic()
        for _ in self._options.hosts:
            node = self._options.hosts[self._turn % len(self._options.hosts)]
            try:
                answer = self._on(node, method, path, body, headers)
            except NoAnswer as exc:
                said.append(f"{node}: {exc}")
            else:
                if answer.status not in _ANOTHER_NODE:
                    return answer
            self.close()
            self._turn += 1
            if time.monotonic() - began >= self._options.timeout_s:
                # The next attempt goes on with the next; we must not be silent for as long as all of them may take.
                break
        if answer is None:
            raise NoAnswer("; ".join(said))
        return answer

    def close(self) -> None:
        """End the connection; the next question opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _on(self, node: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        kept = self._connection is not None
        try:
            return self._exchange(node, method, path, body, headers)
        except (HTTPException, OSError) as exc:
            if kept and isinstance(exc, ConnectionError):
                # The server has ended a connection on which nothing was under way, as it may (RFC 9112, section 9.3.1).
                # Had it been done already, doing it once more changes nothing.
                with suppress(HTTPException, OSError):
                    return self._exchange(node, method, path, body, headers)
            raise NoAnswer(no_answer(exc)) from exc

    def _connected(self, node: str) -> HTTPConnection:
        url, timeout = urlsplit(node), self._options.timeout_s
        if url.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(
                url.hostname or "", url.port, timeout=timeout, context=self._tls
            )
        else:
            connection = HTTPConnection(url.hostname or "", url.port, timeout=timeout)
        connection.connect()
        self._connection = connection
        return connection

    def _exchange(self, node: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = self._connection or self._connected(node)
        try:
            with deadline(connection, self._options.timeout_s) as in_time:
                # A server that finds the body too large may answer before it has read it, and close: the answer counts.
                with suppress(BrokenPipeError):
                    connection.request(method, urlsplit(node).path + path, body, dict(headers))
                response = connection.getresponse()
                text = response.read(_ANSWER_BYTES)
                in_time()
        except (HTTPException, OSError):
            self.close()
            raise
        whole = response.isclosed()
        if response.will_close or not whole:
            self.close()
        told = None
        with suppress(ValueError, RecursionError):
            told = json.loads(text) if whole else None
        return Answer(
            status=response.status,
            told=told,
            words="" if told is not None else " ".join(text[:1000].decode("utf-8", "replace").split()),
            retry_after=response.getheader("Retry-After"),
            node=node,
        )
