"""A DTLS 1.2 client with pre-shared keys for the tests, without I/O. It shares no code with the server.

It says each flight as one datagram a message, so that a link can lose or reorder them; `again` says the last one anew.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM

CCM_8, CCM, GCM = 0xC0A8, 0xC0A4, 0x00A8
_VERSION = b"\xfe\xfd"


def _p_hash(secret: bytes, label: bytes, seed: bytes, length: int) -> bytes:
    out, a = b"", label + seed
    while len(out) < length:
        a = hmac.new(secret, a, hashlib.sha256).digest()
        out += hmac.new(secret, a + label + seed, hashlib.sha256).digest()
    return out[:length]


def _u16(value: int) -> bytes:
    return struct.pack(">H", value)


def _u24(value: int) -> bytes:
    return struct.pack(">I", value)[1:]


@dataclass
class Ticket:
    """What an abbreviated handshake needs."""

    session_id: bytes
    master: bytes


@dataclass
class Client:
    identity: bytes = b"dev"
    key: bytes = b"sixteen byte key"
    suites: tuple[int, ...] = (CCM_8,)
    #: What records to us shall carry; None: no connection id is negotiated.
    cid: bytes | None = None
    extended: bool = True
    ticket: Ticket | None = None
    #: Handshake messages but the ClientHello are cut into fragments of this many bytes.
    cut: int = 10_000
    version: bytes = _VERSION
    extra_extensions: bytes = b""
    random: bytes = field(default_factory=lambda: os.urandom(32))
    established: bool = False
    resumed: bool = False
    received: list[bytes] = field(default_factory=list)
    alerts: list[tuple[int, int]] = field(default_factory=list)
    #: The server's connection id, by which our records are known.
    server_cid: bytes | None = None
    session_id: bytes = b""
    server_extensions: dict[int, bytes] = field(default_factory=dict)
    cookie: bytes = b""

    def __post_init__(self) -> None:
        self._plain_sequence = 0
        self._sequence = 0
        self._message_sequence = 0
        self._transcript = b""
        self._flight: list[tuple[int, int, bytes]] = []
        self._pending: dict[int, bytes] = {}
        self._keys: tuple[bytes, bytes, bytes, bytes] | None = None
        self._seen: dict[bytes, bytes] = {}
        self._early: list[tuple[int, bytes, bytes, bytes]] = []
        self.master = b""

    # Saying

    def start(self) -> list[bytes]:
        """The first ClientHello, or the one with the cookie."""
        session_id = self.ticket.session_id if self.ticket else b""
        extensions = self.extra_extensions
        if self.extended:
            extensions += _u16(23) + _u16(0)
        if self.cid is not None:
            extensions += _u16(54) + _u16(1 + len(self.cid)) + bytes([len(self.cid)]) + self.cid
        suites = b"".join(map(_u16, (*self.suites, 0x00FF)))
        body = self.version + self.random + bytes([len(session_id)]) + session_id
        body += bytes([len(self.cookie)]) + self.cookie + _u16(len(suites)) + suites + b"\x01\x00"
        if extensions:
            body += _u16(len(extensions)) + extensions
        self._flight = []
        self._transcript = b""
        self._say(1, body)
        return self.again()

    def _say(self, type_: int, body: bytes, epoch: int = 0) -> None:
        head = bytes([type_]) + _u24(len(body)) + _u16(self._message_sequence)
        self._message_sequence += 1
        self._transcript += head + _u24(0) + _u24(len(body)) + body
        cut = max(len(body), 1) if type_ == 1 else self.cut
        for at in range(0, max(len(body), 1), cut):
            piece = body[at : at + cut]
            self._flight.append((epoch, 22, head + _u24(at) + _u24(len(piece)) + piece))

    def again(self) -> list[bytes]:
        """The last flight with new record sequence numbers."""
        return [
            self.protect(type_, content) if epoch else self.plain(type_, content)
            for epoch, type_, content in self._flight
        ]

    def plain(self, type_: int, content: bytes) -> bytes:
        number = struct.pack(">Q", self._plain_sequence)
        self._plain_sequence += 1
        return bytes([type_]) + _VERSION + number + _u16(len(content)) + content

    def send(self, data: bytes) -> bytes:
        return self.protect(23, data)

    def alert(self, level: int, description: int) -> bytes:
        return self.protect(21, bytes([level, description]))

    def protect(self, type_: int, content: bytes, padding: int = 0) -> bytes:
        assert self._keys is not None
        number = struct.pack(">Q", 1 << 48 | self._sequence)
        self._sequence += 1
        if self.server_cid:
            content += bytes([type_]) + bytes(padding)
            aad = b"\xff" * 8 + b"\x19" + bytes([len(self.server_cid)]) + b"\x19" + _VERSION + number
            aad += self.server_cid + _u16(len(content))
            head = b"\x19" + _VERSION + number + self.server_cid
        else:
            aad = number + bytes([type_]) + _VERSION + _u16(len(content))
            head = bytes([type_]) + _VERSION + number
        sealed = number + self._aead(self._keys[0]).encrypt(self._keys[2] + number, content, aad)
        return head + _u16(len(sealed)) + sealed

    def _aead(self, key: bytes) -> AESCCM | AESGCM:
        if self.suites[0] == GCM:
            return AESGCM(key)
        return AESCCM(key, tag_length=8 if self.suites[0] == CCM_8 else 16)

    # Hearing

    def hear(self, datagram: bytes) -> list[bytes]:
        """Take a datagram of the server; what to send now."""
        out: list[bytes] = []
        while datagram:
            type_, number = datagram[0], datagram[3:11]
            cid = self.cid or b"" if type_ == 25 else b""
            assert datagram[11 : 11 + len(cid)] == cid
            at = 11 + len(cid)
            (length,) = struct.unpack(">H", datagram[at : at + 2])
            content, datagram = datagram[at + 2 : at + 2 + length], datagram[at + 2 + length :]
            assert len(content) == length
            if number[:2] == b"\0\0":
                out += self._hear_plain(type_, content)
            elif self._keys is None:
                self._early.append((type_, number, cid, content))
            else:
                out += self._hear_protected(type_, number, cid, content)
        return out

    def _hear_plain(self, type_: int, content: bytes) -> list[bytes]:
        if type_ == 21:
            self.alerts.append((content[0], content[1]))
        if type_ != 22:
            return []
        message_type, body = content[0], content[12:]
        assert content[1:4] == content[9:12] == _u24(len(body))
        if message_type == 3 and not self.cookie:
            assert body[0] == 0xFE
            self.cookie = body[3 : 3 + body[2]]
            return self.start()
        if self._keys is None:
            self._pending[message_type] = content
        if 2 in self._pending and 14 in self._pending and self._keys is None:
            self._hear_hello(self._pending[2])
            self._transcript += self._pending[14]
            return self._exchange_keys()
        if 2 in self._pending and self.ticket and self._keys is None:
            self._hear_hello(self._pending[2])
            if self.session_id == self.ticket.session_id:
                self.resumed = True
                self.master = self.ticket.master
                self._make_keys()
                early, self._early = self._early, []
                return [said for each in early for said in self._hear_protected(*each)]
            self._transcript = self._transcript[: -len(self._pending[2])]
        return []

    def _hear_hello(self, message: bytes) -> None:
        body = message[12:]
        self._server_random = body[2:34]
        self.session_id = body[35 : 35 + body[34]]
        at = 35 + body[34]
        assert struct.unpack(">H", body[at : at + 2])[0] in self.suites
        block = body[at + 5 :]
        self.server_extensions = {}
        while block:
            type_, length = struct.unpack(">HH", block[:4])
            self.server_extensions[type_] = block[4 : 4 + length]
            block = block[4 + length :]
        if 54 in self.server_extensions:
            self.server_cid = self.server_extensions[54][1:]
        self._transcript += message

    def _exchange_keys(self) -> list[bytes]:
        self._flight = []
        self._say(16, _u16(len(self.identity)) + self.identity)
        zeros = _u16(len(self.key)) + bytes(len(self.key)) + _u16(len(self.key)) + self.key
        if 23 in self.server_extensions:
            digest = hashlib.sha256(self._transcript).digest()
            self.master = _p_hash(zeros, b"extended master secret", digest, 48)
        else:
            self.master = _p_hash(zeros, b"master secret", self.random + self._server_random, 48)
        self._make_keys()
        self._finish()
        return self.again()

    def _make_keys(self) -> None:
        block = _p_hash(self.master, b"key expansion", self._server_random + self.random, 40)
        self._keys = block[:16], block[16:32], block[32:36], block[36:]

    def _finish(self) -> None:
        self._flight.append((0, 20, b"\x01"))
        digest = hashlib.sha256(self._transcript).digest()
        self._say(20, _p_hash(self.master, b"client finished", digest, 12), epoch=1)

    def _hear_protected(self, type_: int, number: bytes, cid: bytes, content: bytes) -> list[bytes]:
        assert self._keys is not None
        explicit, sealed = content[:8], content[8:]
        length = len(sealed) - (8 if self.suites[0] == CCM_8 else 16)
        if type_ == 25:
            aad = b"\xff" * 8 + b"\x19" + bytes([len(cid)]) + b"\x19" + _VERSION + number + cid + _u16(length)
        else:
            aad = number + bytes([type_]) + _VERSION + _u16(length)
        try:
            plaintext = self._aead(self._keys[1]).decrypt(self._keys[3] + explicit, sealed, aad)
        except InvalidTag:
            return []
        if number in self._seen:
            assert self._seen[number] == content, "the server used a sequence number twice"
            return []
        self._seen[number] = content
        if type_ == 25:
            plaintext = plaintext.rstrip(b"\0")
            type_, plaintext = plaintext[-1], plaintext[:-1]
        if type_ == 23:
            self.received.append(plaintext)
        elif type_ == 21:
            self.alerts.append((plaintext[0], plaintext[1]))
        elif type_ == 22:
            return self._hear_finished(plaintext)
        return []

    def _hear_finished(self, message: bytes) -> list[bytes]:
        assert message[0] == 20
        if self.established:
            return self.again() if self.resumed else []
        digest = hashlib.sha256(self._transcript).digest()
        assert message[12:] == _p_hash(self.master, b"server finished", digest, 12)
        self.established = True
        if not self.resumed:
            return []
        self._transcript += message
        self._flight = []
        self._finish()
        return self.again()

    def take_ticket(self) -> Ticket:
        return Ticket(self.session_id, self.master)
