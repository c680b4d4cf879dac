"""A device that gets its key from a bootstrap server and opens a session at its gateway with it, as a program.

``python -m tests.stacks.bootstrapped OWN-ADDRESS SERVER:PORT GATEWAY:PORT ENDPOINT KEY-IN-HEX`` ends with 0 if it
could. It does not register, so nobody has to know of it afterwards.
"""

from __future__ import annotations

import sys
import time

from aiocoap.numbers.codes import Code

from schemas.lwm2m import formats
from schemas.lwm2m.nodes import values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.bootstrap_process import SECONDS, Answers
from tests.secure_device import SecureDevice


class _Device(SecureDevice):
    bound_host = sys.argv[1] if __name__ == "__main__" else SecureDevice.bound_host


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def main(server: str, gateway: str, ep: str, key: str) -> None:
    """
    Raises:
        AssertionError: the one did not bootstrap it, or the other did not let it in.
    """
    answers = Answers()
    with _Device(_pair(server), ep, bytes.fromhex(key)) as device:
        device.answer = answers
        answer = device.ask(Code.POST, ("bs",), (f"ep={ep}",))
        assert answer.code == Code.CHANGED, answer
        end = time.monotonic() + SECONDS
        while not answers.finished:
            assert time.monotonic() < end, answers.asked
            time.sleep(0.1)
    node = formats.decode(11542, answers.written["/0/1"], Path.parse("/0/1"), Definitions.builtin())
    given = {str(one.path): one.value for one in values(node)}
    identity, own = given["/0/1/3"], given["/0/1/5"]
    assert isinstance(identity, bytes)
    assert isinstance(own, bytes)
    with _Device(_pair(gateway), ep, own, identity=identity.decode()):
        pass


if __name__ == "__main__":
    main(*sys.argv[2:])
