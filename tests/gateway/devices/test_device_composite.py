"""A virtual device asked for several paths at once, with a plain aiocoap context as its server."""

from __future__ import annotations

import pytest
from aiocoap.numbers import codes

from schemas.lwm2m import composite
from schemas.lwm2m.nodes import Resource, ResourceType, Value
from schemas.lwm2m.path import Path
from tests.gateway.devices.lwm2m_server import DEFINITIONS
from tests.gateway.devices.test_device import Rig, play, running

every_format = pytest.mark.parametrize("content_format", composite.REQUEST_FORMATS, ids=lambda one: one.name)


def paths(*texts: str) -> tuple[Path, ...]:
    return tuple(map(Path.parse, texts))


async def fetch(rig: Rig, content_format: int, *asked: str) -> dict[str, Value]:
    payload = composite.encode_paths(content_format, paths(*asked))
    options = {"content_format": content_format, "accept": composite.PLAIN.get(content_format, content_format)}
    answer = await rig.server.ask(rig.port, codes.FETCH, "/", payload, **options)
    assert answer.code is codes.CONTENT, answer.payload
    found = composite.decode_values(content_format, answer.payload, paths(*asked), DEFINITIONS)
    return {str(one.path): one.value for one in found}


@every_format
def test_what_is_there_of_the_paths_is_read_and_the_rest_left_out(content_format: int) -> None:
    async def scenario() -> None:
        async with running() as rig:
            model = rig.sensor.model
            # /3/0/4 is executable, /3303/9 and /4242 are not there.
            found = await fetch(rig, content_format, "/3/0/0", "/3/0/4", "/3303/0/5700", "/3303/9", "/4242")
            assert found == {
                "/3/0/0": model.value(Path(3, 0, 0)),
                "/3303/0/5700": model.value(Path(3303, 0, 5700)),
            }
            if content_format != 11544:
                everything = await fetch(rig, content_format, "/")
                assert {path.split("/")[1] for path in everything} >= {"1", "3", "3303", "3304"}

    play(scenario)


@every_format
def test_all_is_written_or_nothing(content_format: int) -> None:
    zone, life = Path(3, 0, 14), Path(1, 0, 1)

    def payload(*resources: Resource) -> bytes:
        return composite.encode_values(content_format, resources, DEFINITIONS)

    async def scenario() -> None:
        async with running() as rig:
            model = rig.sensor.model
            hour = Resource(path=zone, type=ResourceType.STRING, value="+09:00")
            minute = Resource(path=life, type=ResourceType.INTEGER, value=90)
            before = model.value(zone)
            for wrong, code in (
                (Resource(path=Path(3, 0, 0), type=ResourceType.STRING, value="me"), codes.METHOD_NOT_ALLOWED),
                (Resource(path=Path(1, 9, 1), type=ResourceType.INTEGER, value=9), codes.NOT_FOUND),
            ):
                refused = await rig.server.ask(
                    rig.port, codes.iPATCH, "/", payload(hour, wrong), content_format=content_format
                )
                assert refused.code is code, refused.payload
                assert model.value(zone) == before
            written = await rig.server.ask(
                rig.port, codes.iPATCH, "/", payload(hour, minute), content_format=content_format
            )
            assert written.code is codes.CHANGED, written.payload
            assert (model.value(zone), model.value(life)) == ("+09:00", 90)

    play(scenario)


def test_what_is_no_composite_request_is_refused() -> None:
    async def scenario() -> None:
        async with running() as rig:
            for code, payload, options, expected in (
                (codes.FETCH, b"/3/0/0", {"content_format": 0}, codes.UNSUPPORTED_CONTENT_FORMAT),
                (codes.FETCH, b"[]", {}, codes.UNSUPPORTED_CONTENT_FORMAT),
                (codes.FETCH, b"[]", {"content_format": 110, "accept": 11542}, codes.NOT_ACCEPTABLE),
                (codes.FETCH, b"[{}", {"content_format": 110}, codes.BAD_REQUEST),
                (codes.iPATCH, b"[{}", {"content_format": 110}, codes.BAD_REQUEST),
                (codes.iPATCH, b"", {"content_format": 11542}, codes.UNSUPPORTED_CONTENT_FORMAT),
            ):
                answer = await rig.server.ask(rig.port, code, "/", payload, **options)
                assert answer.code is expected, (code, payload, answer.payload)

    play(scenario)
