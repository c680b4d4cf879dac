"""What is counted and what is said of datagrams that are dropped; the time is handed in."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.coap.drops import Drops

PEER = ("127.0.0.1", 40000)


def test_all_are_counted_and_one_in_ten_seconds_is_logged() -> None:
    times = iter((0.0, 1.0, 9.9, 10.0, 19.9, 25.0))
    drops = Drops(lambda: next(times))
    with capture_logs() as said:
        for _ in range(5):
            drops.drop("version", PEER)
        try:
            raise RuntimeError("on purpose")
        except RuntimeError:
            drops.failed(b"\x40\x01\0\1", PEER)
    assert drops.by_reason == {"version": 5, "internal error": 1}
    assert [(one["log_level"], one.get("dropped"), one.get("datagram")) for one in said] == [
        ("warning", 1, None),
        ("warning", 4, None),
        ("error", None, "40010001"),
    ]
