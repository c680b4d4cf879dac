"""Files of credentials: what is read, on which line what is wrong, and that none is a traceback or tells a key."""

from __future__ import annotations

import base64
import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from security.credentials import importing
from security.credentials.fields import ALL
from security.credentials.importing import Bad, bring_in, read
from security.credentials.kinds import X509, Aead, CertificateUsage, Hkdf, Oscore, Psk, Rpk
from security.credentials.making import new_rpk, new_x509
from security.credentials.sqlite import SqliteCredentials
from security.errors import InvalidCredential

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = "000102030405060708090a0b0c0d0e0f"
HEAD = "endpoint,kind,identity,key\n"


def as_csv(*rows: dict[str, str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["endpoint", "kind", *sorted({name for row in rows for name in row} - {"endpoint", "kind"})]
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json(*rows: dict[str, Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def pems() -> tuple[str, str]:
    """A public key and a certificate."""
    public, own = new_rpk("e", now=NOW).credential, new_x509("e", now=NOW, days=9).credential
    assert isinstance(public, Rpk)
    assert isinstance(own, X509)
    key = serialization.load_der_public_key(public.public_key)
    pem = serialization.Encoding.PEM
    return (
        key.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
        x509.load_der_x509_certificate(own.certificate).public_bytes(pem).decode(),
    )


@pytest.mark.parametrize("write", [as_csv, as_json])
def test_each_kind_is_read_from_both_forms(write: Any) -> None:
    public, own = pems()
    found = read(
        write(
            {"endpoint": "p-1", "kind": "psk", "key": KEY},
            {"endpoint": "p-*", "kind": "PSK", "identity": "gerät", "key": "base64:AAECAwQFBgcICQoLDA0ODw=="},
            {"endpoint": "r", "kind": "rpk", "public_key": public},
            {"endpoint": "x*", "kind": "x509", "certificate": own, "usage": "0", "subject": "host.example"},
            {"endpoint": "o", "kind": "oscore", "master_secret": KEY, "sender_id": "01", "recipient_id": ""},
            {
                "endpoint": "o2",
                "kind": "oscore",
                "master_secret": KEY,
                "master_salt": "9e7ca92223786340",
                "sender_id": "01",
                "recipient_id": "00",
                "id_context": "37cbf3210017a2d3",
                "aead": "AES-GCM-128",
                "hkdf": "HKDF-SHA-512",
            },
        ),
        NOW,
    )
    assert found.refused == ()
    one, two, rpk, cert, bare, full = (credential for _, credential in found.rows)
    assert isinstance(one, Psk)
    assert (one.identity, one.key.reveal()) == (b"p-1", bytes.fromhex(KEY))
    assert isinstance(two, Psk)
    assert (two.identity, two.key) == ("gerät".encode(), one.key)
    assert isinstance(rpk, Rpk)
    assert isinstance(cert, X509)
    assert (cert.usage, cert.subject) == (CertificateUsage.CA_CONSTRAINT, "host.example")
    assert isinstance(bare, Oscore)
    assert (bare.sender_id, bare.recipient_id, bare.id_context) == (b"\1", b"", None)
    assert isinstance(full, Oscore)
    assert (full.id_context, full.aead, full.hkdf) == (
        bytes.fromhex("37cbf3210017a2d3"),
        Aead.AES_GCM_128,
        Hkdf.SHA_512,
    )
    assert full.master_salt.reveal().hex() == "9e7ca92223786340"


def test_lines_are_those_on_which_a_row_begins() -> None:
    public = pems()[0]
    quoted = f'"{public}"'
    text = f"endpoint,kind,public_key,key\n\nr,rpk,{quoted},\nbad,psk,,00\n  \ngood,psk,,{KEY}\n"
    found = read(text.encode(), NOW)
    begins = 4 + public.count("\n")
    assert [line for line, _ in found.rows] == [3, begins + 2]
    assert [one.line for one in found.refused] == [begins]
    in_json = f'[\n  {{"endpoint": "a", "kind": "psk", "key": "{KEY}"}},\n\n  {{"endpoint": "b",\n  "kind": "psk"}}, 5]'
    found = read(in_json.encode(), NOW)
    assert [line for line, _ in found.rows] == [2]
    assert [one.line for one in found.refused] == [4, 5]


@pytest.mark.parametrize(
    "text",
    [f"\ufeff{HEAD}a,psk,,{KEY}\r\n", HEAD.replace(",", ";") + f"a;psk;;{KEY}", f" KIND , Endpoint,key\npsk,a,{KEY}"],
)
def test_files_as_spreadsheets_write_them_are_read(text: str) -> None:
    assert len(read(text.encode(), NOW).rows) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"kind": "psk", "key": KEY}, "endpoint is missing"),
        ({"endpoint": "a", "key": KEY}, "kind is missing"),
        ({"endpoint": "a", "kind": KEY, "key": KEY}, "no such kind; there are: psk, rpk, x509, oscore"),
        ({"endpoint": "a", "kind": "psk"}, "key is missing"),
        ({"endpoint": "a", "kind": "psk", "key": KEY + "0"}, "hex"),
        ({"endpoint": "a", "kind": "psk", "key": "base64:" + KEY + "!"}, "no base64"),
        ({"endpoint": "a", "kind": "psk", "key": "00"}, "16 to 64 bytes"),
        ({"endpoint": "a-*", "kind": "psk", "key": KEY}, "give it an identity"),
        ({"endpoint": "a", "kind": "psk", "key": KEY, "identity": "x" * 129}, "128"),
        ({"endpoint": "a", "kind": "psk", "key": KEY, "public_key": KEY}, "public_key is none of psk"),
        ({"endpoint": "a", "kind": "rpk", "public_key": KEY}, "no public key"),
        ({"endpoint": "a", "kind": "x509", "certificate": KEY}, "no certificate"),
        ({"endpoint": "a", "kind": "x509", "certificate": KEY, "usage": "4"}, "usage|certificate"),
        ({"endpoint": "a", "kind": "oscore", "master_secret": KEY, "sender_id": "01"}, "recipient_id is missing"),
        (
            {"endpoint": "a", "kind": "oscore", "master_secret": KEY, "sender_id": "01", "recipient_id": "01"},
            "must differ",
        ),
        (
            {"endpoint": "a", "kind": "oscore", "master_secret": KEY, "sender_id": "01", "recipient_id": "00" * 8},
            "7 bytes at most",
        ),
        (
            {
                "endpoint": "a",
                "kind": "oscore",
                "master_secret": KEY,
                "sender_id": "1",
                "recipient_id": "",
                "aead": "x",
            },
            "sender_id",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_told_without_its_key(row: dict[str, str], words: str) -> None:
    found = read(as_json(row), NOW)
    assert found.rows == ()
    (refused,) = found.refused
    assert refused.line == 2
    assert words.partition("|")[0] in refused.why or words.partition("|")[2] in refused.why
    assert KEY not in refused.why


def test_a_private_key_in_the_place_of_a_public_one_is_told_and_not_shown() -> None:
    secret = new_rpk("e", now=NOW).secret.reveal()
    (refused,) = read(as_json({"endpoint": "a", "kind": "rpk", "public_key": secret}), NOW).refused
    assert "keep the private key on the device" in refused.why
    assert secret.splitlines()[1] not in refused.why


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (f"a,psk,,{KEY}\n", "line 1: the first line names the columns"),
        ("endpoint,kind,kind\n", "line 1: the first line names the columns"),
        ("endpoint,kind,colour\n", "line 1: the first line names the columns"),
        (f'{HEAD}a,psk,,"{KEY}\n', "line 2: it is no CSV"),
        ("{}", "line 1: a list of objects"),
        ("[\n{},\n", "line 3: it is no JSON"),
        ("[\n{}\n{}]", "line 3: a comma"),
        ("[{}]\n[]", "behind the list"),
        ("[" * 100_000, "no JSON"),
        ("[{}", "a comma or the end"),
        ("[1" + "0" * 5000 + "]", "no JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(InvalidCredential) as told:
        read(text.encode(), NOW)
    assert words in str(told.value)
    assert KEY not in str(told.value)


def test_no_text_and_too_much_of_it_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidCredential, match="line 2: it is no UTF-8"):
        read(HEAD.encode() + b"\xff", NOW)
    monkeypatch.setattr(importing, "MOST_BYTES", 10)
    with pytest.raises(InvalidCredential, match="10 are the most"):
        read(HEAD.encode(), NOW)


def test_fields_of_json_are_texts_each_once() -> None:
    head = f'"endpoint": "a", "kind": "psk", "key": "{KEY}"'
    beside = (f'"key": "{KEY}"', '"identity": true', '"identity": ["x"]', '"a": "b"')
    text = f"[{', '.join(f'{{{head}, {one}}}' for one in beside)}]"
    found = read(text.encode(), NOW)
    # All are on line 1.
    assert [one.why.split(";")[0] for one in found.refused] == [
        "object 1: the field 'key' is there twice",
        "object 2: the field 'identity' is no text",
        "object 3: the field 'identity' is no text",
        "object 4 ('a'): 'a' is no field",
    ]


def test_an_object_that_contradicts_an_earlier_one_is_told_by_their_numbers() -> None:
    same = '"kind": "psk", "identity": "id"'
    text = f'[{{"endpoint": "a", {same}, "key": "{KEY}"}}, {{"endpoint": "b", {same}, "key": "{KEY}"}}]'
    (refused,) = read(text.encode(), NOW).refused
    assert refused.why == "object 2 ('b'): object 1 says something else of the psk identity 'id'"


def test_a_line_that_contradicts_an_earlier_one_is_refused_and_one_that_repeats_it_is_not() -> None:
    text = f"{HEAD}a,psk,id,{KEY}\na,psk,id,{KEY}\nb,psk,id,{KEY}\na,psk,id,{'ff' * 16}\n"
    found = read(text.encode(), NOW)
    assert [line for line, _ in found.rows] == [2, 3]
    assert [(one.line, one.why) for one in found.refused] == [
        (4, "line 2 says something else of the psk identity 'id'"),
        (5, "line 2 says something else of the psk identity 'id'"),
    ]


def test_all_is_stored_or_nothing_or_what_fits(tmp_path: Path) -> None:
    store = SqliteCredentials(tmp_path / "c.db", make=True)
    good = read(f"{HEAD}a,psk,,{KEY}\nb,psk,,{KEY}\nz,psk,,{KEY}\n".encode(), NOW)
    report = bring_in(store, good, bad=Bad.REFUSE_ALL, trial=False)
    assert (report.added, report.stored) == ((2, 3, 4), True)
    assert bring_in(store, good, bad=Bad.REFUSE_ALL, trial=False).unchanged == (2, 3, 4)

    text = f"{HEAD}c,psk,,{KEY}\nd,psk,a,{KEY}\ne,psk,,00\nb,psk,,{'11' * 16}\nz,psk,,{KEY}\n"
    mixed = read(text.encode(), NOW)
    for trial, bad in ((True, Bad.REFUSE_ALL), (True, Bad.SKIP), (False, Bad.REFUSE_ALL)):
        report = bring_in(store, mixed, bad=bad, trial=trial)
        assert (report.added, report.changed, report.unchanged) == ((2,), (5,), (6,))
        assert [one.line for one in report.refused] == [3, 4]
        assert "headwater credentials remove a --identity a" in report.refused[0].why
        assert not report.stored
        assert store.psk(b"c") is None
    # A conflict with what is stored is enough, also where each line alone is good.
    conflict = read(f"{HEAD}c,psk,,{KEY}\nd,psk,a,{KEY}\n".encode(), NOW)
    assert not bring_in(store, conflict, bad=Bad.REFUSE_ALL, trial=False).stored
    assert store.psk(b"c") is None
    report = bring_in(store, mixed, bad=Bad.SKIP, trial=False)
    assert report.stored
    assert store.psk(b"c") is not None
    found = store.psk(b"b")
    assert found is not None
    assert found.key.reveal() == b"\x11" * 16
    assert bring_in(None, good, bad=Bad.REFUSE_ALL, trial=True).added == (2, 3, 4)
    store.close()


def read_or_told(data: bytes) -> None:
    """Whatever stands there, it is read or refused in words."""
    try:
        found = read(data, NOW)
    except InvalidCredential as exc:
        assert str(exc)
    else:
        lines = data.count(b"\n") + data.count(b"\r") + 1
        assert all(0 < line <= lines for line, _ in found.rows)
        assert all(0 < one.line <= lines and one.why for one in found.refused)


VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["psk", "rpk", "x509", "oscore", "a", "*", KEY, "0102", "3", "base64:" + base64.b64encode(bytes(16)).decode()]
    ),
    st.binary(max_size=40).map(bytes.hex),
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_are_a_traceback(data: bytes) -> None:
    read_or_told(data)
    read_or_told(HEAD.encode() + data)
    read_or_told(b"[" + data)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(ALL) | st.text(max_size=5), VALUES, max_size=8), max_size=4))
def test_no_rows_are_a_traceback(rows: list[dict[str, str]]) -> None:
    read_or_told(json.dumps(rows).encode())
    if rows and all(rows):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(ALL)
        writer.writerows([row.get(name, "") for name in ALL] for row in rows)
        read_or_told(text.getvalue().encode("utf-8", "replace"))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.sampled_from(ALL), one),
        max_leaves=20,
    )
)
def test_no_json_is_a_traceback(document: Any) -> None:
    read_or_told(json.dumps(document).encode())
    read_or_told(json.dumps([document]).encode())
