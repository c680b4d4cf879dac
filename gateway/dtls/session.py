"""One established session: who the peer is, where it is, and the two states of its records. Kept small."""

from __future__ import annotations

from gateway.dtls.records import ReadState, WriteState
from gateway.dtls.suites import Suite

Address = tuple[str, int] | tuple[str, int, int, int]


class Session:
    """A DTLS association after its handshake; made and changed by the server only.

    ``identity`` is the PSK identity as it came (bytes of UTF-8 by RFC 4279, not checked). ``heard`` is the time of the
    last authentic record.
    """

    __slots__ = (
        "address",
        "cid",
        "final_flight",
        "heard",
        "identity",
        "open",
        "plain_sequence",
        "read",
        "session_id",
        "suite",
        "write",
    )

    def __init__(
        self,
        address: Address,
        identity: bytes,
        suite: Suite,
        cid: bytes,
        session_id: bytes,
        read: ReadState,
        write: WriteState,
    ) -> None:
        self.address = address
        self.identity = identity
        self.suite = suite
        #: Ours, by which the peer's records find the session; empty if none was negotiated.
        self.cid = cid
        self.session_id = session_id
        self.read = read
        self.write = write
        self.open = False
        self.heard = 0.0
        #: Our Finished, as long as the peer may ask for it again, and the sequence number of epoch 0 for the
        #: ChangeCipherSpec before it.
        self.final_flight: bytes | None = None
        self.plain_sequence = 0
