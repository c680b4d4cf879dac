"""A database of the session's Redis."""

from __future__ import annotations

import base64
import itertools
import json
import math
from pathlib import Path
from typing import Any

from schemas.lwm2m.nodes import ObjectLink, Value
from tests.redis_server import RedisServer, shared_server
from tests.sink_samples import GATEWAY

_DATABASES = itertools.count(1)


class RedisStore:
    """See `tests.stores.store.Store`; its history is the stream."""

    def __init__(self, _folder: Path, server: RedisServer | None = None) -> None:
        self.server = server or shared_server()
        self.database = next(_DATABASES)
        self.client = self.server.client(self.database)

    def options(self) -> dict[str, object]:
        found: dict[str, object] = {"port": self.server.port, "database": self.database}
        return found | ({"password": self.server.password} if self.server.password else {})

    def kept(self, value: Value | None) -> Any:
        match value:
            case bytes():
                return base64.b64encode(value).decode()
            case ObjectLink():
                return str(value)
            case float() if math.isnan(value):
                return "NaN"
            case float() if math.isinf(value):
                return "Infinity" if value > 0 else "-Infinity"
        return value

    def key(self, kind: str, *rest: str, gateway: str = GATEWAY) -> bytes:
        return ":".join(("hw", f"{{{gateway}}}", kind, *rest)).encode()

    def hash(self, kind: str, *rest: str, gateway: str = GATEWAY) -> dict[str, str]:
        found = self.client.hgetall(self.key(kind, *rest, gateway=gateway))
        return {name.decode(): value.decode() for name, value in found.items()}

    def latest(self, ep: str = "ep-1") -> dict[str, dict[str, Any]]:
        return {path: json.loads(text) for path, text in self.hash("latest", ep).items()}

    def statistics(self, path: str = "/3303/0/5700", ep: str = "ep-1") -> dict[str, float]:
        found = self.hash("stats", ep, path)
        return {name: float(value) for name, value in found.items() if name != "order"}

    def stream(self) -> list[dict[str, str]]:
        entries = self.client.xrange(self.key("stream"))
        return [{name.decode(): value.decode() for name, value in entry.items()} for _, entry in entries]

    def everything(self) -> dict[bytes, object]:
        """All that is there, but for the ids of the stream's entries, which are times."""
        found: dict[bytes, object] = {}
        for key in sorted(self.client.scan_iter(count=1000)):
            match self.client.type(key):
                case b"hash":
                    found[key] = self.client.hgetall(key)
                case b"set":
                    found[key] = self.client.smembers(key)
                case b"stream":
                    found[key] = [entry for _, entry in self.client.xrange(key)]
                case other:
                    raise AssertionError(f"{key!r} is a {other!r}")
        return found

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [(e["ep"], e["path"], json.loads(e["value"]), int(e["gatewayTime"])) for e in self.stream()]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        found = self.hash("endpoint", name)
        if not found:
            return None
        texts = ("name", "server", "regId", "regAddress", "address", "ver", "bnd", "sms", "root", "at")
        told = {key: value if key in texts else json.loads(value) for key, value in found.items()}
        online = self.client.sismember(self.key("online"), name.encode())
        assert bool(online) is told["online"]
        assert self.client.sismember(self.key("endpoints"), name.encode())
        return dict.fromkeys(("lt", "regDate", "address", "sms", "attributes")) | told

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        rows = json.loads(self.hash("endpoint", name)["objects"])
        found = {(row["id"], row["version"], row["instance"], row["name"]) for row in rows}
        assert len(rows) == len(found)
        return found
