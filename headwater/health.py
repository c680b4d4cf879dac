"""Whether a process of Headwater is well, as it says itself at ``/healthz`` of its metrics port.

Owns one HTTP question. A container asks the same by ``stacks/images/headwater/healthcheck``, without a Python for it.
"""

from __future__ import annotations

import socket

#: What an answer may have at most; ``/healthz`` says a line.
_MOST = 4096


def ask(host: str, port: int, timeout: float) -> str | None:
    """None if the process says that it is well, else why not.

    Args:
        host: where the metrics are served; an address that stands for all of a machine's is asked on this machine.
        port: the port of the metrics.
        timeout: seconds for the connection, and for each piece of the answer.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    answer = b""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(f"GET /healthz HTTP/1.0\r\nHost: {at}\r\n\r\n".encode())
            while len(answer) < _MOST and (piece := connection.recv(_MOST)):
                answer += piece
    except OSError as exc:
        return f"nothing answers at {at}: {exc.strerror or exc}"
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.partition(b"\r\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        return f"{at} does not speak HTTP"
    if words[1] == b"200":
        return None
    said = body.decode("utf-8", "replace").strip()
    return said or f"{at}/healthz answers {words[1].decode('ascii', 'replace')}"
