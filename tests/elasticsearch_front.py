"""What may stand in front of a real Elasticsearch: TLS, a login, and whatever else answers in its place."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests import http_front
from tests.elasticsearch_server import ElasticsearchServer


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

    def plain(asked: http_front.Asked) -> http_front.Answer | None:
        packed = asked.headers.get("content-encoding") == "gzip"
        said = rule(
            Asked(
                method=asked.method,
                path=asked.path,
                authorization=asked.headers.get("authorization"),
                body=gzip.decompress(asked.body) if packed else asked.body,
                size=len(asked.body),
            )
        )
        return None if said is None else http_front.Answer(said.status, said.headers, said.body)

    # The server itself knows no users.
    with http_front.front(server.url, plain, keeps_back={"authorization"}, tls=tls) as url:
        yield url
