"""A fleet on boxes, in a test's hands: what the deployment is told, and looks at what came of it from outside.

Everything is done as a person does it: ``headwater deploy`` beside the manager's Docker, ``docker`` on a box, and
``headwater`` in the client's container. Topics are read by a container of its own, with an identity of the fleet.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from headwater.demo.audit import Stored
from tests.stacks.boxes import Box

REPOSITORY = Path(__file__).resolve().parents[2]
#: Patience with a busy machine, in seconds.
DEPLOY_S = 1800.0
ASK_S = 300.0
LOG_S = 20.0

#: Asks often how all are, and does not watch for long what came up: what does not is taken back all the same.
QUICK = {"HEALTH_INTERVAL": "10s", "UPDATE_MONITOR": "5s"}
#: What stays small on a test's machine.
_SMALL = QUICK | {"CLOUD_KAFKA_HEAP": "160m", "ORIENTDB_HEAP": "160m"}

#: Runs where Headwater's image does; writes what it read to where the test finds it.
_READ = """\
import pathlib, pickle, sys
from connectors.kafka import Cluster
from headwater.demo.audit import read_side
found = read_side(Cluster(bootstrap=sys.argv[1], tls=pathlib.Path("/tls")), sys.argv[2:])
pathlib.Path("/out/found").write_bytes(pickle.dumps(found))
"""

_ASK_INFLUXDB = """\
import json, pathlib, sys, urllib.parse, urllib.request
password = pathlib.Path("/run/secrets/influxdb_password").read_text().strip()
asked = {"u": "headwater", "p": password, "db": "headwater", "epoch": "ns", "q": sys.argv[1]}
url = f"http://127.0.0.1:8086/query?{urllib.parse.urlencode(asked)}"
print(urllib.request.urlopen(url, timeout=60).read().decode())
"""

_ASK_ORIENTDB = """\
import base64, json, pathlib, sys, urllib.request
password = pathlib.Path("/run/secrets/orientdb_password").read_text().strip()
command = json.dumps({"command": sys.argv[1]}).encode()
ask = urllib.request.Request("http://127.0.0.1:2480/command/headwater/sql/-/-1", command)
ask.add_header("Authorization", "Basic " + base64.b64encode(f"root:{password}".encode()).decode())
print(urllib.request.urlopen(ask, timeout=60).read().decode())
"""

_GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


class CommandFailed(AssertionError):
    """A command ended with another code than 0; the text is what it said."""


@dataclass(slots=True, kw_only=True)
class Fleet:
    """The fleet of the file ``fleet.yaml`` in ``folder``; ``cloud`` is the manager's box."""

    folder: Path
    cloud: Box
    boxes: Mapping[str, Box]
    #: Other people's images, by the variable of the stacks.
    images: Mapping[str, str]
    version: str
    #: Each gateway is on the box of its name.
    gateways: list[str] = field(default_factory=list)
    #: What else the file says of one.
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "fleet.yaml"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    def write(self) -> None:
        """Write what is wanted; `apply` makes it so."""
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / "stacks").exists():
            # Who works on them meanwhile deploys nothing here.
            shutil.copytree(REPOSITORY / "stacks", self.folder / "stacks")
        wanted = {
            "version": self.version,
            "pki": "pki",
            "secrets": "secrets",
            "stacks": "stacks",
            "resolve_images": "never",
            "images": dict(self.images),
            "cloud": {"node": self.cloud.name, "profile": "cloud-small", "settings": _SMALL},
            "gateways": {
                name: {
                    "node": name,
                    "profile": "lowmem",
                    # The tests' devices have no keys.
                    "insecure": True,
                    "observe": ["/3303/*/5700"],
                    "settings": QUICK,
                    **self.more.get(name, {}),
                }
                for name in self.gateways
            },
        }
        self.file.write_text(yaml.safe_dump(wanted, sort_keys=False))

    def deploy(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`headwater deploy VERB` with this fleet, at the manager."""
        return subprocess.run(
            [sys.executable, "-m", "headwater.cli", "deploy", verb, str(self.file), *words],
            cwd=self.folder,
            env=self.cloud.environment | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEPLOY_S,
            check=False,
        )

    def apply(self) -> str:
        """Write the file, and make the Swarm what it says; what the command told."""
        self.write()
        done = self.deploy("apply", "--yes", "--timeout", "1200")
        if done.returncode:
            raise CommandFailed(f"deploy apply: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.state()}")
        return done.stdout + done.stderr

    def state(self) -> str:
        """Every task that is not as it should be, for failures."""
        lines = [self.cloud.docker("service", "ls")]
        for service in self.cloud.docker("service", "ls", "--quiet").split():
            form = "{{.Name}} {{.Node}} {{.DesiredState}} {{.CurrentState}} {{.Error}}"
            tasks = self.cloud.docker("service", "ps", "--no-trunc", "--format", form, service).splitlines()
            if not any(" Running Running " in line or " Complete " in line for line in tasks):
                lines += tasks[:3]
                lines.append(self._log(service)[-3000:])
        return "\n".join(lines)

    def _log(self, service: str) -> str:
        """The last that a service said; Docker waits for the logs of a task that has not begun."""
        try:
            done = subprocess.run(
                ["docker", "service", "logs", "--raw", "--tail", "20", service],
                env=self.cloud.environment,
                capture_output=True,
                text=True,
                timeout=LOG_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"(no log of {service} within {LOG_S:.0f} s)"
        return done.stdout + done.stderr

    # ---- looks

    def identity(self, principal: str) -> Path:
        """The folder of an identity (``role:name``) of this fleet."""
        return self.pki / "issued" / principal.replace(":", "+")

    def read(self, network: str, kafka: str, identity: Path, topics: Iterable[str]) -> list[Stored]:
        """All committed records of topics, as who has the folder ``identity`` reads them in ``network``.

        Raises:
            DockerError: they cannot be read.
        """
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        self.cloud.docker(
            *("run", "--rm", "--network", network, "--user", "0", "--entrypoint", "python"),
            *("--volume", f"{identity}:/tls:ro", "--volume", f"{out}:/out"),
            *(f"headwater:{self.version}", "-c", _READ, kafka, *topics),
            timeout=ASK_S,
        )
        found: list[Stored] = pickle.loads((out / "found").read_bytes())
        return found

    def in_cloud(self, service: str, *words: str) -> str:
        """What a command says in the container of ``service``, which runs on the cloud's box."""
        container = self.cloud.container(service)
        assert container, f"{service} has no container\n{self.state()}"
        return self.cloud.docker("exec", container, *words, timeout=ASK_S)

    def client(self, *words: str) -> str:
        """`headwater` as people have it in the cloud."""
        return self.in_cloud("cloud_client", "headwater", *words)

    def influxdb(self, query: str) -> list[dict[str, Any]]:
        """The series of an InfluxQL statement."""
        told = self.in_cloud("cloud_influxdb", "python3", "-c", _ASK_INFLUXDB, query)
        (result,) = json.loads(told)["results"]
        assert "error" not in result, result
        return list(result.get("series", []))

    def graph(self, sql: str) -> list[dict[str, Any]]:
        """The rows of OrientDB's SQL."""
        return list(json.loads(self.in_cloud("cloud_orientdb", "python3", "-c", _ASK_ORIENTDB, sql))["result"])

    def prometheus(self, path: str) -> Any:
        """What Prometheus' API answers."""
        told = self.in_cloud("monitoring_prometheus", "python3", "-c", _GET, f"http://127.0.0.1:9090{path}")
        return json.loads(told)["data"]


def script(name: str, *words: str, environment: Mapping[str, str], cwd: Path) -> str:
    """Run a program of the checkout, such as make; returns what it said."""
    done = subprocess.run(
        [name, *words],
        cwd=cwd,
        env=dict(os.environ) | dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(
            f"{name} {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout
