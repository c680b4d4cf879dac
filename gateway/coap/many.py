"""Many datagrams by one call: ``recvmmsg`` and ``sendmmsg`` of the C library, on one UDP socket.

Owns the buffers, made once, and the layout of their slots; the kernel writes into them and reads out of them. It parses
nothing. A peer is the bytes of its socket address here (``struct sockaddr_in`` or ``sockaddr_in6``), which one socket
always gives alike: so no address is put into words and back for each datagram.

A slot of what was received is that address and then the datagram; one of what is sent is the address and then a
message, of the same size in all that go by one call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache
from struct import Struct
from typing import Any

from gateway.coap.message import MAX_DATAGRAM
from gateway.coap.peers import UdpAddress

#: Datagrams a call, at most; their slots take 264 KiB.
MOST = 128
#: Bytes of an empty message of CoAP (RFC 7252 section 4.1).
MESSAGE = 4
#: Bytes of a request that is sent with others, at most.
REQUEST = 128

_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
#: Room for a datagram that is too long by a byte, so that it is seen to be.
_ROOM = MAX_DATAGRAM + 8


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct msghdr``, as Linux has it (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("iovec", ctypes.c_void_p),
        ("iovecs", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """``struct mmsghdr`` (recvmmsg(2))."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint))


#: ``sin_family``, then all in network order: ``sin_port``, ``sin_addr``, and eight zeros.
_IPV4 = Struct("2s2s4s8x")
#: ``sin6_family``, in network order ``sin6_port``, ``sin6_flowinfo`` and ``sin6_addr``, and ``sin6_scope_id``.
_IPV6 = Struct("=2s2s4s16sI")
_FAMILY_4, _FAMILY_6 = (int(family).to_bytes(2, sys.byteorder) for family in (socket.AF_INET, socket.AF_INET6))


def many_datagrams(sock: socket.socket) -> ManyDatagrams | None:
    """For this socket; None where the system has no such calls."""
    calls = _calls()
    if calls is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return ManyDatagrams(sock, *calls)


_Call = Callable[..., int]


@cache
def _calls() -> tuple[_Call, _Call] | None:
    if not sys.platform.startswith("linux"):
        return None  # the layout of the header is Linux's
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        receive, send = libc.recvmmsg, libc.sendmmsg
    except (OSError, AttributeError):
        return None
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


