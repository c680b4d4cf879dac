"""The established sessions of one server: found by connection id or address, bounded, the longest silent one known."""

from __future__ import annotations

from collections import OrderedDict

from gateway.dtls.records import CID_AT, CID_LENGTH, ContentType, Record
from gateway.dtls.session import Address, Session

_TLS12_CID = bytes((ContentType.TLS12_CID,))
_CID_END = CID_AT + CID_LENGTH


class Sessions:
    """Every open session; iterates from the longest silent to the one that was heard last."""

    def __init__(self) -> None:
        self._by_silence: OrderedDict[Session, None] = OrderedDict()
        #: Those without a connection id: their address is all that their records are known by.
        self._by_address: dict[Address, Session] = {}
        self._by_cid: dict[bytes, Session] = {}
        #: The newest session of each identity.
        self._by_identity: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_silence)

    def of_record(self, record: Record, address: Address) -> Session | None:
        """The session whose record it says to be.

        A record without a connection id belongs to no session that has one (RFC 9146 section 4).
        """
        return self._by_cid.get(record.cid) if record.cid else self._by_address.get(address)

    def of_datagram(self, datagram: bytes, address: Address) -> Session | None:
        """As `of_record`, of the record that a datagram begins with."""
        if datagram[:1] == _TLS12_CID:
            return self._by_cid.get(datagram[CID_AT:_CID_END])
        return self._by_address.get(address)

    def at(self, address: Address) -> Session | None:
        """The session that is known by this address."""
        return self._by_address.get(address)

    def has_cid(self, cid: bytes) -> bool:
        """True if the connection id is taken."""
        return cid in self._by_cid

    def all(self) -> list[Session]:
        """Those that are open now."""
        return list(self._by_silence)

    def replaced_by(self, session: Session) -> list[Session]:
        """The open sessions that a new one is in place of: those at its address (RFC 6347 section 4.2.8).

        One with a connection id only if it is of the same identity, since another device may have been at the address
        before; but then also from elsewhere, if it is the one that was resumed.
        """
        here = self._by_address.get(session.address)
        before = self._by_identity.get(session.identity)
        replaced = [here] if here is not None else []
        if before is not None and before is not here:
            resumed = session.session_id != b"" and before.session_id == session.session_id
            if resumed or before.address == session.address:
                replaced.append(before)
        return replaced

    def add(self, session: Session, now: float) -> None:
        """Take in a new session, after those that it replaces were removed."""
        session.open = True
        session.heard = now
        self._by_silence[session] = None
        self._by_identity[session.identity] = session
        if session.cid:
            self._by_cid[session.cid] = session
        else:
            self._by_address[session.address] = session

    def heard(self, session: Session, now: float) -> None:
        """Something authentic came."""
        session.heard = now
        self._by_silence.move_to_end(session)

    def longest_silent(self) -> Session | None:
        """The session that was heard longest ago."""
        return next(iter(self._by_silence), None)

    def remove(self, session: Session) -> None:
        """Forget an open session."""
        session.open = False
        del self._by_silence[session]
        if session.cid:
            del self._by_cid[session.cid]
        else:
            del self._by_address[session.address]
        if self._by_identity.get(session.identity) is session:
            del self._by_identity[session.identity]
