"""What a receiver of the webhook sink makes of its events."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

from connectors.sinks.graph import held_objects, object_name
from schemas.avro.records import Link
from schemas.lwm2m.nodes import ObjectLink, Value
from schemas.lwm2m.objects import Definitions
from tests.webhook_receiver import SECRET, receiver


class WebhookStore:
    """See `tests.stores.store.Store`; the graph is what the events tell, in the order in which they came."""

    def __init__(self, _folder: Path) -> None:
        self._path, self.inbox = receiver().inbox()

    def options(self) -> dict[str, object]:
        return {"url": f"http://127.0.0.1:{receiver().port}{self._path}", "secret": SECRET, "max_events": 3}

    def kept(self, value: Value | None) -> Any:
        match value:
            case bytes():
                return base64.b64encode(value).decode()
            case ObjectLink():
                return str(value)
            case float() if math.isnan(value):
                return "NaN"
            case float() if math.isinf(value):
                return "Infinity"
        return value

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.inbox.events.values() if event["kind"] == kind]

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [
            (event["ep"], value["path"], value["value"], event["time"])
            for event in self.events("history")
            for value in event["values"]
        ]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        known: dict[str, Any] | None = None
        for event in self.events("registrations"):
            if event["ep"] == name:
                known = known or {"name": name, "server": event["server"], "lt": None, "regDate": None}
                known |= event["endpoint"]
        return known

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        endpoint = self.endpoint(name)
        assert endpoint is not None
        links = [Link(**link) for link in endpoint["links"]]
        definitions = Definitions.builtin()
        return {
            (number, version, instance, object_name(definitions, number, version))
            for number, version, instance in held_objects(links, endpoint.get("root", "/"))
        }
