"""Which alerts fire, by what a topic says, and how Alertmanager takes them (its API, version 2). Pure.

Owns the labels, by which alone Alertmanager knows an alert, and the times: it ends an alert at ``endsAt``, which for
one that fires is therefore always a while ahead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from schemas.avro.analytics_records import Alert, AlertState

#: An alert that was not told of for so many rounds is ended; Prometheus allows the same.
_ROUNDS = 4

#: Topic and number.
Place = tuple[str, int]


class AlertKey(NamedTuple):
    """What tells an alert from another that fires at the same time."""

    gateway: str
    rule: str
    server_id: str
    ep: str
    path: str


class _Known(NamedTuple):
    alert: Alert
    place: Place


class AlertTable:
    """What fires, and what has ended and is still to be told. Times are epoch seconds."""

    def __init__(self, resend_s: float) -> None:
        self._hold_s = _ROUNDS * resend_s
        self._firing: dict[AlertKey, _Known] = {}
        self._ended: dict[AlertKey, _Known] = {}
        self._changed: set[AlertKey] = set()
        #: What fires there, for all that this table knows: its end must be told, however long ago it was.
        self._there: set[AlertKey] = set()

    def apply(self, gateway: str, alert: Alert, place: Place, written: float, now: float) -> AlertKey:
        """One record of the topic, there since ``written``; in the order of its partition."""
        key = AlertKey(gateway, alert.rule, alert.server_id, alert.ep, alert.path)
        self._firing.pop(key, None)
        self._ended.pop(key, None)
        self._changed.discard(key)
        if alert.state is AlertState.FIRING:
            self._firing[key] = _Known(alert, place)
            self._changed.add(key)
        elif key in self._there or now - written <= self._hold_s:
            self._ended[key] = _Known(alert, place)
            self._changed.add(key)
        # Else nobody has told of it for so long that Alertmanager has ended it by itself.
        return key

    def lost(self, places: Collection[Place]) -> None:
        """Another instance tells of what is in these partitions."""
        for known in (self._firing, self._ended):
            for key in [key for key, (_, place) in known.items() if place in places]:
                del known[key]
                self._changed.discard(key)
                self._there.discard(key)

    def changed(self) -> list[AlertKey]:
        """What is to be told now."""
        return list(self._changed)

    def everything(self) -> list[AlertKey]:
        """What is to be told again and again."""
        return [*self._firing, *self._ended]

    def told(self, keys: Iterable[AlertKey]) -> None:
        """Alertmanager has taken these, or never will."""
        for key in keys:
            self._changed.discard(key)
            if self._ended.pop(key, None) is None:
                self._there.add(key)
            else:
                self._there.discard(key)

    def posted(self, keys: Iterable[AlertKey], now: float) -> list[dict[str, Any]]:
        """The alerts as Alertmanager takes them."""
        return [self._posted(key, now) for key in keys]

    def _posted(self, key: AlertKey, now: float) -> dict[str, Any]:
        known = self._firing.get(key)
        alert = (known or self._ended[key]).alert
        # A device's clock may be ahead, but nothing has begun or ended in the future.
        began = max(0.0, min(alert.since / 1000, now))
        ends = now + self._hold_s if known else max(began, min(alert.timestamp / 1000, now))
        return {
            "labels": {
                "alertname": alert.rule,
                "severity": alert.severity,
                "gateway": key.gateway,
                "server": alert.server_id,
                "endpoint": alert.ep,
                "path": alert.path,
            },
            "annotations": {
                "summary": alert.summary,
                "value": f"{alert.value:g}",
                "threshold": f"{alert.threshold:g}",
                "id": alert.id,
            },
            "startsAt": _rfc3339(began),
            "endsAt": _rfc3339(ends),
        }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