class ManyDatagrams:
    """Both directions of one socket that does not block.

    Of the slot ``i`` of what was received last, ``name_size`` bytes of ``buffer`` from ``i * stride`` on are the peer's
    address, and what is behind them is the datagram.
    """

    def __init__(self, sock: socket.socket, receive: _Call, send: _Call) -> None:
        self._socket = sock
        self._receive, self._send = receive, send
        self._is_ipv6 = sock.family == socket.AF_INET6
        self.name_size = (_IPV6 if self._is_ipv6 else _IPV4).size
        # Addresses are aligned as the kernel's own are; nothing needs it, and none costs more for it.
        self.stride = (self.name_size + _ROOM + 15) // 16 * 16
        self.buffer = bytearray(MOST * self.stride)
        self._headers = _headers(self.buffer, self.stride, self.name_size, _ROOM)
        self._headers_at = ctypes.addressof(self._headers)
        lengths = memoryview(self._headers).cast("B").cast("I")
        self._lengths = lengths[_Header.length.offset // 4 :: ctypes.sizeof(_Header) // 4]
        #: By the size of the messages.
        self._out: dict[int, _Out] = {MESSAGE: _Out(self.name_size, MESSAGE)}
        self._requests = _Out(self.name_size, REQUEST)

    def receive(self) -> list[int]:
        """The sizes of the datagrams that were waiting, MOST of them at most; `MAX_DATAGRAM` + 1 or more is too long.

        Raises:
            OSError: the socket has an error, or is closed.
        """
        count = self._receive(self._socket.fileno(), self._headers_at, MOST, _DONTWAIT, None)
        if count > 0:
            sizes: list[int] = self._lengths[:count].tolist()
            return sizes
        code = ctypes.get_errno()
        if count == 0 or code in (errno.EAGAIN, errno.EINTR):
            return []
        raise OSError(code, os.strerror(code))

    def datagram(self, slot: int, size: int) -> tuple[bytes, UdpAddress]:
        """What is in a slot of the last `receive`, and who sent it."""
        at = slot * self.stride + self.name_size
        return bytes(self.buffer[at : at + size]), self.address(self.name(slot))

    def name(self, slot: int) -> bytes:
        """The socket address in a slot of the last `receive`."""
        at = slot * self.stride
        return bytes(self.buffer[at : at + self.name_size])

    def address(self, name: bytes) -> UdpAddress:
        """A socket address as `socket.recvfrom` gives it."""
        if self._is_ipv6:
            _, port, flow, host, scope = _IPV6.unpack(name)
            words = socket.inet_ntop(socket.AF_INET6, host)
            return words, int.from_bytes(port, "big"), int.from_bytes(flow, "big"), scope
        _, port, host = _IPV4.unpack(name)
        return socket.inet_ntoa(host), int.from_bytes(port, "big")

    def name_of(self, address: UdpAddress) -> bytes:
        """An address of `socket.recvfrom` as a socket address: what `name` gives for who sends from there."""
        if self._is_ipv6:
            host, port, flow, scope = address  # type: ignore[misc]  # of an IPv6 socket
            packed = socket.inet_pton(socket.AF_INET6, host)
            return _IPV6.pack(_FAMILY_6, port.to_bytes(2, "big"), flow.to_bytes(4, "big"), packed, scope)
        return _IPV4.pack(_FAMILY_4, address[1].to_bytes(2, "big"), socket.inet_aton(address[0]))

    def send(self, slots: list[bytes], message: int = MESSAGE) -> None:
        """Send messages of one size, each a slot: address and message. What cannot go is lost, like any datagram."""
        out = self._out.get(message)
        if out is None:
            out = self._out[message] = _Out(self.name_size, message)
        for start in range(0, len(slots), MOST):
            data = b"".join(slots[start : start + MOST])
            out.buffer[: len(data)] = data
            self._send_slots(out, len(data) // out.stride, [])

    def send_requests(self, requests: list[tuple[bytes, bytes]]) -> list[int]:
        """Send datagrams of REQUEST bytes at most, each to a socket address. What cannot go is lost; returns why."""
        lost: list[int] = []
        out, name_size = self._requests, self.name_size
        buffer, sizes, stride = out.buffer, out.sizes, out.stride
        for start in range(0, len(requests), MOST):
            portion = requests[start : start + MOST]
            for slot, (name, datagram) in enumerate(portion):
                size = sizes[slot] = len(datagram)
                at = slot * stride
                buffer[at : at + name_size + size] = name + datagram
            self._send_slots(out, len(portion), lost)
        return lost

    def _send_slots(self, out: _Out, count: int, lost: list[int]) -> None:
        """Send the messages of the first ``count`` slots; the error of each that is lost goes to ``lost``."""
        size, done = ctypes.sizeof(_Header), 0
        while done < count:
            number = self._socket.fileno()  # after `close` another file may have it
            sent = -1 if number < 0 else self._send(number, out.headers_at + done * size, count - done, _DONTWAIT)
            if sent > 0:
                done += sent
                continue
            code = errno.EBADF if number < 0 else ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EBADF):
                lost += [code] * (count - done)
                return
            lost.append(code)  # that peer cannot be reached
            done += 1


class _Out:
    """The slots of what is sent, for messages of one size, or of that size at most: MOST of them."""

    def __init__(self, name_size: int, message: int) -> None:
        self.stride = name_size + message
        out = bytearray(MOST * self.stride)
        self.buffer = memoryview(out)
        self._headers = _headers(out, self.stride, name_size, message)
        self.headers_at = ctypes.addressof(self._headers)
        sizes = memoryview(self._headers.kept[1]).cast("B").cast("L")
        #: The bytes of the message in each.
        self.sizes = sizes[_Iovec.size.offset // sizes.itemsize :: ctypes.sizeof(_Iovec) // sizes.itemsize]


def _headers(buffer: bytearray, stride: int, name_size: int, size: int) -> Any:
    """The headers of the slots of a buffer; they keep it, and what they point to, alive."""
    base = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    iovecs = (_Iovec * MOST)(*[_Iovec(base + slot * stride + name_size, size) for slot in range(MOST)])
    headers = (_Header * MOST)()
    for slot in range(MOST):
        header = headers[slot].message
        header.name, header.name_size = base + slot * stride, name_size
        header.iovec, header.iovecs = ctypes.addressof(iovecs) + slot * ctypes.sizeof(_Iovec), 1
    headers.kept = (buffer, iovecs)  # type: ignore[attr-defined]  # an array of ctypes takes attributes
    return headers


#: A slot and the size of the datagram in it.
Slots = Iterator[tuple[int, int]]
