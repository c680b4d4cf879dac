"""DTLS 1.2 with pre-shared keys (RFC 6347, RFC 7925) and Connection ID (RFC 9146): server and client, without I/O."""
