"""DTLS with certificates: OpenSSL's handshakes and sessions, without I/O."""
