"""The record layer (RFC 6347 section 4.1, RFC 9146 sections 4 and 5): datagrams to records, and their protection.

Owns framing, AEAD, sequence numbers and the replay window. It knows no handshake, no address and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from gateway.dtls.suites import Suite

DTLS_1_2: Final = b"\xfe\xfd"
DTLS_1_0: Final = b"\xfe\xff"
#: Records of one datagram, and handshake messages of one record: a flight has five. Each may cost an answer.
MOST_TOGETHER: Final = 16
#: The content of a ChangeCipherSpec.
CHANGE_CIPHER_SPEC: Final = b"\x01"
#: Bytes of the connection ids that we give out.
CID_LENGTH: Final = 8
#: A CoAP message of the largest size that the endpoint takes, as a record, leaves half of it.
MAX_DATAGRAM: Final = 4096
#: RFC 6347 section 4.1.
MOST_PLAINTEXT: Final = 1 << 14
#: Type, version, epoch, sequence number; the connection id and the length follow.
CID_AT: Final = 11
_EXPLICIT_NONCE: Final = 8
_WINDOW: Final = 64
_WINDOW_MASK: Final = (1 << _WINDOW) - 1
_MOST_SEQUENCE: Final = (1 << 48) - 1
_EPOCH_1: Final = 1 << 48
#: In place of the sequence number in the additional data of a record with a connection id (RFC 9146 section 5.3).
_PLACEHOLDER: Final = b"\xff" * 8
_VERSION_AND_EPOCH_1: Final = DTLS_1_2 + b"\0\1"
#: Where the fragment begins, without and with a connection id of ours.
_FRAGMENT, _FRAGMENT_OF_CID = CID_AT + 2, CID_AT + CID_LENGTH + 2


class Malformed(ValueError):
    """The bytes are no DTLS of ours; the text is a short reason that is safe to use as a metric label."""


class BadRecord(Malformed):
    """A record is not authentic, or was here before."""


class ContentType(IntEnum):
    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23
    TLS12_CID = 25


class Record(NamedTuple):
    """One record as it came; ``number`` is the eight bytes of epoch and sequence number, ``cid`` empty without one."""

    type: int
    number: bytes
    cid: bytes
    fragment: bytes

    @property
    def epoch(self) -> int:
        return self.number[0] << 8 | self.number[1]

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.number[2:], "big")


class Opened(NamedTuple):
    """What a protected record held; ``newest`` if its sequence number is above all before."""

    type: int
    plaintext: bytes
    newest: bool


def split(datagram: bytes) -> Iterator[Record]:
    """The records of a datagram in their order.

    A record with a connection id is taken to have one of ours, of CID_LENGTH bytes.

    Raises:
        Malformed: from here on the datagram is none; what came before stands.
    """
    at, end = 0, len(datagram)
    if end > MAX_DATAGRAM:
        raise Malformed("datagram too long")
    found = 0
    while at < end:
        found += 1
        if found > MOST_TOGETHER:
            raise Malformed("too many records")
        before_length = at + CID_AT
        type_ = datagram[at]
        if type_ == ContentType.TLS12_CID:
            before_length += CID_LENGTH
        elif not ContentType.CHANGE_CIPHER_SPEC <= type_ <= ContentType.APPLICATION_DATA:
            raise Malformed("content type")
        start = before_length + 2
        if start > end:
            raise Malformed("truncated record header")
        version = datagram[at + 1 : at + 3]
        # The record of a first ClientHello may say any version of the series (RFC 5246 appendix E.1), 1.0, or fe 00 as
        # Mbed TLS does; and only what is plain can be one.
        if version != DTLS_1_2 and (version[0] != DTLS_1_2[0] or datagram[at + 3 : at + 5] != b"\0\0"):
            raise Malformed("record version")
        stop = start + (datagram[before_length] << 8 | datagram[before_length + 1])
        if stop > end:
            raise Malformed("truncated record")
        yield Record(
            type_,
            datagram[at + 3 : at + 11],
            datagram[at + CID_AT : before_length],
            datagram[start:stop],
        )
        at = stop


#: Type and version, by the type; and what the additional data begins with where there is a connection id of ours.
_HEAD: Final = {int(type_): bytes((type_,)) + DTLS_1_2 for type_ in ContentType}
_DATA, _CID = int(ContentType.APPLICATION_DATA), int(ContentType.TLS12_CID)
_CID_HEAD: Final = _PLACEHOLDER + bytes((_CID, CID_LENGTH, _CID)) + DTLS_1_2


def plain_record(type_: int, sequence: int, fragment: bytes, version: bytes = DTLS_1_2) -> bytes:
    """A record of epoch 0."""
    return bytes((type_,)) + version + sequence.to_bytes(8, "big") + len(fragment).to_bytes(2, "big") + fragment


def _additional_data(number: bytes, type_: int, cid: bytes, length: int) -> bytes:
    """RFC 5246 section 6.2.3.3, or with a connection id RFC 9146 section 5.3; ``length`` is the plaintext's."""
    if cid:
        head = _PLACEHOLDER + bytes((ContentType.TLS12_CID, len(cid), ContentType.TLS12_CID)) + DTLS_1_2
        return head + number + cid + length.to_bytes(2, "big")
    return number + bytes((type_,)) + DTLS_1_2 + length.to_bytes(2, "big")


