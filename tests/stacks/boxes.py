"""Boxes on a little network of the test's own, as in the guide: each a machine as far as Docker can tell.

A box is a `Daemon` with an address; a Swarm of several is a real one: its overlay networks go from box to box, and a
device's datagrams come to a box from outside. The network is 192.0.2.0/24, which RFC 5737 keeps for documents, so that
the guide's addresses are the test's. This machine is not in it, for it may have such an address itself: what shall be
at `HERE` in it is run by `Network.command`.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kafka_brokers import end_child_with_this_process
from tests.stacks.docker_host import ANSWER_S, Daemon

HERE = "192.0.2.1"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Network:
    """A switch in a network namespace of its own; nothing of this machine's network is on the way, or is changed."""

    def __init__(self) -> None:
        # Its namespace is there as long as it is.
        self._process = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        end_child_with_this_process(self._process.pid)
        self._ports = itertools.count(1)
        try:
            self._wait_apart()
            self._inside("ip", "link", "add", "switch", "type", "bridge")
            self._inside("ip", "address", "add", f"{HERE}/24", "dev", "switch")
            self._inside("ip", "link", "set", "switch", "up")
            self._inside("ip", "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    @property
    def _pid(self) -> str:
        return str(self._process.pid)

    def _wait_apart(self) -> None:
        here = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._pid}/ns/net").readlink() == here:
            assert self._process.poll() is None

    def command(self, *words: str) -> list[str]:
        """What runs a command in the network, as on a machine with the address `HERE`."""
        return ["nsenter", "--target", self._pid, "--net", *words]

    def _inside(self, *words: str) -> None:
        _run(*self.command(*words))

    def plug(self, box: Daemon, address: str) -> None:
        """Give a prepared daemon its address."""
        port = f"port{next(self._ports)}"
        self._inside("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(box.pid))
        self._inside("ip", "link", "set", "dev", port, "master", "switch", "up")
        box.inside("ip", "address", "add", f"{address}/24", "dev", "eth0")
        box.inside("ip", "link", "set", "eth0", "up")

    def remove(self) -> None:
        self._process.kill()
        self._process.wait(ANSWER_S)


@dataclass(slots=True, kw_only=True)
class Box(Daemon):
    """One box; `start`, `kill` and `stop` are its power switch."""

    address: str
    network: Network = field(repr=False)

    def start(self) -> None:
        """Switch it on; returns when its Docker answers."""
        self.prepare()
        self.network.plug(self, self.address)
        self.serve()

    def container(self, service: str) -> str:
        """The id of the running container of a service's task on this box; empty if there is none."""
        return self.docker("ps", "--quiet", "--filter", f"label=com.docker.swarm.service.name={service}").split("\n")[0]

    def services(self) -> dict[str, str]:
        """Of a manager: how many tasks of each service run and should, as ``1/1``."""
        lines = self.docker("service", "ls", "--format", "{{.Name}} {{.Replicas}}").splitlines()
        return {name: rest.split()[0] for name, _, rest in (line.partition(" ") for line in lines)}

    def inspect(self, *words: str) -> Any:
        """The one thing that an inspect command tells of."""
        (told,) = json.loads(self.docker(*words))
        return told
