"""Request and reply by ticket: a command to a device, and the one Response that answers it.

Owns waiting for the reply. It never decides what a request means (the gateway does) and never sends one twice. The
reply's partitions are assigned at their ends before the request is produced, so no reply can be missed, and there is
no consumer group that could be left behind.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from cloud.feed import SLICE, Feed, Start
from cloud.interrupts import interruptible
from cloud.writing import Record, write
from connectors.kafka import Cluster, TopicMissing, partition_counts
from schemas.avro.records import Key, Request, Response
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from schemas.lwm2m.path import Path, PathError


class NoReply(Exception):
    """The request is in Kafka, and no reply came in time; the gateway may still carry it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its reply, with the seconds between them."""

    request: Request
    response: Response
    seconds: float


def new_ticket() -> str:
    """A ticket that no other request has."""
    return f"cli-{uuid.uuid4()}"


def answers(response: Response, request: Request) -> bool:
    """True if ``response`` is the reply to ``request``.

    The ticket alone is not enough: people number their tickets by hand (``ticket#1`` to observe, ``ticket#1`` again to
    cancel), so the endpoint, the kind and the path count too. ``3/0`` and ``/3/0`` are the same path.
    """
    return (
        response.ticket == request.ticket
        and response.ep == request.ep
        and response.rep.kind is request.payload.kind
        and _same_path(response.path, request.payload.path)
    )


def _same_path(one: str, other: str) -> bool:
    try:
        return Path.parse(one) == Path.parse(other)
    except PathError:
        return one.strip("/") == other.strip("/")


def ask(cluster: Cluster, gateway: str, request: Request, *, timeout: float = 30.0) -> Exchange:
    """Send ``request`` to ``gateway`` through ``cluster`` (the cloud's Kafka or the edge's) and wait for its reply.

    ``timeout`` is in seconds, from when Kafka has the request; reaching Kafka is bounded by itself. An interrupt
    (KeyboardInterrupt) is let through at once; a request that was already produced stays in the topic.

    Raises:
        Unreachable: no broker answered.
        TopicMissing: the gateway's topics do not exist on this cluster.
        NotAllowed: who we are may not write to the topic of requests.
        NotSent, NoReply: see there.
    """
    topics = Topics(gateway)
    reach = max(2.0, min(timeout, 10.0))
    wanted = [topics.requests, topics.replies]
    there = interruptible(lambda: partition_counts(cluster, wanted, timeout=reach))
    for topic in wanted:
        if topic not in there:
            raise TopicMissing(
                f"topic {topic} does not exist at {cluster.bootstrap}: is {gateway!r} the id of the gateway, and is "
                f"this the right Kafka? `headwater topics create --gateway {gateway} --kafka {cluster.bootstrap}` "
                "makes the topics"
            )
    with interruptible(lambda: Feed(cluster, [topics.replies], start=Start.END, timeout=reach)) as replies:
        began = time.monotonic()
        write(
            cluster,
            topics.requests,
            [Record(key=encode(Key(ep=request.ep)), value=encode(request))],
            f"the request with ticket {request.ticket}",
            timeout=max(5.0, reach),
            in_vain=", so not command these devices",
            linger_ms=0,
        )
        deadline = time.monotonic() + timeout
        strangers = 0
        while (left := deadline - time.monotonic()) > 0:
            for item in replies.poll(min(SLICE, left)):
                if not isinstance(item.record, Response):
                    continue
                if answers(item.record, request):
                    return Exchange(request=request, response=item.record, seconds=time.monotonic() - began)
                strangers += item.record.ticket == request.ticket
        raise NoReply(_no_reply(cluster, topics, request, timeout, strangers))


def _no_reply(cluster: Cluster, topics: Topics, request: Request, timeout: float, strangers: int) -> str:
    lines = [
        f"no reply to {request.payload.kind.value} {request.payload.path} of {request.ep} within {timeout:g} s "
        f"(ticket {request.ticket}). The request is in {topics.requests}; look at these:",
        "  - is the gateway running, with this id, on this Kafka or behind a running replicator?",
        "  - is the device asleep (queue mode)? The reply comes when it wakes: `headwater commands "
        f"{request.ep} --gateway {topics.gateway} --kafka {cluster.bootstrap}` shows where it stands",
        "  - is the WAN down? The same command works against the edge's Kafka: --kafka EDGE:9082",
    ]
    if strangers:
        lines.append(f"  - {strangers} other replies came with this ticket: it was used before; take another one")
    return "\n".join(lines)
