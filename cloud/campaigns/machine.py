"""The way of one device to its new image, as a pure state machine: an event and the time in, the next state out.

Owns which request comes when (`Pending`, whose number is part of its ticket, so that it is the same after a restart of
whoever sends it) and what is said of the device in words. No I/O, no clock. What a device tells by notifications only
makes the machine look: what it goes by are its own reads, which are never old. Whatever came of an execute is found out
by looking; it is made again, a few times at most, only where the device itself says that it has the image and has not
begun (a second execute changes nothing then, OMA LwM2M Core 1.2, E.6.2: Update is for the state Downloaded alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from cloud.campaigns.objects import OBJECTS, Method, UpdateObject, method_of
from schemas.avro.records import ResponseCode

#: Milliseconds: between looks at a device that is busy (they double), and how long a device may seem untouched after it
#: was told of an image.
LOOK_FIRST, LOOK_LONGEST = 2_000, 60_000
GRACE = 60_000
#: Before a request is sent again that did not reach the device.
RETRY = 10_000
#: How long a request may wait for its device; it is then answered, not sent.
EXPIRES = 3_600_000
#: Beyond that: no reply comes any more.
LOST = EXPIRES + 900_000
MOST_SENDS = 3
MOST_EXECUTES = 3
_MOST_TRACE = 40
#: What stands in a gateway's reply before why a file is not there, if it is more than not there yet.
NOT_HERE = " is not at this gateway: "


class Phase(Enum):
    """Where a device stands."""

    CHECKING = "checking"
    OBSERVING = "observing"
    SENDING = "sending"
    DOWNLOADING = "downloading"
    EXECUTING = "executing"
    UPDATING = "updating"
    ACTIVATING = "activating"
    VERIFYING = "verifying"
    UPDATED = "updated"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        return self in (Phase.UPDATED, Phase.FAILED, Phase.ABORTED)


class Ask(Enum):
    """What a request of the machine is for."""

    LOOK = "look"
    OBSERVE_STATE = "observe state"
    OBSERVE_RESULT = "observe result"
    RESET = "reset"
    TELL_URI = "tell the URI"
    SEND = "send the file"
    EXECUTE = "execute"
    ACTIVATE = "activate"
    VERSION = "version"
    FORGET_STATE = "forget state"
    FORGET_RESULT = "forget result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A request that is out. Times in epoch ms."""

    number: int
    ask: Ask
    asked: int

    @property
    def expires(self) -> int:
        return self.asked + EXPIRES


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done with each device: the object and its instance, how, and within how many milliseconds."""

    object_id: int = 5
    instance: int = 0
    method: Method = Method.AUTO
    patience: int = 86_400_000

    @property
    def row(self) -> UpdateObject:
        return OBJECTS[self.object_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device on its way. Times in epoch ms."""

    ep: str
    phase: Phase
    #: When it began, and when it came to this phase.
    began: int
    since: int
    words: str
    pending: Pending | None = None
    #: How many requests were made.
    number: int = 0
    #: When to do what `later` is, if nothing is pending.
    again: int | None = None
    later: Ask = Ask.LOOK
    pause: int = LOOK_FIRST
    method: Method = Method.AUTO
    #: How often the image was sent; whether the device was seen at work on it since.
    sends: int = 0
    moved: bool = False
    #: How often it was told to update; whether it registered since it was sent the image or told so.
    executes: int = 0
    back: bool = False
    #: The result that it had before.
    stale: int = 0
    resets: int = 0
    observed: bool = False
    held: bool = False
    trace: tuple[tuple[int, str], ...] = field(default=())


# Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The reply to the request of this number; ``values`` by resource id, of a single resource by its own."""

    number: int
    code: ResponseCode
    values: Mapping[int, object] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A notification of its state or result."""


@dataclass(frozen=True, slots=True)
class CameBack:
    """It registered (again)."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """Nobody wants it any more."""


Event = Answered | Told | CameBack | Tick | Aborted


def begin(ep: str, now: int) -> Device:
    """A device whose turn has come."""
    started = Device(ep=ep, phase=Phase.CHECKING, began=now, since=now, words="")
    return _ask(_says(started, "is asked what it has", now), Ask.LOOK, now)


def advance(device: Device, event: Event, task: Task, now: int, *, held: bool = False) -> Device:
    """The device after an event. ``held``: nothing new is begun with it for now (the campaign pauses)."""
    match event:
        case Answered():
            if device.pending is None or device.pending.number != event.number:
                return device
            return _answered(device, device.pending.ask, event, task, now, held=held)
        case Told():
            return device if device.phase.ended else _soon(device, now, 0)
        case CameBack():
            if device.phase.ended:
                return device
            return _soon(replace(_trace(device, "registered anew", now), back=True), now, 500)
        case Aborted():
            if device.phase.ended:
                return device
            return _end(device, Phase.ABORTED, f"aborted while it was {device.phase.value}: {device.words}", now)
        case Tick():
            return _tick(device, task, now, held=held)


def _tick(device: Device, task: Task, now: int, *, held: bool) -> Device:
    if not device.phase.ended and now - device.began > task.patience:
        words = f"gave up after {task.patience // 1000} s while it was {device.phase.value}: {device.words}"
        return _end(device, Phase.FAILED, words, now)
    if device.pending is not None:
        if now - device.pending.asked <= LOST:
            return device
        lost = Answered(number=device.pending.number, code=ResponseCode.UNKNOWN, message="no reply ever came")
        return _answered(device, device.pending.ask, lost, task, now, held=held)
    if device.again is None or now < device.again:
        return device
    if device.later is Ask.EXECUTE and held:
        return (
            device
            if device.held
            else replace(_says(device, "has the image and waits: the campaign pauses", now), held=True)
        )
    if device.later is Ask.EXECUTE:
        device = replace(device, executes=device.executes + 1, back=False)
    return _ask(replace(device, held=False), device.later, now)


# Requests


def _ask(device: Device, ask: Ask, now: int) -> Device:
    number = device.number + 1
    return replace(
        device, number=number, pending=Pending(number=number, ask=ask, asked=now), again=None, later=Ask.LOOK
    )


def _wait(device: Device, ask: Ask, now: int, delay: int) -> Device:
    return replace(device, pending=None, again=now + delay, later=ask)


def _soon(device: Device, now: int, delay: int) -> Device:
    """Look soon, if looking is what it waits for."""
    if device.pending is not None or device.again is None or device.later is not Ask.LOOK:
        return device
    return replace(device, again=min(device.again, now + delay), pause=LOOK_FIRST)


def _look_later(device: Device, now: int) -> Device:
    return replace(_wait(device, Ask.LOOK, now, device.pause), pause=min(device.pause * 2, LOOK_LONGEST))


# Words


def _says(device: Device, words: str, now: int, phase: Phase | None = None) -> Device:
    after = _trace(device, words, now) if words != device.words else device
    if phase is not None and phase is not device.phase:
        after = replace(after, phase=phase, since=now, pause=LOOK_FIRST)
    return replace(after, words=words)


def _trace(device: Device, words: str, now: int) -> Device:
    return replace(device, trace=(*device.trace, (now, words))[-_MOST_TRACE:])


def _end(device: Device, phase: Phase, words: str, now: int) -> Device:
    ended = replace(_says(device, words, now, phase), pending=None, again=None)
    return _ask(ended, Ask.FORGET_STATE, now) if device.observed else ended


# Replies

_GOOD = (ResponseCode.CONTENT, ResponseCode.CHANGED)


def _unreached(event: Answered) -> str | None:
    """Why the request certainly did not reach the device, or had no answer though it may be asked again; else None."""
    if event.code is ResponseCode.NOT_FOUND and event.message.startswith("no device "):
        return "it is not registered now"
    if event.code is ResponseCode.PRECONDITION_FAILED:
        return "it was not awake in time"
    if event.code is ResponseCode.UNKNOWN:
        return event.message or "it did not answer"
    if event.code is ResponseCode.INTERNAL_SERVER_ERROR:
        return event.message or "it has an internal error"
    return None


def _refusal(event: Answered) -> str:
    return event.code.value.lower().replace("_", " ") + (f" ({event.message})" if event.message else "")


def _answered(device: Device, ask: Ask, event: Answered, task: Task, now: int, *, held: bool) -> Device:
    device = replace(device, pending=None)
    if ask in (Ask.FORGET_STATE, Ask.FORGET_RESULT):
        return _ask(device, Ask.FORGET_RESULT, now) if ask is Ask.FORGET_STATE else device
    if ask in (Ask.EXECUTE, Ask.ACTIVATE):
        return _executed(device, ask, event, task, now)
    why = None if event.code in _GOOD else _unreached(event)
    # These can be done without, as it is looked at all the same: an answer that nobody can read must not hold it up.
    if ask is Ask.VERSION or (
        ask in (Ask.OBSERVE_STATE, Ask.OBSERVE_RESULT)
        and event.code in (ResponseCode.UNKNOWN, ResponseCode.INTERNAL_SERVER_ERROR)
        and device.pause > LOOK_FIRST
    ):
        why = None
    if why is not None:
        again = _wait(device, ask, now, max(RETRY, device.pause))
        return _says(replace(again, pause=min(device.pause * 2, LOOK_LONGEST)), f"waits to {ask.value}: {why}", now)
    match ask:
        case Ask.LOOK:
            return _looked(device, event, task, now, held=held)
        case Ask.RESET:
            return _ask(device, Ask.LOOK, now)
        case Ask.OBSERVE_STATE:
            return _ask(replace(device, observed=event.code in _GOOD), Ask.OBSERVE_RESULT, now)
        case Ask.OBSERVE_RESULT:
            return _send(device, now)
        case Ask.TELL_URI | Ask.SEND:
            return _sent(device, ask, event, task, now)
        case Ask.VERSION:
            version = str(event.values.get(3, "")) if event.code in _GOOD else ""
            return _updated(device, version, now)
    raise AssertionError(ask)


def _updated(device: Device, version: str, now: int) -> Device:
    told = f"; its firmware version is {version}" if version else ""
    return _end(device, Phase.UPDATED, f"is updated{told}", now)


def _looked(device: Device, event: Answered, task: Task, now: int, *, held: bool) -> Device:
    row = task.row
    if event.code not in _GOOD:
        return _end(device, Phase.FAILED, f"cannot be read /{row.number}/{task.instance}: {_refusal(event)}", now)
    state, result = event.values.get(row.state), event.values.get(row.result)
    if not isinstance(state, int) or not isinstance(result, int):
        return _end(device, Phase.FAILED, f"tells no state and result in /{row.number}/{task.instance}", now)
    match device.phase:
        case Phase.CHECKING:
            return _checked(device, event, state, result, task, now)
        case Phase.SENDING | Phase.DOWNLOADING:
            return _at_download(device, state, result, task, now, held=held)
        case Phase.UPDATING:
            return _at_update(device, state, result, task, now, held=held)
    return _look_later(device, now)


def _checked(device: Device, event: Answered, state: int, result: int, task: Task, now: int) -> Device:
    row = task.row
    if state in row.downloading or ((state not in row.states or state > row.ready) and state not in row.done):
        words = f"is busy with another image ({_state(row, state)}); waiting for its end"
        return _look_later(_says(device, words, now), now)
    if state != row.idle:
        if row.empty_uri_resets and device.resets < 2:
            reset = replace(_says(device, "has another image, which is taken back", now), resets=device.resets + 1)
            return _ask(reset, Ask.RESET, now)
        words = f"has another image ({_state(row, state)}) that has to be taken away first"
        return _end(device, Phase.FAILED, words, now)
    protocols = event.values.get(row.protocols) if row.protocols is not None else None
    delivery = event.values.get(row.delivery) if row.delivery is not None else None
    method = method_of(
        task.method,
        delivery if isinstance(delivery, int) else None,
        frozenset(protocols) if isinstance(protocols, (tuple, list, frozenset)) else None,
    )
    if isinstance(method, str):
        return _end(device, Phase.FAILED, method, now)
    ready = replace(device, method=method, stale=result)
    return _ask(_says(ready, "is ready; its state is observed", now, Phase.OBSERVING), Ask.OBSERVE_STATE, now)


def _send(device: Device, now: int) -> Device:
    pull = device.method is Method.PULL
    words = "is told where the image is" if pull else "is sent the image"
    sending = replace(
        _says(device, words, now, Phase.SENDING), sends=device.sends + 1, moved=False, back=False, executes=0
    )
    return _ask(sending, Ask.TELL_URI if pull else Ask.SEND, now)


def _sent(device: Device, ask: Ask, event: Answered, task: Task, now: int) -> Device:
    if event.code is ResponseCode.REQUEST_ENTITY_INCOMPLETE:
        _, _, why = event.message.partition(NOT_HERE)
        words = "waits for the image to come to the gateway" + (f": {why}" if why else "")
        return _wait(_says(device, words, now), ask, now, 2_000)
    if event.code not in _GOOD:
        return _end(device, Phase.FAILED, f"did not take the image: {_refusal(event)}", now)
    words = "downloads the image" if ask is Ask.TELL_URI else "has got the image and checks it"
    return _look_later(_says(device, words, now, Phase.DOWNLOADING), now)


def _state(row: UpdateObject, state: int) -> str:
    return row.states.get(state, f"state {state}")


def _failure(row: UpdateObject, result: int) -> str | None:
    if result in row.fair:
        return None
    return f"{row.failures.get(result, 'a result that is not known here')} (result {result})"


def _at_download(device: Device, state: int, result: int, task: Task, now: int, *, held: bool) -> Device:
    row = task.row
    moved = device.moved or state != row.idle or result != device.stale
    device = replace(device, moved=moved)
    late = now - device.since > GRACE
    failure = _failure(row, result)
    if failure is not None and state == row.idle and (moved or late):
        if result in row.passing and device.sends < MOST_SENDS:
            return _send(replace(_says(device, f"{failure}; once more", now), stale=result), now)
        return _end(device, Phase.FAILED, failure, now)
    if state == row.ready:
        ready = _says(device, "has the image", now, Phase.EXECUTING)
        return _tick(_wait(ready, Ask.EXECUTE, now, 0), task, now, held=held)
    if state in row.downloading:
        return _look_later(_says(device, f"downloads the image ({_state(row, state)})", now), now)
    if state in row.done and result == row.success and moved and device.stale != row.success:
        # It has updated by itself, between two looks.
        return _at_update(_says(device, "updated by itself", now, Phase.UPDATING), state, result, task, now, held=held)
    if state == row.idle:
        return _forgot(device, now) if late or device.back else _look_later(device, now)
    # It updates by itself (automatic upgrade at download), or is further than was asked for.
    return _look_later(_says(device, f"updates by itself ({_state(row, state)})", now, Phase.UPDATING), now)


def _forgot(device: Device, now: int) -> Device:
    """It is idle and tells no result: what it had of the image is gone."""
    if device.sends >= MOST_SENDS:
        words = f"forgot the image {device.sends} times (it is idle again, without a result)"
        return _end(device, Phase.FAILED, words, now)
    return _send(_says(device, "is idle again without a result, perhaps restarted", now), now)


def _executed(device: Device, ask: Ask, event: Answered, task: Task, now: int) -> Device:
    if event.code is ResponseCode.CHANGED and ask is Ask.ACTIVATE:
        return _end(device, Phase.UPDATED, "is updated and activated", now)
    if event.code is ResponseCode.CHANGED:
        # It was there to hear of it, whenever it had registered.
        return _look_later(_says(replace(device, back=False), "updates", now, Phase.UPDATING), now)
    if event.code is ResponseCode.UNKNOWN:
        # It may have been executed, so it is not asked again: its state tells.
        words = "was told to update and has not answered; its state will tell"
        return _look_later(_says(device, words, now, Phase.UPDATING), now)
    if event.code in (ResponseCode.NOT_FOUND, ResponseCode.PRECONDITION_FAILED) and _unreached(event) is not None:
        # It certainly did not hear of it.
        unheard = replace(device, executes=max(0, device.executes - 1)) if ask is Ask.EXECUTE else device
        return _says(_wait(unheard, ask, now, RETRY), f"waits to {ask.value}: {_unreached(event)}", now)
    if ask is Ask.EXECUTE and device.executes > 1:
        # It may have begun by what it was told before.
        words = f"did not take it that it was told again: {_refusal(event)}; its state will tell"
        return _look_later(_says(device, words, now, Phase.UPDATING), now)
    return _end(device, Phase.FAILED, f"refused to {ask.value}: {_refusal(event)}", now)


def _not_begun(device: Device, task: Task, now: int, *, held: bool) -> Device:
    """It was told to update, and has the image still and says that it does nothing with it."""
    if device.executes >= MOST_EXECUTES:
        words = f"was told to update {device.executes} times and has not begun; look at the device"
        return _end(device, Phase.FAILED, words, now)
    why = "registered anew" if device.back else "did nothing"
    words = f"was told to update, {why} and has the image still; is told again"
    return _tick(_wait(_says(device, words, now, Phase.EXECUTING), Ask.EXECUTE, now, 0), task, now, held=held)


def _at_update(device: Device, state: int, result: int, task: Task, now: int, *, held: bool) -> Device:
    row = task.row
    failure = _failure(row, result)
    if failure is not None:
        return _end(device, Phase.FAILED, failure, now)
    if state in row.done and result == row.success:
        if row.activate is not None:
            return _ask(_says(device, "is installed and is activated", now, Phase.ACTIVATING), Ask.ACTIVATE, now)
        return _ask(_says(device, "reports success; its version is read", now, Phase.VERIFYING), Ask.VERSION, now)
    late = now - device.since > GRACE
    if state == row.ready and result not in row.deferred and (device.back or (late and row.says_updating)):
        return _not_begun(device, task, now, held=held)
    if state == row.idle and result != row.success and (device.back or late):
        return _forgot(device, now)
    return _look_later(_says(device, f"updates ({_state(row, state)}, result {result})", now), now)
