"""CoRE Link Format: the examples of RFC 6690, registrations of devices, and text that is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lwm2m.errors import CodecError, MalformedPayload, NotInThisFormat
from schemas.lwm2m.link import MAX_LINKS, Link, decode, encode, format_links, parse_links
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("", ()),
        ("</sensors>;ct=40", (Link("/sensors", {"ct": "40"}),)),
        (
            '</sensors/temp>;if="sensor",\n</sensors/light>;if="sensor"'.replace("\n", ""),
            (Link("/sensors/temp", {"if": "sensor"}), Link("/sensors/light", {"if": "sensor"})),
        ),
        (
            '</sensors>;ct=40;title="Sensor Index",</sensors/temp>;rt="temperature-c";if="sensor",'
            '<http://www.example.com/sensors/t123>;anchor="/sensors/temp";rel="describedby",'
            '</t>;anchor="/sensors/temp";rel="alternate"',
            (
                Link("/sensors", {"ct": "40", "title": "Sensor Index"}),
                Link("/sensors/temp", {"rt": "temperature-c", "if": "sensor"}),
                Link("http://www.example.com/sensors/t123", {"anchor": "/sensors/temp", "rel": "describedby"}),
                Link("/t", {"anchor": "/sensors/temp", "rel": "alternate"}),
            ),
        ),
        ('</firmware/v2.1>;rt="firmware";sz=262144', (Link("/firmware/v2.1", {"rt": "firmware", "sz": "262144"}),)),
        (
            '</>;rt="oma.lwm2m";ct="60 110 112 11542",</1>;ver=1.1,</1/0>,</3/0>;pmin=10;obs',
            (
                Link("/", {"rt": "oma.lwm2m", "ct": "60 110 112 11542"}),
                Link("/1", {"ver": "1.1"}),
                Link("/1/0", {}),
                Link("/3/0", {"pmin": "10", "obs": None}),
            ),
        ),
        ('</a>;title="a, b; <c> \\"d\\" \\\\"', (Link("/a", {"title": 'a, b; <c> "d" \\'}),)),
        ("</a>;title*=UTF-8'de'%c3%a4", (Link("/a", {"title*": "UTF-8'de'%c3%a4"}),)),
        (" </a> ; x = 1 , </b> ", (Link("/a", {"x": "1"}), Link("/b", {}))),
        ("</a>;rt=first;rt=second", (Link("/a", {"rt": "first"}),)),
        ("</a>;x=", (Link("/a", {"x": ""}),)),
    ],
)
def test_links_are_read(text: str, links: tuple[Link, ...]) -> None:
    assert parse_links(text) == links
    assert parse_links(format_links(links)) == links


def test_links_are_written_with_quotes_where_they_must_be() -> None:
    assert format_links([Link("/3/0", {"ver": "1.1", "obs": None, "title": 'a "b"'}), Link("/4")]) == (
        '</3/0>;ver=1.1;obs;title="a \\"b\\"",</4>'
    )


@pytest.mark.parametrize(
    "text",
    [
        ",", "</a>,", "</a>,,</b>", "</a", "a>", "/a", "<<a>>", "< >", "</a\n>", "</a>x", "</a>;", "</a>;;x", "</a>;=1",
        '</a>;x="open', '</a>;x="a"b', '</a>;x=a"b', "</a>;x=1 2", "</a> </b>", "</a>;\x00", '</a>;x="\\',
    ],
)  # fmt: skip
def test_what_is_no_link_format_is_refused(text: str) -> None:
    with pytest.raises(MalformedPayload, match="at character"):
        parse_links(text)


def test_more_links_than_any_device_has_are_refused() -> None:
    with pytest.raises(MalformedPayload, match=str(MAX_LINKS)):
        parse_links(",".join(["</1>"] * (MAX_LINKS + 1)))


@pytest.mark.parametrize("link", [Link("/a>"), Link("/a b"), Link("/a", {"x y": "1"}), Link("/a", {"": None})])
def test_what_the_format_cannot_carry_is_not_written(link: Link) -> None:
    with pytest.raises(NotInThisFormat):
        format_links([link])


@given(st.text(max_size=60))
def test_any_text_is_links_or_an_error(text: str) -> None:
    try:
        links = parse_links(text)
    except CodecError:
        return
    assert parse_links(format_links(links)) == links


_NAME = st.from_regex(r"[a-z][a-z0-9.\-]{0,8}", fullmatch=True)
_VALUE = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_URL = st.from_regex(r"/[a-z0-9/?=&%.]{0,20}", fullmatch=True)


@given(st.lists(st.builds(Link, _URL, st.dictionaries(_NAME, _VALUE, max_size=3)), max_size=4).map(tuple))
def test_any_links_are_read_as_they_were_written(links: tuple[Link, ...]) -> None:
    assert parse_links(format_links(links)) == links


def test_a_resource_of_links_is_a_string() -> None:
    builtin = Definitions.builtin()
    node = decode(b"</3/0>,</4/0>", Path(60000, 0, 1), builtin)
    assert node == Resource(path=Path(60000, 0, 1), type=ResourceType.STRING, value="</3/0>,</4/0>")
    assert encode(node, builtin) == b"</3/0>,</4/0>"
    with pytest.raises(NotInThisFormat, match="FLOAT"):
        decode(b"</3/0>", Path(3303, 0, 5700), builtin)
    with pytest.raises(NotInThisFormat, match="no links"):
        encode(Resource(path=Path(60000, 0, 1), type=ResourceType.STRING, value="text"), builtin)
