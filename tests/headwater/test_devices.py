"""How the inventory is shown, from pictures that are made here."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cloud.inventory import Picture
from headwater.commands.devices import _devices_table
from schemas.avro.records import (
    Notification,
    ReadBody,
    Registration,
    RegistrationKind,
    RegistrationUpdate,
    RequestKind,
    ResponseCode,
    ResponsePayload,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path


def picture(devices: int, values: int) -> Picture:
    """``devices`` that each told ``values`` values."""
    made = Picture()
    for number in range(devices):
        ep = f"dev-{number:05}"
        body = RegistrationUpdate(
            ep=ep, server_id="gw", reg_id="r", address="192.0.2.7", port=40000 + number % 1000, last_up=1000
        )
        made.take(Registration(kind=RegistrationKind.UPDATE, body=body))
        for instance in range(values):
            path = Path(3303, instance, 5700)
            content = Resource(path=path, type=ResourceType.FLOAT, value=21.5)
            made.take(
                Notification(
                    ticket="t",
                    observation_id="o",
                    server_id="gw",
                    ep=ep,
                    path=str(path),
                    timestamp=1000 + instance,
                    rep=ResponsePayload(
                        code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=content)
                    ),
                )
            )
    return made


def lines(of: Picture, height: int | None) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=200).print(_devices_table(of, height))
    return out.getvalue().splitlines()


def test_table_has_the_newest_time_of_each_device() -> None:
    rows = [line for line in lines(picture(3, 2), None) if "dev-" in line]
    assert len(rows) == 3
    assert all(line.rstrip().endswith("1970-01-01T00:00:01.001Z") for line in rows)


@pytest.mark.parametrize("height", [6, 24, 60])
def test_picture_that_is_renewed_in_place_fits_the_terminal(height: int) -> None:
    shown = lines(picture(100, 1), height)
    assert len(shown) <= height
    rows = sum("dev-" in line for line in shown)
    assert rows > 0
    assert f"… and {100 - rows} more devices" in shown[-1]


@pytest.mark.timeout(60)
def test_many_devices_take_no_walk_over_all_values_for_each() -> None:
    """With such a walk this takes two thousand million steps, far beyond the limit above on any machine."""
    many = picture(20_000, 1)
    for _ in range(5):
        assert _devices_table(many, None)
