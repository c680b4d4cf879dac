"""The Swarm itself: what is there, and each thing that can be done to it. The only module that speaks to Docker.

Owns how Docker's answers become the types of `plan` and `convergence`. Decides nothing. Stacks go through the program
``docker stack deploy``, so that what is deployed is what the same file gives by hand; everything else through Docker's
own library for Python.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.deploy.convergence import Status, Task, judge
from headwater.deploy.plan import Node, Observed, ObservedService
from headwater.deploy.stackfile import FLEET, ONCE, REVISION, RUNS

_STACK = "com.docker.stack.namespace"
_TASK = "com.docker.swarm.task.id"
#: Docker may take so long for an answer, in seconds; for a deployment, which may look into a registry, longer.
_ANSWER_S, _DEPLOY_S = 30, 600
#: How often a change is tried that somebody else's change came before, and the seconds between.
_ATTEMPTS, _PAUSE_S = 5, 1.0


class SwarmError(Exception):
    """Docker cannot be reached, is no manager of a Swarm, or refuses; the text says what to do."""


class Swarm:
    """The Swarm of the Docker that the environment names (``DOCKER_HOST``), or of this machine."""

    def __init__(self) -> None:
        """
        Raises:
            SwarmError: no library, no Docker, no right to use it, or no Swarm that is managed there.
        """
        try:
            import docker
        except ModuleNotFoundError as exc:
            raise SwarmError("Docker's library for Python is not installed: pip install 'headwater[deploy]'") from exc
        if shutil.which("docker") is None:
            raise SwarmError("there is no program `docker` on this machine; docs/deploy.md says how it is installed")
        where = os.environ.get("DOCKER_HOST", "the socket /var/run/docker.sock")
        try:
            # Any: what is known of the library's types lacks half of it.
            self._docker: Any = docker.from_env(timeout=_ANSWER_S)
            swarm = self._docker.info().get("Swarm", {})
        except (docker.errors.DockerException, OSError) as exc:
            words = str(exc)
            if "Permission denied" in words:
                raise SwarmError(
                    f"Docker answers at {where}, but this user may not use it: add him to the group docker "
                    "(sudo usermod -aG docker $USER, then log in again), or use sudo"
                ) from exc
            raise SwarmError(f"no Docker answers at {where}: is it started (systemctl status docker)? {words}") from exc
        if swarm.get("LocalNodeState") != "active":
            raise SwarmError("this Docker is in no Swarm: docker swarm init, as docs/deploy.md says")
        if not swarm.get("ControlAvailable"):
            managers = ", ".join(str(one.get("Addr")) for one in swarm.get("RemoteManagers") or ())
            raise SwarmError(f"this node is a worker of the Swarm; run it on a manager ({managers})")

    # ---- what is there

    def observe(self) -> Observed:
        """All of it that matters.

        Raises:
            SwarmError: Docker does not answer.
        """
        with _told():
            api = self._docker.api
            services = [_service(one) for one in api.services()]
            return Observed(
                nodes=tuple(_node(one) for one in api.nodes()),
                networks={
                    str(one["Name"]): _label(one.get("Labels"), FLEET)
                    for one in api.networks()
                    if one.get("Scope") == "swarm"
                },
                secrets={str(one["Spec"]["Name"]): _label(one["Spec"].get("Labels"), FLEET) for one in api.secrets()},
                configs={str(one["Spec"]["Name"]): _label(one["Spec"].get("Labels"), _STACK) for one in api.configs()},
                services=tuple(services),
            )

    def status(self, fleet: str) -> list[Status]:
        """How every service of a fleet is.

        Raises:
            SwarmError: Docker does not answer.
        """
        with _told():
            api = self._docker.api
            nodes = {str(one["ID"]): _node(one) for one in api.nodes()}
            found = []
            for service in api.services(filters={"label": f"{FLEET}={fleet}"}):
                spec = service["Spec"]
                tasks = [_task(one, service, nodes) for one in api.tasks(filters={"service": service["ID"]})]
                labels = spec.get("Labels") or {}
                stack = str(labels.get(_STACK, ""))
                mode = spec.get("Mode", {})
                if "Global" in mode:
                    # As many as there are nodes for it: of those it was given to, and that shall go on.
                    wanted = max(1, len({task.node for task in tasks if task.desired == "running"}))
                else:
                    wanted = int(mode.get("Replicated", {}).get("Replicas", 1))
                found.append(
                    judge(
                        stack,
                        str(spec["Name"]).removeprefix(f"{stack}_"),
                        image=_image(spec),
                        wanted=wanted,
                        once=labels.get(RUNS) == ONCE,
                        update=str((service.get("UpdateStatus") or {}).get("State", "")),
                        tasks=tasks,
                    )
                )
            return sorted(found, key=lambda one: (one.stack, one.service))

    def last_words(self, service: str, task: str = "") -> str:
        """The last line that a service wrote, if Docker has it: that of the ``task`` with this id, if it wrote any."""
        import docker

        try:
            # Details are put before each line, as key=value with commas between them, and the task's id is one.
            logs = self._docker.services.get(service).logs(details=True, stdout=True, stderr=True, tail=10)
            text = b"".join(logs).decode("utf-8", "replace")
        except (docker.errors.DockerException, OSError):
            return ""
        lines = [(details, line) for details, _, line in (one.partition(" ") for one in text.splitlines())]
        its = [line for details, line in lines if task and f"{_TASK}={task}" in details.split(",")]
        return _last_said(its) or _last_said([line for _, line in lines])

    # ---- what can be done

    def set_label(self, node: str, key: str, value: str | None) -> None:
        """Give a node a label, or take it away with None."""

        def change() -> None:
            with _told():
                attrs = next(one for one in self._docker.api.nodes() if _node(one).name == node)
                spec = dict(attrs["Spec"])
                labels = {name: one for name, one in (spec.get("Labels") or {}).items() if name != key}
                spec["Labels"] = labels if value is None else {**labels, key: value}
                self._docker.api.update_node(attrs["ID"], attrs["Version"]["Index"], spec)

        against_others(change)

    def make_network(self, name: str, fleet: str, *, encrypted: bool) -> None:
        """An overlay network to which containers outside of services can be attached as well."""
        with _told():
            self._docker.networks.create(
                name,
                driver="overlay",
                attachable=True,
                labels={FLEET: fleet},
                options={"encrypted": ""} if encrypted else None,
            )

    def make_secret(self, name: str, fleet: str, content: bytes) -> None:
        """A secret; it never changes, so its name says what it holds."""
        with _told():
            self._docker.secrets.create(name=name, data=content, labels={FLEET: fleet})

    def remove_secret(self, name: str) -> bool:
        """False if a service still uses it."""
        return self._remove(lambda: self._docker.api.remove_secret(name))

    def remove_config(self, name: str) -> bool:
        """False if a service still uses it."""
        return self._remove(lambda: self._docker.api.remove_config(name))

    def remove_network(self, name: str) -> bool:
        """False if something is still attached to it."""
        return self._remove(lambda: self._docker.api.remove_network(name))

    def deploy(self, name: str, files: Sequence[Path], variables: Mapping[str, str], resolve_images: str) -> None:
        """``docker stack deploy`` with these variables and no others of the stack files' from the environment.

        Raises:
            SwarmError: it refuses; its own words.
        """
        command = ["docker", "stack", "deploy", *self._unattended, "--with-registry-auth", "--prune"]
        command += [f"--resolve-image={resolve_images}", *(f"--compose-file={file}" for file in files), name]
        kept = {key: os.environ[key] for key in os.environ if key.startswith("DOCKER_") or key in _KEPT}
        against_others(lambda: self._run(command, {**kept, **variables}))

    @functools.cached_property
    def _unattended(self) -> list[str]:
        """Docker is asked once, not for each of a fleet's stacks."""
        told = subprocess.run(
            ["docker", "stack", "deploy", "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
        return unattended(told.stdout)

    def remove_stack(self, name: str) -> None:
        """``docker stack rm``, which takes its services, configs and own networks.

        Raises:
            SwarmError: it refuses; its own words.
        """
        self._run(["docker", "stack", "rm", name], dict(os.environ))

    def running_of(self, stack: str) -> int:
        """How many containers of a stack are still there, which hold its networks, secrets and volumes."""
        with _told():
            tasks = self._docker.api.tasks(filters={"label": f"{_STACK}={stack}"})
            return sum(one.get("Status", {}).get("State") in ("running", "starting", "preparing") for one in tasks)

    def leaving(self, stack: str) -> int:
        """How many containers of a stack still run though their service was removed: they may write to its volumes."""
        with _told():
            there = {str(one["ID"]) for one in self._docker.api.services()}
            tasks = self._docker.api.tasks(filters={"label": f"{_STACK}={stack}"})
            return sum(
                one.get("Status", {}).get("State") == "running" and one["ServiceID"] not in there for one in tasks
            )

    def volumes(self, stack: str) -> list[str]:
        """Those volumes of a stack that are on this node."""
        with _told():
            return [str(one.name) for one in self._docker.volumes.list(filters={"label": f"{_STACK}={stack}"})]

    def remove_volume(self, name: str) -> bool:
        """False if a container that ends is still there."""
        return self._remove(lambda: self._docker.api.remove_volume(name))

    def _remove(self, remove: Any) -> bool:
        import docker

        try:
            with _told():
                remove()
        except SwarmError as exc:
            cause = exc.__cause__
            if isinstance(cause, docker.errors.NotFound):
                return True
            if isinstance(cause, docker.errors.APIError) and (
                "in use" in str(cause) or "active endpoints" in str(cause)
            ):
                return False
            raise
        return True

    def _run(self, command: list[str], environment: Mapping[str, str]) -> None:
        try:
            done = subprocess.run(
                command, env=dict(environment), capture_output=True, text=True, timeout=_DEPLOY_S, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise SwarmError(f"`{' '.join(command[:3])}` did not end within {_DEPLOY_S} s") from exc
        if done.returncode:
            words = "\n".join(line for line in done.stderr.splitlines() if line and not line.startswith("Since "))
            raise SwarmError(words or f"`{' '.join(command[:3])}` ended with exit code {done.returncode}")


#: What the docker program needs of the environment beside its own variables.
_KEPT = ("PATH", "HOME", "SSH_AUTH_SOCK", "TMPDIR", "XDG_RUNTIME_DIR", "http_proxy", "https_proxy", "no_proxy")


def unattended(help_text: str) -> list[str]:
    """What keeps ``docker stack deploy`` from waiting itself, by what its ``--help`` says.

    Docker 26 learned to wait, which is done here, with all stacks at once; that of Debian 12 (20.10) never does, and
    refuses an option that it does not know.
    """
    return ["--detach=true"] if re.search(r"^\s.*--detach\b", help_text, re.MULTILINE) else []


def against_others(change: Callable[[], None]) -> None:
    """Do it again if something else was written between its look and its change: the Swarm writes to its nodes too, and
    to a service how far its update is.

    Raises:
        SwarmError: it is refused, or others came before each time.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            change()
        except SwarmError as exc:
            if "out of sequence" not in str(exc):
                raise
        else:
            return
        time.sleep(_PAUSE_S)
    change()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Docker's errors, and those of the way to it, as ours."""
    import docker
    import requests

    try:
        yield
    except docker.errors.APIError as exc:
        raise SwarmError(f"Docker refuses: {exc.explanation or exc}") from exc
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
        raise SwarmError(f"Docker does not answer: {exc}") from exc


def _label(labels: Mapping[str, str] | None, key: str) -> str | None:
    return (labels or {}).get(key)


def _node(one: Mapping[str, Any]) -> Node:
    description = one.get("Description", {})
    return Node(
        id=str(one["ID"]),
        name=str(description.get("Hostname", one["ID"])),
        labels=dict(one["Spec"].get("Labels") or {}),
        architecture=str(description.get("Platform", {}).get("Architecture", "")),
        ready=one.get("Status", {}).get("State") == "ready" and one["Spec"].get("Availability") == "active",
    )


def _service(one: Mapping[str, Any]) -> ObservedService:
    spec = one["Spec"]
    labels = spec.get("Labels") or {}
    container = spec["TaskTemplate"].get("ContainerSpec", {})
    stack = str(labels.get(_STACK, ""))
    return ObservedService(
        stack=stack,
        name=str(spec["Name"]).removeprefix(f"{stack}_"),
        image=_image(spec),
        fleet=labels.get(FLEET),
        revision=labels.get(REVISION),
        secrets=frozenset(str(use["SecretName"]) for use in container.get("Secrets") or ()),
        configs=frozenset(str(use["ConfigName"]) for use in container.get("Configs") or ()),
    )


def _last_said(lines: Iterable[str]) -> str:
    """The last line that says something, without the frame that an error of the command has on a terminal."""
    bare = [line.strip(" \t│╭╰╮╯─") for line in lines]
    said = [line[:300] for line in bare if any(map(str.isalnum, line)) and not line.startswith("Error grabbing logs")]
    return said[-1] if said else ""


def _image(spec: Mapping[str, Any]) -> str:
    """As the stack file has it: Docker adds the digest that it found."""
    labels = spec.get("Labels") or {}
    image = str(spec["TaskTemplate"].get("ContainerSpec", {}).get("Image", ""))
    return str(labels.get("com.docker.stack.image") or image.partition("@")[0])


def _task(one: Mapping[str, Any], service: Mapping[str, Any], nodes: Mapping[str, Node]) -> Task:
    status = one.get("Status", {})
    node = nodes.get(str(one.get("NodeID", "")))
    container = one.get("Spec", {}).get("ContainerSpec", {})
    wanted = service["Spec"]["TaskTemplate"].get("ContainerSpec", {})
    return Task(
        state=str(status.get("State", "")),
        desired=str(one.get("DesiredState", "")),
        id=str(one.get("ID", "")),
        error=str(status.get("Err", "")),
        exit_code=(status.get("ContainerStatus") or {}).get("ExitCode"),
        node=node.name if node else "",
        current=container == wanted,
        at=str(status.get("Timestamp", "")),
    )
