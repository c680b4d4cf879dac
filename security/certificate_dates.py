"""Whose certificate it is and when it runs out, read without a library for certificates (RFC 5280 §4.1).

Owns the first fields of a certificate in DER (X.690), no more than a metric shows. It believes nothing and checks no
signature; what is to be trusted is decided by TLS and by `security.tls_folder`. It is there for processes that run for
months on small machines: `cryptography` costs each of them ten megabytes for one date.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
_INTEGER, _OID, _SEQUENCE, _SET, _VERSION = 0x02, 0x06, 0x30, 0x31, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
#: id-at-commonName, 2.5.4.3.
_COMMON_NAME = bytes((0x55, 0x04, 0x03))
#: The strings that are used today; who needs another one (RFC 5280 §4.1.2.4) asks `cryptography`.
_ENCODINGS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dates:
    """What is shown of a certificate."""

    #: The subject's common name; the whole subject where it has not exactly one.
    name: str
    not_before: datetime
    not_after: datetime


def read_dates(content: bytes) -> list[Dates]:
    """Of each certificate in a PEM file, in its order.

    Raises:
        ValueError: there is none, or a damaged one.
    """
    found = [_dates(base64.b64decode(b"".join(one.split()), validate=True)) for one in _PEM.findall(content)]
    if not found or len(found) != content.count(b"-----BEGIN CERTIFICATE-----"):
        raise ValueError("there is no certificate in it, or a damaged one")
    return found


def _dates(der: bytes) -> Dates:
    try:
        ((tag, certificate),) = _elements(der)
        _expect(tag, _SEQUENCE)
        tag, body = next(_elements(certificate))
        _expect(tag, _SEQUENCE)
        fields = _elements(body)
        tag, _ = next(fields)
        if tag == _VERSION:
            tag, _ = next(fields)
        _expect(tag, _INTEGER)
        # The signature's algorithm, the issuer, from when to when, the subject.
        (_, _), (_, _), (_, validity), (tag, subject) = (next(fields) for _ in range(4))
        _expect(tag, _SEQUENCE)
        not_before, not_after = (_moment(tag, text) for tag, text in _elements(validity))
    except StopIteration as exc:
        raise ValueError("the certificate ends too soon") from exc
    return Dates(name=_name(subject) or _any_name(der), not_before=not_before, not_after=not_after)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of one element after the other."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("an element of the certificate ends too soon")
        tag, size, start = data[at], data[at + 1], at + 2
        if size & 0x80:
            digits = size & 0x7F
            if not 1 <= digits <= 4 or start + digits > len(data):
                raise ValueError("an element of the certificate has no length")
            size = int.from_bytes(data[start : start + digits], "big")
            start += digits
        at = start + size
        if at > len(data):
            raise ValueError("an element of the certificate ends too soon")
        yield tag, data[start:at]


def _expect(tag: int, wanted: int) -> None:
    if tag != wanted:
        raise ValueError(f"the certificate has an element {tag:#x} where {wanted:#x} should be")


def _moment(tag: int, text: bytes) -> datetime:
    """RFC 5280 §4.1.2.5: two digits of the year up to 2049, four from 2050 on; always seconds and UTC."""
    if tag == _UTC_TIME:
        # 50 to 99 are of the twentieth century.
        text = (b"19" if text[:2] >= b"50" else b"20") + text
    else:
        _expect(tag, _GENERALIZED_TIME)
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _name(subject: bytes) -> str | None:
    """The common name; None where there is not exactly one, in a string that is known here."""
    found: list[tuple[int, bytes]] = []
    for tag, relative in _elements(subject):
        _expect(tag, _SET)
        for _, pair in _elements(relative):
            (tag, kind), value = tuple(_elements(pair))
            _expect(tag, _OID)
            if kind == _COMMON_NAME:
                found.append(value)
    if len(found) != 1 or found[0][0] not in _ENCODINGS:
        return None
    tag, text = found[0]
    return text.decode(_ENCODINGS[tag])


def _any_name(der: bytes) -> str:
    # A stranger's certificate, which ours never are: read by what knows all forms, and costs what it costs.
    from cryptography import x509

    from security.certificates import common_name

    try:
        return common_name(x509.load_der_x509_certificate(der))
    except x509.InvalidVersion as exc:
        raise ValueError(str(exc)) from exc
