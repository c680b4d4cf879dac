"""Live registrations in memory, and the memory of message ids against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import registry as registry_module
from gateway.coap.exchanges import Address
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


def test_devices_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MOST_DEVICES", 2)
    registry = Registry()
    registry.add(_device("a", "r1"))
    assert registry.has_room("b", "")
    registry.add(_device("b", "r2"))
    assert not registry.has_room("c", "")
    assert registry.has_room("a", "")  # who is registered may register anew
    registry.remove("b")
    assert registry.has_room("c", "")


def test_links_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MOST_ANNOUNCED", 20)
    registry = Registry()
    device = _device("a", "r1", links="</3/0>,</1/0>")
    registry.add(device)
    assert not registry.has_room("b", "</3/0>,</1/0>")
    assert registry.has_room("b", "</3/0>")
    assert registry.has_room("a", "</3/0>,</1/0>,</5/0>")
    registry.announce(device, parse_announcement(b"</3/0>"))
    assert device.announcement.text == "</3/0>"
    assert registry.has_room("b", "</3/0>,</1/0>")
    registry.add(_device("a", "r2", links="</3/0>,</1/0>"))
    assert not registry.has_room("b", "</3/0>,</1/0>")
    registry.announce(device, parse_announcement(b""))  # one that is registered no more counts for nothing
    registry.remove("a")
    assert registry._announced == 0


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
