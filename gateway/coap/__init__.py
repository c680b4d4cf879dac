"""CoAP over UDP (RFC 7252, 7641, 7959, 9175): the socket, the message layer, and the way to and from aiocoap."""
