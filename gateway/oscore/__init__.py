"""OSCORE (RFC 8613) without I/O: keys, messages and the window against replays."""
