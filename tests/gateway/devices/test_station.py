"""A station of a sensor city against a plain aiocoap context as its server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiocoap.numbers import codes

from gateway.devices.client import DeviceConfig, Version
from gateway.devices.course import Outliers
from gateway.devices.gauge import shown
from gateway.devices.metrics import CITY, METRICS
from gateway.devices.sensor import Tally
from gateway.devices.station import Made, Station, run_stations
from schemas.lwm2m.link import parse_links
from schemas.lwm2m.nodes import Instance, Resource
from schemas.lwm2m.path import Path
from tests.gateway.devices.lwm2m_server import Server, serve

NOW = 1_700_000_000_123
RIVER = METRICS["water_level"]


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def station(
    *, seed: int = 1, version: Version = Version.V1_1, made: list[Made] | None = None, rate: float = 0.0
) -> Station:
    return Station(
        DeviceConfig(endpoint="station-1", server_host="127.0.0.1", server_port=5683, version=version),
        CITY.values(),
        lifetime=60,
        outliers=Outliers(rate=rate),
        tally=Tally(),
        random_source=random.Random(seed),
        clock=lambda: NOW,
        on_outlier=None if made is None else made.append,
    )


def told(one: Station, path: Path) -> dict[int, Any]:
    node = one.model.read(path)
    assert isinstance(node, Instance)
    return {part.path.ids[2]: part.value for part in node.resources if isinstance(part, Resource)}


def values_of(one: Station) -> list[float]:
    return [shown(one.model, metric.instance) for metric in CITY.values()]


def instances(links: str) -> set[Path]:
    return {Path.parse(link.url) for link in parse_links(links) if link.url.count("/") == 2}


def test_station_tells_value_unit_range_kind_and_time_of_each_sensor() -> None:
    one = station()
    humidity = told(one, Path(3304, 0))
    assert (humidity[5701], humidity[5603], humidity[5604]) == ("%RH", 0.0, 100.0)
    assert humidity[5750] == "relative humidity"
    assert humidity[5518] == 1_700_000_000_000
    air = told(one, Path(3300, 0))
    assert air[5751] == "air quality index"
    assert 5701 not in air
    assert told(one, Path(3346, 0))[5701] == "m/s"
    assert told(one, Path(3346, 1))[5701] == "mm/h"


def test_station_of_lwm2m_1_0_has_what_the_first_versions_of_its_objects_have() -> None:
    temperature = told(station(version=Version.V1_0), Path(3303, 0))
    assert set(temperature) == {5700, 5601, 5602, 5603, 5701}


def test_measuring_moves_every_sensor_and_its_extremes() -> None:
    one = station()
    seen = [values_of(one)]
    for _ in range(20):
        one.measure()
        seen.append(values_of(one))
    for place, metric in enumerate(CITY.values()):
        column = [row[place] for row in seen]
        assert len(set(column)) > 1
        now = told(one, metric.instance)
        assert (now[5601], now[5602]) == (min(column), max(column))


def test_seeded_stations_repeat_and_a_sensor_more_changes_no_other() -> None:
    one, same, other = station(), station(), station(seed=2)
    same.add(RIVER)
    for each in (one, same, other):
        for _ in range(50):
            each.measure()
    assert values_of(one) == values_of(same)
    assert values_of(one) != values_of(other)


def test_every_outlier_is_told_when_it_is_made() -> None:
    made: list[Made] = []
    one = station(made=made, rate=0.2)
    seen: set[tuple[Path, float]] = set()
    made.clear()
    for _ in range(100):
        one.measure()
        seen |= {(metric.path, shown(one.model, metric.instance)) for metric in CITY.values()}
    assert len(made) == pytest.approx(180, rel=0.3)
    assert {(outlier.path, outlier.value) for outlier in made} <= seen
    assert {(outlier.ep, outlier.timestamp) for outlier in made} == {("station-1", NOW)}
    for metric in CITY.values():
        far = metric.distribution.sigma * 6.0 - 1e-6
        mine = [abs(outlier.value - metric.distribution.mean) for outlier in made if outlier.path == metric.path]
        assert mine
        assert min(mine) >= far


def test_sensor_that_is_there_is_not_added_again() -> None:
    one = station()
    assert one.add(RIVER) is True
    assert one.add(RIVER) is False
    assert one.add(CITY["noise"]) is False
    assert one.sensors == [*(metric.instance for metric in CITY.values()), RIVER.instance]


async def _registered(server: Server, count: int) -> dict[str, str]:
    """The links of the next ``count`` registrations by endpoint."""
    found = {}
    for _ in range(count):
        seen = await server.directory.next()
        assert seen.code == str(codes.POST)
        found[seen.query["ep"]] = seen.payload
    return found


def test_stations_register_are_observed_and_get_a_new_kind_of_sensor_while_they_run() -> None:
    async def scenario() -> None:
        async with serve() as server:
            stop, more = asyncio.Event(), asyncio.Event()
            life = asyncio.create_task(
                run_stations(
                    f"127.0.0.1:{server.port}",
                    "station",
                    stop=stop,
                    count=2,
                    later=[RIVER],
                    more=more,
                    period=0.05,
                    outliers=Outliers(),
                    seed=1,
                )
            )
            try:
                links = await _registered(server, 2)
                assert set(links) == {"station-1", "station-2"}
                expected = {Path(1, 0), Path(3, 0), *(metric.instance for metric in CITY.values())}
                assert all(instances(text) == expected for text in links.values())
                more.set()
                updates = [await server.directory.next() for _ in range(2)]
                assert all(instances(seen.payload) == expected | {RIVER.instance} for seen in updates)
                river = server.observe(updates[0].port, str(RIVER.path))
                assert await river.first() != await river.next()
                temperature = server.observe(updates[0].port, str(CITY["temperature"].path))
                assert await temperature.first() != await temperature.next()
            finally:
                stop.set()
                async with asyncio.timeout(20):
                    await life

    play(scenario)


def test_sensors_of_later_come_after_the_time_given() -> None:
    async def scenario() -> None:
        async with serve() as server:
            stop = asyncio.Event()
            life = asyncio.create_task(
                run_stations(
                    f"127.0.0.1:{server.port}",
                    "thermometer",
                    stop=stop,
                    metrics=[CITY["temperature"]],
                    later=[CITY["noise"], RIVER],
                    after=0.2,
                    outliers=Outliers(),
                )
            )
            try:
                wanted = {CITY["temperature"].instance, CITY["noise"].instance, RIVER.instance}
                async with asyncio.timeout(20):
                    while not wanted <= instances((await server.directory.next()).payload):
                        pass
            finally:
                stop.set()
                async with asyncio.timeout(20):
                    await life

    play(scenario)


def test_server_that_is_none_is_told_as_such() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="no HOST:PORT"):
            await run_stations("nowhere", "station", stop=asyncio.Event(), outliers=Outliers())

    play(scenario)