class WriteState:
    """Protects our records of epoch 1. ``cid`` is the peer's, empty if it wants none.

    Keeps the key and not the AEAD: making one costs less than a microsecond, keeping two a session most of a kilobyte.
    """

    __slots__ = ("_key", "_salt", "_sequence", "_suite", "cid")

    def __init__(self, suite: Suite, key: bytes, salt: bytes, cid: bytes) -> None:
        self._suite = suite
        self._key = key
        self._salt = salt
        self._sequence = 0
        self.cid = cid

    def protect(self, type_: int, plaintext: bytes) -> bytes:
        """One record.

        Raises:
            OverflowError: all 2^48 sequence numbers are used up (RFC 6347 section 4.1), which no device lives to see.
        """
        sequence = self._sequence
        if sequence > _MOST_SEQUENCE:
            raise OverflowError("no sequence number is left")
        self._sequence = sequence + 1
        number = (_EPOCH_1 | sequence).to_bytes(8, "big")
        cid = self.cid
        if cid:
            plaintext += bytes((type_,))
            head = _HEAD[_CID]
            additional = _additional_data(number, type_, cid, len(plaintext))
        else:
            head = _HEAD[type_]
            additional = number + head + len(plaintext).to_bytes(2, "big")
        sealed = self._suite.aead(self._key).encrypt(self._salt + number, plaintext, additional)
        return head + number + cid + (_EXPLICIT_NONCE + len(sealed)).to_bytes(2, "big") + number + sealed


class ReadState:
    """Opens the peer's records of epoch 1, each once (RFC 6347 section 4.1.2.6)."""

    __slots__ = ("_key", "_newest", "_salt", "_seen", "_suite")

    def __init__(self, suite: Suite, key: bytes, salt: bytes) -> None:
        self._suite = suite
        self._key = key
        self._salt = salt
        self._newest = -1
        #: Bit n is set if the record n below the newest was here.
        self._seen = 0

    def open(self, record: Record) -> Opened:
        """What the record holds.

        Raises:
            BadRecord: it was here before, is too old to tell, or does not authenticate; nothing has changed then.
        """
        sequence, fragment = record.sequence, record.fragment
        age = self._newest - sequence
        if age >= _WINDOW or (age >= 0 and self._seen >> age & 1):
            raise BadRecord("replayed record")
        length = len(fragment) - _EXPLICIT_NONCE - self._suite.tag_length
        if length < 0:
            raise BadRecord("record too short")
        try:
            plaintext = self._suite.aead(self._key).decrypt(
                self._salt + fragment[:_EXPLICIT_NONCE],
                fragment[_EXPLICIT_NONCE:],
                _additional_data(record.number, record.type, record.cid, length),
            )
        except InvalidTag:
            raise BadRecord("record does not authenticate") from None
        type_ = record.type
        if record.cid:
            # DTLSInnerPlaintext (RFC 9146 section 4): content, its type, and zeros.
            plaintext = plaintext.rstrip(b"\0")
            if not plaintext:
                raise BadRecord("record without a content type")
            type_, plaintext = plaintext[-1], plaintext[:-1]
        if age < 0:
            # A shift of more than the window forgets all; Python would build the whole number first.
            self._seen = (self._seen << -age & _WINDOW_MASK | 1) if -age < _WINDOW else 1
            self._newest = sequence
        else:
            self._seen |= 1 << age
        return Opened(type_, plaintext, age < 0)

    def open_alone(self, datagram: bytes) -> bytes | None:
        """The short path: the application data of a datagram that is one record, newer than all before it.

        None leaves it to `split` and `open`, whatever it is; nothing has changed then. Written for speed: a record is
        cut up once and makes no object but its plaintext. What it gives up are the reasons.
        """
        size = len(datagram)
        if not _FRAGMENT < size <= MAX_DATAGRAM or datagram[1:5] != _VERSION_AND_EPOCH_1:
            return None
        has_cid = datagram[0] == _CID
        start = _FRAGMENT_OF_CID if has_cid else _FRAGMENT
        length = size - start - _EXPLICIT_NONCE - self._suite.tag_length
        if length <= 0 or datagram[start - 2 : start] != (size - start).to_bytes(2, "big"):
            return None
        sequence = int.from_bytes(datagram[5:11], "big")
        step = sequence - self._newest
        if step <= 0:
            return None
        if has_cid:
            additional = _CID_HEAD + datagram[3:19] + length.to_bytes(2, "big")
        elif datagram[0] == _DATA:
            additional = datagram[3:11] + _HEAD[_DATA] + length.to_bytes(2, "big")
        else:
            return None
        nonce_end = start + _EXPLICIT_NONCE
        try:
            plaintext = self._suite.aead(self._key).decrypt(
                self._salt + datagram[start:nonce_end], datagram[nonce_end:], additional
            )
        except InvalidTag:
            return None
        if has_cid:
            if plaintext[-1] != _DATA:
                return None  # padded, or no application data
            plaintext = plaintext[:-1]
        self._seen = (self._seen << step & _WINDOW_MASK | 1) if step < _WINDOW else 1
        self._newest = sequence
        return plaintext
