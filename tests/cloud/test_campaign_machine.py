"""The way of a device to its image, event by event, against a device in a dozen lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from cloud.campaigns.machine import (
    GRACE,
    LOST,
    MOST_EXECUTES,
    MOST_SENDS,
    Aborted,
    Answered,
    Ask,
    CameBack,
    Device,
    Phase,
    Task,
    Tick,
    Told,
    advance,
    begin,
)
from cloud.campaigns.objects import OBJECTS, Method
from cloud.campaigns.plan import Plan, device_json, device_of
from cloud.campaigns.requests import of_ticket, request, ticket
from schemas.avro.records import FileRequest, RequestKind, ResponseCode
from schemas.avro.serde import decode, encode
from schemas.files import File

OK, CONTENT = ResponseCode.CHANGED, ResponseCode.CONTENT


class Fake:
    """A device and its gateway. ``does`` replaces the answer to an ask; what was asked is counted."""

    def __init__(self, task: Task | None = None) -> None:
        self.task = task or Task(method=Method.PULL)
        self.row = self.task.row
        self.state, self.result = self.row.idle, 0
        self.delivery = 2
        self.does: dict[Ask, Callable[[], Answered | None]] = {}
        self.asked: Counter[Ask] = Counter()
        #: What the image leads to.
        self.after_image = (self.row.ready, 0)
        self.after_execute = (min(self.row.done), self.row.success)
        self.now = 1_000_000
        self.device = begin("lamp", self.now)
        self.held = False

    def event(self, event: Answered | Told | CameBack | Tick | Aborted) -> None:
        before = self.device
        self.device = advance(self.device, event, self.task, self.now, held=self.held)
        # Whatever it has come to survives its way through the topic.
        assert device_of(device_json(self.device), self.device.ep) == self.device
        assert self.device.number in (before.number, before.number + 1)

    def step(self) -> None:
        """Answer what is pending, or let time go on until something is."""
        pending = self.device.pending
        if pending is None:
            self.now = max(self.now + 250, self.device.again or 0)
            self.event(Tick())
            return
        self.asked[pending.ask] += 1
        self.now += 50
        special = self.does.get(pending.ask)
        found = special() if special is not None else self.answer(pending.ask)
        if found is None:
            self.now += LOST + 1
            self.event(Tick())
        else:
            self.event(replace(found, number=pending.number))

    def answer(self, ask: Ask) -> Answered:
        match ask:
            case Ask.LOOK:
                return self.look()
            case Ask.RESET:
                self.state, self.result = self.row.idle, 0
            case Ask.TELL_URI | Ask.SEND:
                self.state, self.result = self.after_image
            case Ask.EXECUTE:
                self.state, self.result = self.after_execute
            case Ask.VERSION:
                return Answered(number=0, code=CONTENT, values={3: "2.1.0"})
            case _:
                pass
        return Answered(number=0, code=OK)

    def look(self) -> Answered:
        values: dict[int, object] = {self.row.state: self.state, self.row.result: self.result}
        if self.row.delivery is not None:
            values[self.row.delivery] = self.delivery
        return Answered(number=0, code=CONTENT, values=values)

    def run(self, until: Callable[[Device], bool] = lambda one: one.phase.ended and one.pending is None) -> Device:
        for _ in range(2_000):
            if until(self.device):
                return self.device
            self.step()
        raise AssertionError(f"it does not end: {self.device}")


def no(code: ResponseCode, message: str = "") -> Callable[[], Answered]:
    return lambda: Answered(number=0, code=code, message=message)


def first(
    *answers: Callable[[], Answered | None], then: Callable[[], Answered | None]
) -> Callable[[], Answered | None]:
    left = list(answers)
    return lambda: left.pop(0)() if left else then()


@pytest.mark.parametrize(("method", "sends"), [(Method.PULL, Ask.TELL_URI), (Method.PUSH, Ask.SEND)])
def test_a_device_is_updated(method: Method, sends: Ask) -> None:
    fake = Fake(Task(method=method))
    device = fake.run()
    assert (device.phase, device.words) == (Phase.UPDATED, "is updated; its firmware version is 2.1.0")
    assert fake.asked[sends] == fake.asked[Ask.EXECUTE] == 1
    assert fake.asked[Ask.FORGET_STATE] == fake.asked[Ask.FORGET_RESULT] == 1
    assert device.trace[0][1] == "is asked what it has"


def test_software_is_installed_and_activated() -> None:
    fake = Fake(Task(object_id=9, instance=2, method=Method.PULL))
    assert fake.run().words == "is updated and activated"
    assert fake.asked[Ask.EXECUTE] == fake.asked[Ask.ACTIVATE] == 1


@pytest.mark.parametrize(("number", "result"), [(n, r) for n, row in OBJECTS.items() for r in row.failures])
def test_each_failure_has_its_words(number: int, result: int) -> None:
    fake = Fake(Task(object_id=number, method=Method.PULL))
    fake.after_image = (fake.row.idle, result)
    device = fake.run()
    assert device.phase is Phase.FAILED
    assert device.words == f"{fake.row.failures[result]} (result {result})"
    assert fake.asked[Ask.TELL_URI] == (MOST_SENDS if result in fake.row.passing else 1)
    assert not fake.asked[Ask.EXECUTE]


def test_an_update_that_fails_says_so() -> None:
    fake = Fake()
    fake.after_execute = (0, 8)
    assert fake.run().words == "the update itself failed (result 8)"


@pytest.mark.parametrize("stale", [1, 5])
def test_a_result_of_before_means_nothing(stale: int) -> None:
    fake = Fake()
    fake.result = stale
    # It is slow: for some looks nothing has changed.
    fake.does[Ask.TELL_URI] = no(OK)
    fake.run(lambda one: one.phase is Phase.DOWNLOADING)
    looks = fake.asked[Ask.LOOK]
    fake.run(lambda _: fake.asked[Ask.LOOK] == looks + 2)
    assert fake.device.phase is Phase.DOWNLOADING
    fake.state, fake.result = 2, 0
    assert fake.run().phase is Phase.UPDATED


def test_another_image_is_taken_back_and_a_busy_device_is_waited_for() -> None:
    fake = Fake()
    fake.state = 2
    assert fake.run().phase is Phase.UPDATED
    assert fake.asked[Ask.RESET] == 1
    busy = Fake()
    busy.state = 3
    busy.run(lambda one: "busy" in one.words)
    busy.state = 0
    assert busy.run().phase is Phase.UPDATED


def test_a_device_that_cannot_do_what_is_asked_is_told_from_one_that_can() -> None:
    fake = Fake(Task(method=Method.PULL))
    fake.delivery = 1
    assert "does not take images by pull; try --method push" in fake.run().words
    auto = Fake(Task(method=Method.AUTO))
    auto.delivery = 1
    assert auto.run().phase is Phase.UPDATED
    assert auto.asked[Ask.SEND] == 1


def test_without_the_object_it_fails_at_once() -> None:
    fake = Fake()
    fake.does[Ask.LOOK] = no(ResponseCode.NOT_FOUND, "no such object")
    assert fake.run().words == "cannot be read /5/0: not found (no such object)"


@pytest.mark.parametrize("ask", [Ask.LOOK, Ask.OBSERVE_STATE, Ask.TELL_URI, Ask.EXECUTE])
def test_what_did_not_reach_the_device_is_asked_again(ask: Ask) -> None:
    gone = no(ResponseCode.NOT_FOUND, "no device lamp is registered at gw")
    asleep = no(ResponseCode.PRECONDITION_FAILED, "the request expired")
    silent = no(ResponseCode.UNKNOWN, "no answer within 93 s")
    fake = Fake()
    failures = (gone, asleep) if ask is Ask.EXECUTE else (gone, asleep, silent)
    fake.does[ask] = first(*failures, then=lambda: fake.answer(ask))
    assert fake.run().phase is Phase.UPDATED
    assert any("it is not registered now" in words for _, words in fake.device.trace)


@pytest.mark.parametrize("code", [ResponseCode.UNKNOWN, ResponseCode.NOT_FOUND, ResponseCode.METHOD_NOT_ALLOWED])
def test_a_device_that_cannot_be_observed_is_updated_all_the_same(code: ResponseCode) -> None:
    fake = Fake()
    for ask in (Ask.OBSERVE_STATE, Ask.OBSERVE_RESULT):
        fake.does[ask] = no(code, "the device's answer cannot be read")
    assert fake.run().phase is Phase.UPDATED
    assert fake.asked[Ask.OBSERVE_STATE] <= 2


def test_the_image_may_come_to_the_gateway_later() -> None:
    fake = Fake()
    fake.does[Ask.TELL_URI] = first(
        *[no(ResponseCode.REQUEST_ENTITY_INCOMPLETE)] * 5, then=lambda: fake.answer(Ask.TELL_URI)
    )
    fake.run(lambda one: one.words == "waits for the image to come to the gateway")
    why = "the file ab is not at this gateway: there is no room for its 5 bytes at the gateway"
    before = fake.does[Ask.TELL_URI]
    fake.does[Ask.TELL_URI] = first(no(ResponseCode.REQUEST_ENTITY_INCOMPLETE, why), then=before)
    fake.run(lambda one: one.words.endswith("to the gateway: there is no room for its 5 bytes at the gateway"))
    assert fake.run().phase is Phase.UPDATED
    assert fake.device.sends == 1


def test_an_update_of_unknown_outcome_that_was_done_is_not_executed_again() -> None:
    fake = Fake()

    def interrupted() -> Answered:
        fake.answer(Ask.EXECUTE)
        return no(ResponseCode.UNKNOWN, "outcome unknown")()

    fake.does[Ask.EXECUTE] = interrupted
    assert fake.run().phase is Phase.UPDATED
    assert fake.asked[Ask.EXECUTE] == 1


@pytest.mark.parametrize("code", [ResponseCode.UNKNOWN, OK])
@pytest.mark.parametrize("number", sorted(OBJECTS))
def test_a_device_that_restarts_at_the_execute_and_has_the_image_still_is_told_again(
    number: int, code: ResponseCode
) -> None:
    fake = Fake(Task(object_id=number, method=Method.PULL))
    fake.does[Ask.EXECUTE] = first(no(code), then=lambda: fake.answer(Ask.EXECUTE))
    fake.run(lambda one: one.phase is Phase.UPDATING)
    told = fake.now
    fake.event(CameBack())
    device = fake.run()
    assert device.phase is Phase.UPDATED
    assert fake.asked[Ask.EXECUTE] == 2
    assert "registered anew and has the image still; is told again" in " ".join(words for _, words in device.trace)
    assert fake.now - told < GRACE, "its registration says it at once"
    # Told at the same moment as ever: what was sent is not sent again.
    assert fake.asked[Ask.TELL_URI] == 1


def test_a_device_that_never_begins_is_told_three_times_and_has_failed() -> None:
    fake = Fake()
    fake.does[Ask.EXECUTE] = no(ResponseCode.UNKNOWN, "outcome unknown")
    device = fake.run()
    assert (device.phase, fake.asked[Ask.EXECUTE]) == (Phase.FAILED, MOST_EXECUTES)
    assert device.words == "was told to update 3 times and has not begun; look at the device"
    assert fake.now - device.began > MOST_EXECUTES * GRACE


def test_a_device_that_does_not_hear_of_it_is_told_as_often_as_it_takes() -> None:
    fake = Fake()
    gone = no(ResponseCode.NOT_FOUND, "no device lamp is registered at gw")
    fake.does[Ask.EXECUTE] = first(*[gone] * 10, then=lambda: fake.answer(Ask.EXECUTE))
    assert fake.run().phase is Phase.UPDATED
    assert fake.device.executes == 1


def test_a_device_that_has_begun_after_all_and_refuses_to_be_told_again_is_followed() -> None:
    fake = Fake()

    def begun() -> Answered:
        fake.answer(Ask.EXECUTE)
        return no(ResponseCode.METHOD_NOT_ALLOWED, "an image is being installed")()

    fake.does[Ask.EXECUTE] = first(no(ResponseCode.UNKNOWN), then=begun)
    assert fake.run().phase is Phase.UPDATED
    assert fake.asked[Ask.EXECUTE] == 2


def test_a_device_whose_image_is_gone_at_the_execute_is_sent_it_again() -> None:
    fake = Fake()

    def forgets() -> Answered:
        fake.state, fake.result = 0, 0
        return no(ResponseCode.UNKNOWN)()

    fake.does[Ask.EXECUTE] = first(forgets, then=lambda: fake.answer(Ask.EXECUTE))
    fake.run(lambda one: one.phase is Phase.UPDATING)
    fake.event(CameBack())
    device = fake.run()
    assert device.phase is Phase.UPDATED
    assert fake.asked[Ask.TELL_URI] == fake.asked[Ask.EXECUTE] == 2
    assert any("is idle again without a result" in words for _, words in device.trace)
    for_ever = Fake()
    for_ever.after_execute = (0, 0)
    assert "forgot the image 3 times" in for_ever.run().words
    assert for_ever.asked[Ask.TELL_URI] == MOST_SENDS


def test_a_device_that_puts_it_off_or_installs_slowly_is_not_told_again() -> None:
    for number, after in ((5, (2, 11)), (9, (3, 3)), (5, (3, 0))):
        fake = Fake(Task(object_id=number, method=Method.PULL, patience=GRACE * 10))
        fake.after_execute = after
        device = fake.run()
        assert fake.asked[Ask.EXECUTE] == 1
        assert device.words.startswith("gave up after 600 s")


def test_what_is_held_is_not_told_again() -> None:
    fake = Fake()
    fake.does[Ask.EXECUTE] = first(no(ResponseCode.UNKNOWN), then=lambda: fake.answer(Ask.EXECUTE))
    fake.run(lambda one: one.phase is Phase.UPDATING)
    fake.held = True
    fake.event(CameBack())
    fake.run(lambda one: one.held)
    assert fake.asked[Ask.EXECUTE] == 1
    fake.held = False
    assert fake.run().phase is Phase.UPDATED


def test_a_device_that_restarts_while_it_downloads_is_told_anew_at_once() -> None:
    fake = Fake()
    fake.after_image = (1, 0)
    fake.run(lambda one: one.phase is Phase.DOWNLOADING)
    fake.state, fake.after_image = 0, (2, 0)
    before = fake.now
    fake.event(CameBack())
    fake.run(lambda _: fake.asked[Ask.TELL_URI] == 2)
    assert fake.now - before < GRACE
    assert fake.run().phase is Phase.UPDATED


def test_a_reply_that_never_comes_is_no_reason_to_execute_again() -> None:
    fake = Fake()

    def lost() -> None:
        fake.answer(Ask.EXECUTE)

    fake.does[Ask.EXECUTE] = lost
    assert fake.run().phase is Phase.UPDATED
    assert fake.asked[Ask.EXECUTE] == 1


def test_a_device_that_refuses_to_update_has_failed() -> None:
    fake = Fake()
    fake.does[Ask.EXECUTE] = no(ResponseCode.METHOD_NOT_ALLOWED, "not now")
    assert fake.run().words == "refused to execute: method not allowed (not now)"


def test_a_device_that_forgets_the_image_gets_it_three_times() -> None:
    fake = Fake()
    fake.after_image = (0, 0)
    device = fake.run()
    assert "forgot the image 3 times" in device.words
    assert fake.asked[Ask.TELL_URI] == MOST_SENDS
    assert fake.now - device.began > MOST_SENDS * GRACE


def test_a_device_that_updates_by_itself_is_followed() -> None:
    fake = Fake()
    fake.after_image = (0, 1)
    assert fake.run().phase is Phase.UPDATED
    assert not fake.asked[Ask.EXECUTE]


def test_notifications_and_registrations_make_it_look_at_once() -> None:
    for event in (Told(), CameBack()):
        fake = Fake()
        fake.after_image = (1, 0)
        fake.run(lambda one: one.phase is Phase.DOWNLOADING and one.pending is None and one.pause > 30_000)
        assert fake.device.again is not None
        assert fake.device.again - fake.now > 1_000
        fake.event(event)
        assert fake.device.again - fake.now <= 500
        fake.state = 2
        assert fake.run().phase is Phase.UPDATED


def test_what_is_held_is_not_executed() -> None:
    fake = Fake()
    fake.held = True
    fake.run(lambda one: one.held)
    for _ in range(20):
        fake.step()
    assert not fake.asked[Ask.EXECUTE]
    fake.held = False
    assert fake.run().phase is Phase.UPDATED


def test_an_aborted_device_is_told_nothing_more() -> None:
    fake = Fake()
    fake.run(lambda one: one.phase is Phase.DOWNLOADING)
    fake.event(Aborted())
    assert fake.device.phase is Phase.ABORTED
    assert fake.run().words.startswith("aborted while it was downloading")
    assert not fake.asked[Ask.EXECUTE]
    fake.event(CameBack())
    fake.event(Told())
    assert fake.device.phase is Phase.ABORTED


def test_patience_ends() -> None:
    fake = Fake(Task(method=Method.PULL, patience=600_000))
    fake.after_image = (1, 0)
    device = fake.run()
    assert device.phase is Phase.FAILED
    assert device.words.startswith("gave up after 600 s while it was downloading: downloads the image")


def test_a_reply_to_an_older_request_changes_nothing() -> None:
    fake = Fake()
    fake.run(lambda one: one.phase is Phase.DOWNLOADING)
    before = fake.device
    for number in range(before.number + 5):
        if before.pending is None or number != before.pending.number:
            fake.event(Answered(number=number, code=ResponseCode.NOT_FOUND))
    assert fake.device == before


@pytest.mark.parametrize("number", sorted(OBJECTS))
def test_every_ask_has_a_request_with_a_ticket_that_says_whose_it_is(number: int) -> None:
    file = File(sha256="ab" * 32, size=10, name="x")
    plan = Plan(
        name="spring", gateway="gw", file=file, endpoints=("urn:a:b:c",), stages=(1,), threshold=0.1,
        task=Task(object_id=number, instance=1), created=77,
    )  # fmt: skip
    device = begin("urn:a:b:c", 5)
    assert device.pending is not None
    for ask in Ask:
        if ask is Ask.ACTIVATE and plan.task.row.activate is None:
            continue
        pending = replace(device.pending, ask=ask)
        made = request(plan, device, pending)
        assert decode(encode(made)) == made
        assert of_ticket(made.ticket) == ("spring", 77, 1, "urn:a:b:c")
        assert made.ticket == ticket(plan, device, pending)
        assert made.expires == pending.expires
        assert isinstance(made.payload.body, FileRequest) is (ask in (Ask.SEND, Ask.TELL_URI))
        assert (made.payload.kind is RequestKind.EXECUTE) is (ask in (Ask.EXECUTE, Ask.ACTIVATE))
    assert of_ticket("cli-1") is of_ticket("hw-campaign:x:y") is of_ticket("hw-campaign:a:b:c:d") is None
