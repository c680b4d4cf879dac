"""The two objects by which a device takes an image, as rows: Firmware Update (5) and Software Management (9).

Follows OMA LwM2M Core 1.2, appendix E.6 (object 5) and OMA LWM2M Software Management 1.0 (object 9). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Method(Enum):
    """How the image comes to the device; AUTO: as the device says that it can, pull first."""

    AUTO = "auto"
    PULL = "pull"
    PUSH = "push"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateObject:
    """One row: which resource is what, and what its numbers mean.

    A package can be sent in ``idle``; in ``ready`` it is whole and checked, and ``execute`` begins the update, which
    went well when there is a state of ``done`` and the result ``success``; then ``activate`` is executed, if there is
    one.
    """

    number: int
    name: str
    package: int
    uri: int
    execute: int
    state: int
    result: int
    idle: int
    downloading: frozenset[int]
    ready: int
    done: frozenset[int]
    success: int
    #: The words of states, and of the results that are failures; ``fair`` are results that are none.
    states: Mapping[int, str]
    failures: Mapping[int, str]
    fair: frozenset[int]
    #: Those after which the image is sent again.
    passing: frozenset[int]
    protocols: int | None = None
    delivery: int | None = None
    activate: int | None = None
    #: Results by which the device says that it updates later, when it may.
    deferred: frozenset[int] = frozenset()
    #: True if it has a state for an update that is under way, so that one in ``ready`` is doing nothing.
    says_updating: bool = False
    #: True if an empty URI takes back a package that is there.
    empty_uri_resets: bool = False


OBJECTS: Mapping[int, UpdateObject] = {
    5: UpdateObject(
        number=5,
        name="firmware",
        package=0,
        uri=1,
        execute=2,
        state=3,
        result=5,
        protocols=8,
        delivery=9,
        idle=0,
        downloading=frozenset({1}),
        ready=2,
        done=frozenset({0}),
        success=1,
        states={0: "idle", 1: "downloading", 2: "downloaded", 3: "updating"},
        failures={
            2: "not enough flash memory for the package",
            3: "out of memory while it downloaded",
            4: "the connection was lost while it downloaded",
            5: "the package is damaged: its integrity check failed",
            6: "the package is of a type that the device does not take",
            7: "the URI is not one that the device can use",
            8: "the update itself failed",
            9: "the device does not speak the protocol of the URI",
            10: "the update was cancelled",
        },
        fair=frozenset({0, 1, 11}),
        deferred=frozenset({11}),
        passing=frozenset({4}),
        says_updating=True,
        empty_uri_resets=True,
    ),
    9: UpdateObject(
        number=9,
        name="software",
        package=2,
        uri=3,
        execute=4,
        state=7,
        result=9,
        idle=0,
        downloading=frozenset({1, 2}),
        ready=3,
        done=frozenset({4}),
        success=2,
        states={0: "initial", 1: "download started", 2: "downloaded", 3: "delivered", 4: "installed"},
        failures={
            50: "not enough storage for the package",
            51: "out of memory while it downloaded",
            52: "the connection was lost while it downloaded",
            53: "the package is damaged: its integrity check failed",
            54: "the package is of a type that the device does not take",
            56: "the URI is not one that the device can use",
            57: "the device says that the update failed",
            58: "the installation failed",
            59: "the uninstallation failed",
        },
        fair=frozenset({0, 1, 2, 3}),
        passing=frozenset({52}),
        activate=10,
    ),
}

#: Firmware Update Delivery Method (5/0/9): what each value can.
_DELIVERY: Mapping[int, frozenset[Method]] = {
    0: frozenset({Method.PULL}),
    1: frozenset({Method.PUSH}),
    2: frozenset({Method.PULL, Method.PUSH}),
}
#: Firmware Update Protocol Support (5/0/8): CoAP and CoAPS, which the gateway's file server speaks.
_COAP = frozenset({0, 1})


def method_of(asked: Method, delivery: int | None, protocols: frozenset[int] | None) -> Method | str:
    """How to send the image to a device that says this of itself; or why it cannot be sent, in words."""
    can = _DELIVERY.get(2 if delivery is None else delivery, _DELIVERY[2])
    if protocols and not protocols & _COAP:
        can -= {Method.PULL}
    if asked is Method.AUTO:
        return (
            Method.PULL if Method.PULL in can else Method.PUSH if can else "it can neither fetch from CoAP nor be sent"
        )
    if asked in can:
        return asked
    other = "push" if asked is Method.PULL else "pull"
    return f"the device does not take images by {asked.value}; try --method {other}"
