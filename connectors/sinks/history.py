"""What of a notification or a reply becomes history: one point a resource value, the same for every store.

Pure. How a store names and types a point's parts is the sink's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from connectors.sinks.sink import SinkRecord
from schemas.avro.records import (
    CreateBody,
    DiscoverBody,
    GenericBody,
    Notification,
    Response,
    ResponseBody,
    values_told,
)
from schemas.lwm2m.nodes import Value


class Point(NamedTuple):
    """One value of one resource (instance), or words where there is none. Times are epoch milliseconds."""

    server: str
    ep: str
    path: str
    #: Of LwM2M: STRING, FLOAT, …; None where ``value`` is words (an error, links, a location) or there are none.
    type: str | None
    value: Value | None
    #: The device's own time where it gave one, and the time at which the gateway had it.
    device_time_ms: int | None
    gateway_time_ms: int
    kind: str
    code: str
    ticket: str
    #: None of a reply.
    observation_id: str | None
    #: A notification that was overtaken by a newer one on its way.
    late: bool
    #: Counts the points of one record.
    position: int

    @property
    def time_ms(self) -> int:
        """The device's time, or the gateway's."""
        return self.gateway_time_ms if self.device_time_ms is None else self.device_time_ms


def points(record: SinkRecord, said: Notification | Response) -> Iterator[Point]:
    """The points of ``record``, whose value is ``said``; at least one."""
    observation = said.observation_id if isinstance(said, Notification) else None
    late = bool(record.headers) and record.header("late") == b"1"
    server, ep, now, ticket = said.server_id, said.ep, said.timestamp, said.ticket
    kind, code = said.rep.kind.value, said.rep.code.value
    body = said.rep.body
    position = -1
    for position, one in enumerate(values_told(body)):
        yield Point(
            server,
            ep,
            str(one.path),
            one.type.value,
            one.value,
            one.timestamp,
            now,
            kind,
            code,
            ticket,
            observation,
            late,
            position,
        )
    if position < 0:
        # No value but words, or not even these: what happened is still kept.
        yield Point(server, ep, said.path, None, _words(body), None, now, kind, code, ticket, observation, late, 0)


def _words(body: ResponseBody | None) -> str | None:
    match body:
        case GenericBody(message=text) | DiscoverBody(object_links=text) | CreateBody(location=text):
            return text
    return None
