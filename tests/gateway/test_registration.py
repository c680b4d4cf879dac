"""The parameters and links of Register and Update (OMA LwM2M Core 1.1, section 6.2), one by one."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import registration
from gateway.coap.message import Code
from gateway.registration import (
    Announcement,
    Parameters,
    Refused,
    attributes_cost,
    is_queued,
    parse_announcement,
    parse_parameters,
)
from schemas.avro.records import Binding
from schemas.lwm2m import path
from schemas.lwm2m.path import Path

GOOD: list[tuple[list[str], Parameters]] = [
    ([], Parameters()),
    (["ep=urn:imei:1"], Parameters(ep="urn:imei:1")),
    (["ep=Gerät 7 ☃"], Parameters(ep="Gerät 7 ☃")),
    (["ep=a=b"], Parameters(ep="a=b")),
    (["ep=" + "e" * 252], Parameters(ep="e" * 252)),
    (["lt=1"], Parameters(lifetime=1)),
    (["lt=86400"], Parameters(lifetime=86400)),
    (["lt=2147483647"], Parameters(lifetime=2**31 - 1)),
    (["lwm2m=1.0"], Parameters(version="1.0")),
    (["lwm2m=1.1"], Parameters(version="1.1")),
    (["lwm2m=1.2"], Parameters(version="1.2")),
    (["b=U"], Parameters(binding=Binding.U)),
    (["b=UQ"], Parameters(binding=Binding.UQ)),
    (["b=UQQ"], Parameters(binding=Binding.UQ)),
    (["b=S"], Parameters(binding=Binding.S)),
    (["b=SQ"], Parameters(binding=Binding.SQ)),
    (["b=US"], Parameters(binding=Binding.US)),
    (["b=UQS"], Parameters(binding=Binding.UQS)),
    (["b=U", "Q"], Parameters(binding=Binding.UQ)),
    (["b=U", "Q="], Parameters(binding=Binding.UQ)),
    (["Q"], Parameters(binding=Binding.UQ)),
    (["b=US", "Q"], Parameters(binding=Binding.UQS)),
    (["lt=0"], Parameters(lifetime=0)),
    (["b=UT"], Parameters(binding=Binding.U)),
    (["b=UMHTN", "Q"], Parameters(binding=Binding.UQ)),
    (["sms=+491234"], Parameters(sms="+491234")),
    (["ep=x", "vendor=acme", "flag"], Parameters(ep="x", attributes={"vendor": "acme", "flag": ""})),
]


@pytest.mark.parametrize(("queries", "expected"), GOOD, ids=[str(queries)[:40] for queries, _ in GOOD])
def test_parameter_is_read(queries: list[str], expected: Parameters) -> None:
    assert parse_parameters(queries) == expected


BAD: list[tuple[list[str], Code]] = [
    (["ep="], Code.BAD_REQUEST),
    (["ep"], Code.BAD_REQUEST),
    (["ep=a\x00b"], Code.BAD_REQUEST),
    (["ep=a\nb"], Code.BAD_REQUEST),
    (["ep=" + "e" * 256], Code.BAD_REQUEST),
    (["ep=a", "ep=b"], Code.BAD_REQUEST),
    (["ep=a", "ep=a"], Code.BAD_REQUEST),
    (["lt=-1"], Code.BAD_REQUEST),
    (["lt=+1"], Code.BAD_REQUEST),
    (["lt="], Code.BAD_REQUEST),
    (["lt"], Code.BAD_REQUEST),
    (["lt= 60"], Code.BAD_REQUEST),
    (["lt=60.0"], Code.BAD_REQUEST),
    (["lt=6e1"], Code.BAD_REQUEST),
    (["lt=٣"], Code.BAD_REQUEST),
    (["lt=²"], Code.BAD_REQUEST),
    (["lt=2147483648"], Code.BAD_REQUEST),
    (["lt=" + "9" * 250], Code.BAD_REQUEST),
    (["lt=60", "lt=61"], Code.BAD_REQUEST),
    (["lwm2m=1.3"], Code.PRECONDITION_FAILED),
    (["lwm2m=1"], Code.PRECONDITION_FAILED),
    (["lwm2m=2.0"], Code.PRECONDITION_FAILED),
    (["lwm2m="], Code.PRECONDITION_FAILED),
    (["lwm2m=1.1", "lwm2m=1.0"], Code.BAD_REQUEST),
    (["b="], Code.BAD_REQUEST),
    (["b=X"], Code.BAD_REQUEST),
    (["b=u"], Code.BAD_REQUEST),
    (["b=U", "b=UQ"], Code.BAD_REQUEST),
    (["b=U", "Q=1"], Code.BAD_REQUEST),
    (["sms="], Code.BAD_REQUEST),
    (["sms=hello"], Code.BAD_REQUEST),
    (["sms=+49 1234"], Code.BAD_REQUEST),
    (["sms=1234567890123456"], Code.BAD_REQUEST),
    (["sms=\u0661"], Code.BAD_REQUEST),
    (["vendor=1", "vendor=2"], Code.BAD_REQUEST),
]


@pytest.mark.parametrize(("queries", "code"), BAD, ids=[str(queries)[:40] for queries, _ in BAD])
def test_parameter_is_refused(queries: list[str], code: Code) -> None:
    with pytest.raises(Refused) as refused:
        parse_parameters(queries)
    assert refused.value.code is code
    assert str(refused.value)


@given(st.lists(st.text(max_size=20), max_size=8))
def test_any_queries_are_read_or_refused(queries: list[str]) -> None:
    try:
        parse_parameters(queries)
    except Refused as refused:
        assert refused.code in (Code.BAD_REQUEST, Code.PRECONDITION_FAILED)


@pytest.mark.parametrize("binding", list(Binding))
def test_queue_mode_is_that_of_the_bindings_with_q(binding: Binding) -> None:
    assert is_queued(binding) == ("Q" in binding.name)


def _paths(said: Announcement) -> list[str]:
    return [str(path) for path in said.paths]


def test_objects_and_instances_are_announced() -> None:
    said = parse_announcement(b"</1/0>,</3/0>,</3303/0>;ver=1.1,</3303/1>,</5>")
    assert _paths(said) == ["/1/0", "/3/0", "/3303/0", "/3303/1", "/5"]
    assert said.root == "/"
    assert said.content_formats is None
    assert said.object_versions == {3303: "1.1"}
    assert said.links[2].at == {"ver": "1.1"}


def test_root_link_tells_the_formats() -> None:
    said = parse_announcement(b'</>;rt="oma.lwm2m";ct="110 112",</3/0>')
    assert said.root == "/"
    assert said.content_formats == frozenset({110, 112})
    assert _paths(said) == ["/3/0"]


def test_formats_are_told_without_rt_too() -> None:
    said = parse_announcement(b"</>;ct=110,</1/0>,</3/0>")
    assert (said.root, said.content_formats) == ("/", frozenset({110}))
    # Of another path they say nothing.
    assert parse_announcement(b'</1/0>;ct=110,</x>;ct=112,</lwm2m>;rt="oma.lwm2m"').content_formats is None
    apart = parse_announcement(b'</lwm2m>;rt="oma.lwm2m",</lwm2m>;ct=112,</lwm2m/3/0>')
    assert (apart.root, apart.content_formats) == ("/lwm2m", frozenset({112}))


def test_root_link_tells_the_alternate_path() -> None:
    said = parse_announcement(b'</lwm2m>;rt="oma.lwm2m";ct=11542,</lwm2m/3/0>,</lwm2m/3303/0>,</other/1/0>')
    assert said.root == "/lwm2m"
    assert said.content_formats == frozenset({11542})
    assert _paths(said) == ["/3/0", "/3303/0"]
    assert len(said.links) == 4  # the record has all that was said


def test_path_that_only_begins_like_the_root_is_not_below_it() -> None:
    assert _paths(parse_announcement(b'</a>;rt="oma.lwm2m",</ab/3/0>,</a/1/0>')) == ["/1/0"]


def test_object_version_may_be_quoted() -> None:
    assert parse_announcement(b'</3>;ver="1.2",</3/0>').object_versions == {3: "1.2"}


def test_links_of_another_kind_stand_beside_ours() -> None:
    said = parse_announcement(b"</.well-known/core>,</3/0>,</sensors/temp>;if=core.s,</3/0/1>,</70000/0>")
    assert _paths(said) == ["/3/0"]


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xfe", b"</3/0", b"</3/0>,", b"3/0", b"</3/0>;=1", b'</3/0>;ver="1', b"\x00", b"</3/0></1/0>"],
)
def test_payload_that_is_no_link_format_is_refused(payload: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_announcement(payload)
    assert refused.value.code is Code.BAD_REQUEST


def test_content_formats_that_are_none_are_left_out() -> None:
    huge = b"9" * 6000
    said = parse_announcement(b'</>;rt="oma.lwm2m";ct="110 x -1 ' + huge + b' 11542"')
    assert said.content_formats == frozenset({110, 11542})


@given(st.binary(max_size=60).map(lambda rest: b"</3/0>;ver=1.1," + rest))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    try:
        said = parse_announcement(payload)
    except Refused:
        return
    assert all(1 <= path.depth <= 2 for path in said.paths)


def test_same_announcements_share_one_value() -> None:
    assert parse_announcement(b"</3/0>,</1/0>") is parse_announcement(b"</3/0>,</1/0>")
    assert parse_announcement(b"</3/0>").paths == (Path(3, 0),)


@pytest.mark.parametrize(
    "text",
    [
        "</1/0>",
        ",".join(["<a>"] * 500),
        ",".join(["<a>;a"] * 400),
        ",".join(f"</3303/{number}>" for number in range(150)),
        ",".join(f"</{number + 1000}/1>;ver=1.1" for number in range(110)),
        '</>;rt="oma.lwm2m";ct="110 112",' + ",".join(f"</{3300 + number}/7>" for number in range(20)),
        "<a>" + "".join(f";x{number}=y{number}" for number in range(180)),
        '</>;rt="oma.lwm2m";ct="' + " ".join(str(number) for number in range(1000, 1390)) + '"',
    ],
    ids=["one", "short", "flags", "instances", "versions", "ordinary", "attributes", "formats"],
)
def test_cost_of_an_announcement_is_no_less_than_the_memory_that_it_takes(text: str) -> None:
    payloads = [f"{text},</9/{number}>".encode() for number in range(1000, 1030)]
    # What other tests left in them decides when their tables grow, which is no memory of these announcements.
    registration._remembered.cache_clear()
    path._parse.cache_clear()
    parse_announcement(b"</9/1>")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [parse_announcement(payload) for payload in payloads]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    cost = sum(said.cost for said in kept)
    assert taken <= cost <= 6 * taken


def test_cost_of_own_parameters_is_no_less_than_the_memory_that_they_take() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [
            parse_parameters([f"{number}name{at}={number}value" for at in range(60)]).attributes
            for number in range(100, 130)
        ]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= sum(map(attributes_cost, kept)) <= 4 * taken
    assert attributes_cost({}) == 0


@pytest.mark.parametrize("text", [",".join(["</3/0>"] * 200), ",".join(["<a>"] * 100)])
def test_announcement_of_many_links_is_not_remembered(text: str) -> None:
    assert parse_announcement(text.encode()) is not parse_announcement(text.encode())
    assert not parse_announcement(text.encode()).common
