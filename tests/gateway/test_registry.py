"""Live registrations in memory, and the memory of message ids against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import registry as registry_module
from gateway.coap.peers import Address
from gateway.registration import parse_announcement
from gateway.registry import WINDOW, Device, KafkaPlace, MidWindow, Registry
from schemas.avro.records import Binding
from schemas.lwm2m.path import Path

HERE: Address = ("127.0.0.1", 5000)
THERE: Address = ("127.0.0.1", 5001)


def _device(
    ep: str = "a", reg_id: str = "r1", *, address: Address = HERE, lifetime: int = 60, last_up: int = 0, links: str = ""
) -> Device:
    return Device(
        ep=ep,
        reg_id=reg_id,
        address=address,
        lifetime=lifetime,
        version="1.1",
        binding=Binding.U,
        queue=False,
        sms=None,
        announcement=parse_announcement(links.encode()),
        attributes={},
        reg_date=0,
        last_up=last_up,
        place=KafkaPlace(key=b"k", observations=0, registrations=0, replies=0),
    )


def test_device_is_found_by_name_id_and_address() -> None:
    registry = Registry()
    device = _device()
    assert registry.add(device) is None
    assert registry.device("a") is registry.registration("r1") is registry.at(HERE) is device
    assert list(registry) == [device]
    assert len(registry) == 1


def test_registering_again_replaces_the_old_registration() -> None:
    registry = Registry()
    old, new = _device(), _device(reg_id="r2", address=THERE)
    registry.add(old)
    assert registry.add(new) is old
    assert registry.registration("r1") is None
    assert registry.at(HERE) is None
    assert registry.device("a") is registry.at(THERE) is new
    assert len(registry) == 1


def test_removed_device_is_gone_everywhere_and_removing_again_is_harmless() -> None:
    registry = Registry()
    device = _device()
    registry.add(device)
    assert registry.remove("a") is device
    assert registry.remove("a") is None
    assert registry.device("a") is registry.registration("r1") is registry.at(HERE) is None


def test_address_moves_with_the_device() -> None:
    registry = Registry()
    device = _device()
    registry.add(device)
    registry.move(device, THERE)
    assert registry.at(HERE) is None
    assert registry.at(THERE) is device
    assert device.address == THERE


def test_address_belongs_to_who_spoke_last_from_it() -> None:
    registry = Registry()
    first, second = _device("a", "r1"), _device("b", "r2")
    registry.add(first)
    registry.add(second)
    assert registry.at(HERE) is second
    registry.remove("a")
    assert registry.at(HERE) is second
    registry.move(second, THERE)
    assert registry.at(HERE) is None


def test_device_expires_when_its_lifetime_has_passed_and_is_told_once() -> None:
    registry = Registry()
    device = _device(lifetime=60)
    registry.add(device)
    assert registry.expired(59_999) == []
    assert registry.expired(60_000) == [device]
    assert registry.expired(60_001) == []
    assert registry.device("a") is device  # until it is removed


def test_update_puts_the_expiry_off() -> None:
    registry = Registry()
    device = _device(lifetime=60)
    registry.add(device)
    device.last_up = 50_000
    assert registry.expired(60_000) == []
    assert registry.expired(109_999) == []
    assert registry.expired(110_000) == [device]


def test_lifetime_of_zero_has_no_end() -> None:
    registry = Registry()
    device = _device(lifetime=0)
    registry.add(device)
    assert registry.expired(2**50) == []
    # Until it gets one.
    device.lifetime = 10
    registry.sooner(device)
    assert registry.expired(10_000) == [device]
    registry.remove(device.ep)
    other = _device(lifetime=60)
    registry.add(other)
    other.lifetime = 0
    assert registry.expired(60_000) == registry.expired(2**50) == []


def test_shorter_lifetime_is_seen_to_sooner() -> None:
    registry = Registry()
    device = _device(lifetime=86400)
    registry.add(device)
    device.lifetime = 10
    registry.sooner(device)
    assert registry.expired(10_000) == [device]
    assert registry.expired(86_400_000) == []


def test_device_whose_expiry_could_not_be_recorded_is_told_again() -> None:
    registry = Registry()
    device = _device(lifetime=60)
    registry.add(device)
    assert registry.expired(60_000) == [device]
    registry.sooner(device)
    assert registry.expired(60_500) == [device]


def test_device_that_registered_again_expires_by_its_new_lifetime() -> None:
    registry = Registry()
    registry.add(_device(lifetime=60))
    new = _device(reg_id="r2", lifetime=60, last_up=30_000)
    registry.add(new)
    assert registry.expired(60_000) == []
    assert registry.expired(90_000) == [new]


def test_removed_device_does_not_expire() -> None:
    registry = Registry()
    registry.add(_device())
    registry.remove("a")
    assert registry.expired(10**12) == []


def test_expiries_do_not_grow_with_updates_and_registrations() -> None:
    registry = Registry()
    for number in range(2000):
        device = _device(reg_id=f"r{number}", lifetime=86400, last_up=number)
        registry.add(device)
        device.lifetime = 86400 - number
        registry.sooner(device)
    assert len(registry._expiries) < 100
    assert registry.expired(10**9) == [device]


def _room(registry: Registry, ep: str, links: str = "", attributes: dict[str, str] | None = None) -> bool:
    return registry.has_room(ep, parse_announcement(links.encode()), attributes or {})


def test_devices_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MOST_DEVICES", 2)
    registry = Registry()
    registry.add(_device("a", "r1"))
    assert _room(registry, "b")
    registry.add(_device("b", "r2"))
    assert not _room(registry, "c")
    assert _room(registry, "a")  # who is registered may register anew
    registry.remove("b")
    assert _room(registry, "c")


def test_links_at_once_are_bounded_by_the_memory_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = "</3/0>", "</3/0>,</1/0>", "</3/0>,</1/0>,</5/0>"
    monkeypatch.setattr(registry_module, "MOST_ANNOUNCED", parse_announcement(three.encode()).cost)
    registry = Registry()
    device = _device("a", "r1", links=two)
    registry.add(device)
    assert not _room(registry, "b", one)
    assert _room(registry, "b", two)  # the same links take no more
    assert _room(registry, "a", three)
    assert not _room(registry, "a", three, {"mine": "x"})
    registry.announce(device, parse_announcement(one.encode()))
    assert device.announcement.text == one
    assert not _room(registry, "b", two)
    registry.add(_device("b", "r2", links=one))
    assert not _room(registry, "a", three)  # what is "b"'s as well stays
    registry.remove("b")
    assert _room(registry, "a", three)
    # What waits to become durable takes memory already.
    coming = registry.hold(parse_announcement(two.encode()))
    assert not _room(registry, "a", three)
    registry.release(coming)
    registry.add(_device("a", "r3", links=two))
    registry.announce(device, parse_announcement(b""))  # one that is registered no more counts for nothing
    registry.remove("a")
    assert registry._announced == 0 and registry._held == {}


def test_what_devices_say_alike_is_kept_once_however_long_it_is() -> None:
    links = ",".join(f"</{3300 + number}/0>;ver=1.1" for number in range(200))
    registry = Registry()
    registry.add(_device("a", "r1", links=links))
    registry.add(_device("b", "r2", links=links))
    first, second = registry.device("a"), registry.device("b")
    assert first is not None and second is not None and first.announcement is second.announcement
    registry.announce(first, parse_announcement(b""))
    registry.announce(first, parse_announcement(links.encode()))
    assert first.announcement is second.announcement


def test_own_parameters_count_and_a_device_with_the_same_again_is_never_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    attributes = {f"name{number}": "value" for number in range(60)}
    device = _device("a", "r1", links="</3/0>")
    device.attributes = attributes
    registry.add(device)
    monkeypatch.setattr(registry_module, "MOST_ANNOUNCED", registry._announced)
    assert _room(registry, "a", "</3/0>", attributes)
    assert not _room(registry, "a", "</3/0>", {**attributes, "one": "more"})
    assert not _room(registry, "b", "</3/0>", {"one": "more"})
    assert _room(registry, "b", "</3/0>")
    monkeypatch.setattr(registry_module, "MOST_ANNOUNCED", 0)
    assert _room(registry, "a", "</3/0>", attributes)
    registry.remove("a")
    assert registry._announced == 0


def test_fleets_fit() -> None:
    registry = Registry()
    alike = '</>;rt="oma.lwm2m";ct="110 112",' + ",".join(f"</{3300 + number}/0>" for number in range(20))
    for number in range(50_000):
        assert _room(registry, f"a{number}", alike)
        registry.add(_device(f"a{number}", f"a{number}", address=("127.0.0.1", number), links=alike))
    for number in range(5_000):
        links = "</1/0>,</3/0>,</4/0>,</5/0>" + "".join(f",</{3300 + at}/{number}>" for at in range(16))
        assert _room(registry, f"b{number}", links)
        registry.add(_device(f"b{number}", f"b{number}", links=links))
    assert len(registry) == 55_000


def test_uri_path_has_the_alternate_root_in_front() -> None:
    assert _device().uri_path(Path(3, 0, 1)) == ("3", "0", "1")
    device = _device(links='</lw/m2m>;rt="oma.lwm2m"')
    assert device.uri_path(Path(3, 0, 1)) == ("lw", "m2m", "3", "0", "1")
    assert device.view().root == "/lw/m2m"


_MIDS = st.integers(0, 80).map(lambda number: (number * 257 % 65536).to_bytes(2, "big"))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _MIDS, st.integers(0, 9)),
        st.tuples(st.just("put"), st.binary(min_size=2, max_size=2), st.integers(0, 9)),
        st.tuples(st.just("drop"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("drop_one"), _MIDS, st.just(0)),
    ),
    max_size=200,
)


@given(_STEPS)
def test_window_remembers_as_a_plain_list_does(steps: list[tuple[str, bytes | int, int]]) -> None:
    window = MidWindow()
    model: list[tuple[bytes, int]] = []  # oldest first
    for step, one, two in steps:
        if step == "put":
            assert isinstance(one, bytes)
            window.put(one, two)
            known = [at for at, (mid, _) in enumerate(model) if mid == one]
            if known:
                model[known[0]] = (one, two)
            else:
                model = [*model, (one, two)][-WINDOW:]
        elif step == "drop":
            assert isinstance(one, int)
            window.drop(one, two)
            model = [(mid, mark) for mid, mark in model if not one <= mark <= two]
        else:
            assert isinstance(one, bytes)
            window.drop_one(one)
            model = [(mid, mark) for mid, mark in model if mid != one]
        for mid, mark in model:
            at = window.find(mid)
            assert at >= 0
            assert window.marks[at] == mark
        assert len(window.marks) == len(model)
        for number in range(0, 65536, 1031):
            mid = number.to_bytes(2, "big")
            assert (window.find(mid) >= 0) == any(mid == known for known, _ in model)


def test_id_that_lies_across_two_others_is_not_found() -> None:
    window = MidWindow()
    window.put(b"\x01\x02", 1)
    window.put(b"\x03\x04", 2)
    assert window.find(b"\x02\x03") == -1
    window.put(b"\x02\x03", 3)
    assert window.marks[window.find(b"\x02\x03")] == 3
    window.clear()
    assert window.find(b"\x01\x02") == -1


def test_devices_are_counted_by_the_version_that_they_speak() -> None:
    registry = Registry()
    assert registry.by_version == {"1.0": 0, "1.1": 0, "1.2": 0}
    registry.add(_device())
    registry.add(_device("b", "r2", address=THERE))
    assert registry.by_version["1.1"] == 2
    again = _device("b", "r3", address=THERE)
    again.version = "1.0"
    registry.add(again)
    assert (registry.by_version["1.0"], registry.by_version["1.1"]) == (1, 1)
    registry.remove("b")
    registry.remove("b")
    assert (registry.by_version["1.0"], registry.by_version["1.1"]) == (0, 1)
