"""Name and dates of a certificate as our small reader finds them, held equal to what `cryptography` finds."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from security.certificate_dates import read_dates
from security.certificates import common_name, new_key

KEY = new_key()
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1).map(
    lambda text: text[:64]
)
MOMENTS = st.datetimes(datetime(1951, 1, 1), datetime(2999, 12, 31)).map(lambda one: one.replace(microsecond=0))


def made(subject: x509.Name, start: datetime, end: datetime) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the issuer, whose name is not asked")]))
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .sign(KEY, hashes.SHA256())
    )


def subject(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


@given(NAMES, MOMENTS, MOMENTS)
def test_name_and_dates_are_those_that_the_library_finds(name: str, one: datetime, other: datetime) -> None:
    certificate = made(subject(name), min(one, other), max(one, other))
    (found,) = read_dates(certificate.public_bytes(Encoding.PEM))
    assert found.name == common_name(certificate)
    assert found.not_before == certificate.not_valid_before_utc
    assert found.not_after == certificate.not_valid_after_utc


def test_a_subject_with_more_than_a_common_name_is_shown_whole_if_it_has_not_exactly_one() -> None:
    start, end = datetime(2026, 1, 1), datetime(2027, 1, 1)
    whole = x509.Name(
        [x509.NameAttribute(NameOID.COUNTRY_NAME, "SI"), x509.NameAttribute(NameOID.COMMON_NAME, "kafka.example")]
    )
    for name in (whole, subject("first", "second"), x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "SI")])):
        certificate = made(name, start, end)
        (found,) = read_dates(certificate.public_bytes(Encoding.PEM))
        assert found.name == common_name(certificate)


def test_every_certificate_of_a_file_is_read_in_its_order_and_what_stands_between_is_passed_over() -> None:
    first = made(subject("one"), datetime(2026, 1, 1), datetime(2027, 1, 1)).public_bytes(Encoding.PEM)
    second = made(subject("two"), datetime(2026, 1, 1), datetime(2055, 1, 1)).public_bytes(Encoding.PEM)
    found = read_dates(b"Some words.\n" + first + b"\nMore.\r\n" + second.replace(b"\n", b"\r\n"))
    assert [one.name for one in found] == ["one", "two"]
    assert found[1].not_after == datetime(2055, 1, 1, tzinfo=UTC)


def test_a_certificate_that_is_cut_off_anywhere_is_damaged() -> None:
    whole = made(subject("gateway:rock64"), datetime(2026, 1, 1), datetime(2027, 1, 1)).public_bytes(Encoding.PEM)
    lines = whole.splitlines(keepends=True)
    for kept in range(len(lines) - 1):
        for ending in (b"", lines[-1]):
            with pytest.raises(ValueError):
                read_dates(b"".join(lines[:kept]) + ending)


@given(st.binary(max_size=200))
def test_noise_is_damaged_and_nothing_else_is_raised(noise: bytes) -> None:
    with pytest.raises(ValueError):
        read_dates(noise)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_gives_an_answer_or_a_value_error(position: int, value: int) -> None:
    der = bytearray(
        made(subject("gateway:rock64"), datetime(2026, 1, 1), datetime(2027, 1, 1)).public_bytes(Encoding.DER)
    )
    der[position % len(der)] = value
    try:
        found = read_dates(ssl.DER_cert_to_PEM_cert(bytes(der)).encode())
    except ValueError:
        return
    assert len(found) == 1


@pytest.mark.parametrize("module", ["gateway.server", "connectors.replicator"])
def test_a_process_at_the_edge_loads_nothing_of_what_its_command_line_alone_needs(module: str) -> None:
    code = (
        f"import sys, headwater.lean, headwater.logs, headwater.running, {module}\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)
    )
    loaded = set(done.stdout.split())
    assert module.partition(".")[0] in loaded
    assert not loaded & {"cryptography", "pydantic", "typer", "rich", "pygments"}
