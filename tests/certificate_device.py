"""A `RawDevice` over DTLS with a certificate, by OpenSSL's client: it shares no code of ours with the gateway."""

from __future__ import annotations

import time

from OpenSSL import SSL, crypto

from tests.certificates import Holder
from tests.raw_device import RawDevice

#: DTLS 1.2 on the wire.
_DTLS_1_2 = 0xFEFD
_CIPHERS = b"ECDHE-ECDSA-AES128-CCM8:ECDHE-ECDSA-AES128-GCM-SHA256:@SECLEVEL=0"


class CertificateDevice(RawDevice):
    """Makes its session at once, and lets in no gateway that ``authority`` did not sign."""

    def __init__(
        self,
        server: tuple[str, int],
        ep: str,
        holder: Holder,
        authority: Holder,
        *,
        first_mid: int = 1,
        patience: float = 30.0,
    ) -> None:
        """
        Raises:
            AssertionError: there was no session after ``patience`` seconds, or an alert came.
        """
        self._holder, self._authority = holder, authority
        self._context = self._made()
        self._line: SSL.Connection | None = None
        self._is_up = False
        self.alerts: list[str] = []
        super().__init__(server, ep, first_mid=first_mid)
        try:
            self.connect(patience=patience)
        except BaseException:
            self.close()
            raise

    def _made(self) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        context.set_min_proto_version(_DTLS_1_2)
        context.set_max_proto_version(_DTLS_1_2)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        context.set_cipher_list(_CIPHERS)
        context.use_certificate(self._holder.certificate)
        context.use_privatekey(self._holder.key)
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(self._authority.certificate))
        context.set_verify(SSL.VERIFY_PEER, lambda *given: bool(given[-1]))
        return context

    def connect(self, *, patience: float = 30.0, resumes: bool = False) -> None:
        """Make a session, also in place of one that is there; with ``resumes`` go on with that, if the gateway does."""
        line = SSL.Connection(self._context, None)
        line.set_connect_state()
        line.set_ciphertext_mtu(1200)
        if resumes:
            assert self._line is not None
            session = self._line.get_session()
            assert session is not None
            line.set_session(session)
            # OpenSSL resumes none that ends unsaid.
            self._line.set_shutdown(SSL.SENT_SHUTDOWN)
        end = time.monotonic() + patience
        with self._changed:
            self._line, self._is_up, self.alerts = line, False, []
            self._go_on()
            while not self._is_up and not self.alerts and time.monotonic() < end:
                if not self._changed.wait(0.5):
                    line.DTLSv1_handle_timeout()
                    self._say()
        assert self._is_up, f"no session for {self.ep}; alerts: {self.alerts}"

    @property
    def was_told_to_end(self) -> bool:
        """True if the gateway has closed the session."""
        return "close_notify" in self.alerts

    def send(self, datagram: bytes) -> None:
        with self._changed:
            assert self._line is not None
            self._line.send(datagram)
            self._say()

    def _go_on(self) -> None:
        assert self._line is not None
        try:
            self._line.do_handshake()
            self._is_up = True
        except SSL.WantReadError:
            pass
        except SSL.Error as exc:
            self.alerts.append(str(exc))
        self._say()

    def _say(self) -> None:
        """Each record in a datagram of its own."""
        assert self._line is not None
        try:
            said = self._line.bio_read(1 << 16)
        except SSL.Error:
            return
        while said:
            end = 13 + int.from_bytes(said[11:13], "big")
            self._socket.sendto(said[:end], self._server)
            said = said[end:]

    def _opened(self, datagram: bytes) -> list[bytes]:
        assert self._line is not None
        self._line.bio_write(datagram)
        if not self._is_up:
            self._go_on()
            self._changed.notify_all()
        messages: list[bytes] = []
        while self._is_up:
            try:
                messages.append(self._line.recv(1 << 14))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.alerts.append("close_notify")
                break
            except SSL.Error as exc:
                self.alerts.append(str(exc))
                break
        return messages
