"""The fold of requests, states and replies into commands, whatever the order in which the topics are read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from cloud.command_view import CommandPicture, Standing
from cloud.feed import Item
from schemas.avro.records import (
    CommandKey,
    CommandPhase,
    CommandStatus,
    ExecuteRequest,
    GenericBody,
    Record,
    Request,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.request_identity import identity_of
from schemas.avro.serde import encode


def asked(ticket: str = "t", parameters: str = "") -> Request:
    body = ExecuteRequest(parameters=parameters)
    payload = RequestPayload(kind=RequestKind.EXECUTE, path="/3/0/4", body=body)
    return Request(server_id="gw", ep="dev", ticket=ticket, payload=payload)


def item(
    record: Record, timestamp: int = 0, key: Record | None = None, headers: Mapping[str, bytes] | None = None
) -> Item:
    named = tuple((name.replace("_", "."), value) for name, value in (headers or {}).items())
    return Item(
        topic="t",
        partition=0,
        offset=0,
        timestamp=timestamp,
        key=key,
        record=record,
        value=encode(record),
        headers=named,
    )


def identity(request: Request) -> bytes:
    return identity_of(encode(request), request)


def status(request: Request, state: CommandPhase, since: int, attempts: int = 0, message: str = "") -> Item:
    record = CommandStatus(
        server_id="gw",
        ep="dev",
        ticket=request.ticket,
        kind="execute",
        path="/3/0/4",
        state=state,
        since=since,
        received=100,
        expires=9_000,
        attempts=attempts,
        message=message,
    )
    return item(record, since, CommandKey(ep="dev", request=identity(request).hex()))


def reply(request: Request, timestamp: int, words: str = "", **headers: bytes) -> Item:
    rep = ResponsePayload(
        code=ResponseCode.CHANGED, kind=RequestKind.EXECUTE, body=GenericBody(message=words) if words else None
    )
    record = Response(ticket=request.ticket, server_id="gw", ep="dev", path="/3/0/4", timestamp=timestamp, rep=rep)
    return item(record, timestamp, headers={"request_id": identity(request) + bytes(8)} | headers)


def picture(*items: Item) -> CommandPicture:
    made = CommandPicture()
    for one in items:
        made.take(one)
    return made


def test_a_request_alone_is_requested_and_one_that_was_answered_at_once_is_answered() -> None:
    [alone] = picture(item(asked(), 5)).commands.values()
    assert (alone.state, alone.since, alone.attempts, alone.ticket) == (Standing.REQUESTED, 5, None, "t")
    for order in itertools.permutations([item(asked(), 5), reply(asked(), 7)]):
        [one] = picture(*order).commands.values()
        assert (one.state, one.asked, one.since, one.message) == (Standing.ANSWERED, 5, 7, "CHANGED")


def test_the_latest_word_counts_whatever_is_read_first() -> None:
    of = asked()
    story = [
        item(of, 90),
        status(of, CommandPhase.QUEUED, 110),
        status(of, CommandPhase.SENT, 120, 1),
        reply(of, 130),
        status(of, CommandPhase.ANSWERED, 131, 1, "CHANGED"),
    ]
    told = [Standing.REQUESTED, Standing.QUEUED, Standing.SENT, Standing.ANSWERED, Standing.ANSWERED]
    for length in range(1, 6):
        # The states stay in their order: they are of one partition.
        for order in itertools.permutations(range(length)):
            states = [n for n in order if n in (1, 2, 4)]
            if states != sorted(states):
                continue
            [one] = picture(*(story[n] for n in order)).commands.values()
            assert one.state is told[length - 1], order
            assert one.asked == 90


def test_a_command_that_expired_and_is_asked_for_again_is_queued_again() -> None:
    of = asked()
    [one] = picture(
        reply(of, 200, "it expired", request_state=b"EXPIRED", request_unsent=b""),
        status(of, CommandPhase.EXPIRED, 201, message="it expired"),
        item(of, 250),
        status(of, CommandPhase.QUEUED, 300),
    ).commands.values()
    assert (one.state, one.since) == (Standing.QUEUED, 300)


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        ({}, Standing.ANSWERED),
        ({"request_state": b"FAILED"}, Standing.FAILED),
        ({"request_state": b"?"}, Standing.ANSWERED),
    ],
)
def test_a_reply_says_how_it_ended(headers: dict[str, bytes], state: Standing) -> None:
    [one] = picture(reply(asked(), 7, "words", **headers)).commands.values()
    assert (one.state, one.message) == (state, "CHANGED: words")


def test_an_answer_that_is_given_again_and_a_reply_of_nobodys_say_nothing() -> None:
    of = asked()
    [one] = picture(reply(of, 7, request_state=b"FAILED"), reply(of, 9, request_again=b"")).commands.values()
    assert one.state is Standing.FAILED
    stranger = reply(of, 7).record
    assert stranger is not None
    assert not picture(item(stranger, 7)).commands


def test_a_ticket_that_is_used_for_two_requests_is_two_commands() -> None:
    first, second = asked(parameters="1"), asked(parameters="2")
    made = picture(item(first, 1), item(second, 2), reply(first, 3))
    assert [one.state for one in made.commands.values()] == [Standing.ANSWERED, Standing.REQUESTED]


def test_only_what_changes_is_told() -> None:
    of, made = asked(), CommandPicture()
    story = [
        item(of, 90),
        item(of, 95),
        status(of, CommandPhase.QUEUED, 110),
        status(of, CommandPhase.QUEUED, 112),
        status(of, CommandPhase.SENT, 120, 1),
        reply(of, 130),
        status(of, CommandPhase.ANSWERED, 131, 1),
    ]
    told = [made.take(one) for one in story]
    assert [None if one is None else one.state.value for one in told] == [
        "requested", None, "queued", None, "sent", "answered", None
    ]  # fmt: skip
