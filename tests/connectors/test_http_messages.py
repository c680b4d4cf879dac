"""What is a request of HTTP/1.1, and what is refused before anybody works on it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.http_messages import Answer, Refused, Request, parse_head, render


def parsed(*lines: str, line: str = "GET / HTTP/1.1", host: str | None = "h") -> Request:
    fields = [*([] if host is None else [f"Host: {host}"]), *lines]
    return parse_head("\r\n".join([line, *fields, "", ""]).encode("latin-1"), "127.0.0.1")


def status(*lines: str, line: str = "GET / HTTP/1.1", host: str | None = "h") -> int:
    with pytest.raises(Refused) as refused:
        parsed(*lines, line=line, host=host)
    return int(refused.value.status)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", ("",)),
        ("/metrics", ("metrics",)),
        ("/metrics/", ("metrics", "")),
        ("//metrics", ("", "metrics")),
        ("/%6detrics?a=1", ("metrics",)),
        ("/subjects/a%2Fb/versions", ("subjects", "a/b", "versions")),
        ("/a/../b/%2e%2E", ("a", "..", "b", "..")),
        ("/s%C3%A9rie+1", ("série+1",)),
        ("/nul%00", ("nul\0",)),
        ("http://other.example:80/metrics", ("metrics",)),
        ("HTTPS://other.example", ("",)),
        ("http://other.example?x=/y", ("",)),
    ],
)
def test_the_path_is_decoded_once_and_between_its_slashes(target: str, path: tuple[str, ...]) -> None:
    assert parsed(line=f"GET {target} HTTP/1.1").path == path


def test_fields_and_query_are_read() -> None:
    request = parsed("ACCEPT: \t a, b \t", "accept: c", "X: ", line="POST /x?a=1&a=2&b=%C3%A9+x&c HTTP/1.0", host=None)
    assert (request.method, request.peer) == ("POST", "127.0.0.1")
    assert request.fields == {"accept": "a, b, c", "x": ""}
    assert request.query == {"a": "1", "b": "é x", "c": ""}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("", 400),
        ("GET", 400),
        ("GET /", 400),
        ("GET / HTTP/1", 400),
        ("GET / http/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("GET /\tHTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET /\x00 HTTP/1.1", 400),
        ("GET /\r HTTP/1.1", 400),
        ("GET /é HTTP/1.1", 400),
        ("G:T / HTTP/1.1", 400),
        ("GET metrics HTTP/1.1", 400),
        ("GET file:///etc/passwd HTTP/1.1", 400),
        ("CONNECT other:443 HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET /%zz HTTP/1.1", 400),
        ("GET /% HTTP/1.1", 400),
        ("GET /%ff HTTP/1.1", 400),
        ("GET /?a=%ff HTTP/1.1", 400),
        ("GET /?" + "&".join("a" * 33) + " HTTP/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
    ],
)
def test_a_request_line_that_is_none_is_refused(line: str, code: int) -> None:
    assert status(line=line) == code


@pytest.mark.parametrize(
    "field",
    [
        "Content-Length : 3",
        " folded: x",
        "\tfolded: x",
        "no colon",
        ": no name",
        "a b: c",
        "a: b\rc",
        "a: b\x00",
        "a: b\x7f",
        "Content-Length: +3",
        "Content-Length: 3, 3",
        "Content-Length: 0x3",
        "Content-Length: 1_0",
        "Content-Length: \u00b2",
        "Content-Length:",
        "Content-Length: -1",
        "Content-Length: " + "9" * 19,
        "Host: another",
    ],
)
def test_a_field_in_doubt_is_refused(field: str) -> None:
    assert status(field) == 400


def test_what_says_where_the_body_ends_is_said_once() -> None:
    assert parsed("Content-Length: 3", line="POST / HTTP/1.1").length == 3
    assert status("Content-Length: 3", "Content-Length: 3") == 400
    assert status("Authorization: Bearer a", "authorization: Bearer b") == 400
    for coding in ("chunked", "identity", "xchunked", "chunked, identity", ""):
        assert status("Content-Length: 3", f"Transfer-Encoding: {coding}") == 411
        assert status(f"Transfer-Encoding:\t{coding}") == 411


def test_a_request_of_http_1_1_names_its_host_and_one_of_1_0_need_not() -> None:
    assert status(host=None) == 400
    assert parsed(line="GET / HTTP/1.0", host=None).path == ("",)


def test_many_fields_are_refused() -> None:
    assert status(*(f"x-{number}: 1" for number in range(64))) == 431


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for head in (
        data + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + data + b"\r\n\r\n",
        b"GET /" + data + b" HTTP/1.0\r\n\r\n",
    ):
        try:
            request = parse_head(head)
        except Refused as exc:
            assert 400 <= exc.status < 600
        else:
            assert request.length >= 0


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    answer = Answer(body=b"abc", fields={"Allow": "GET"})
    assert render(answer, head_only=False).endswith(b"\r\n\r\nabc")
    short = render(answer, head_only=True)
    assert b"\r\nContent-Length: 3\r\n" in short
    assert short.endswith(b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in short
