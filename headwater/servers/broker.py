"""One real Apache Kafka on this machine: started, stopped, looked at.

Owns a broker's folder (settings, data, process id, log) and its process, which is a KRaft node that is controller and
broker in one and lives on after the command that started it. It never creates topics and never deletes data. With an
identity (``tls``) every listener, the controller's too, speaks TLS with whoever has a certificate of the same
authority, and what no access control list allows is refused; without one it is open to all, as a demo may be. What is
here suits a demo, a test and a small edge; a production cluster is run by its own means and only needs its address.

A broker's folder is ``directory/name``::

    server.properties   written anew on each start
    broker.pid          JSON: process id, its start time (a recycled id is not ours), port
    broker.log          what java said; the one before is broker.log.1
    data/               Kafka's log dirs; survives stop and start
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from connectors import kafka
from connectors.broker_admin import reload_certificates as read_again
from headwater.servers import processes
from headwater.servers.kafka_jars import BrokerError, Progress, cache_folder, ensure_jars, java_binary
from security.errors import SecurityError
from security.identities import Identity, Role
from security.tls_folder import TlsFolder, read_folder

__all__ = [
    "AlreadyRunning",
    "Broker",
    "BrokerError",
    "Failed",
    "LinkListener",
    "NoIdentity",
    "NotUsable",
    "PortTaken",
    "start",
    "status",
    "stop",
]

#: The listeners: for clients and the broker itself, behind a TCP link, and of the controller.
CLIENTS, LINK, CONTROLLER = "CLIENTS", "LINK", "CONTROLLER"
#: Whoever sets a cluster up: may do everything everywhere.
FLEET_ADMIN = Identity(Role.ADMIN, "fleet")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEAP = re.compile(r"[1-9][0-9]*[kKmMgG]")

# A small heap, a serial collector and the quick compiler alone: half the memory and up in half the time.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-XX:+ExitOnOutOfMemoryError")
_JVM_QUIET = (
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)


class NotUsable(BrokerError):
    """A name, port or heap that no broker can have."""


class AlreadyRunning(BrokerError):
    """A broker of that name already runs in that directory."""


class PortTaken(BrokerError):
    """Another process listens on the port."""


class NoIdentity(BrokerError):
    """The folder given for TLS holds no identity that a broker can have, or one that has run out."""


class Failed(BrokerError):
    """Java ended, or Kafka did not answer in time; the text holds the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkListener:
    """A second listener, for clients that come through a TCP link on this machine.

    Kafka tells clients where to connect to; those that come through the link have to be told the link's port.
    """

    port: int  # Kafka listens here
    advertised_port: int  # and tells clients to connect here


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker that runs."""

    name: str
    folder: Path
    pid: int
    host: str
    port: int
    #: The folder of its identity; None: it speaks plainly.
    tls: Path | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients connect to, ``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def cluster(self) -> kafka.Cluster:
        """How the broker itself would speak to it: with its own identity, where it has one."""
        return kafka.Cluster(bootstrap=self.bootstrap, tls=self.tls)

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"


def start(
    name: str,
    port: int,
    directory: Path,
    *,
    host: str = "127.0.0.1",
    advertised_host: str | None = None,
    heap: str = "256m",
    link: LinkListener | None = None,
    tls: Path | None = None,
    admins: Sequence[Identity] = (FLEET_ADMIN,),
    cache: Path | None = None,
    progress: Progress | None = None,
    timeout: float = 90.0,
) -> Broker:
    """Start the broker ``name`` with its data in ``directory/name`` and wait until it answers.

    ``host`` is the address that it binds to; ``advertised_host`` the one that clients are told (with a wildcard
    ``host`` the machine's own name). ``heap`` is Java's (``256m``). ``tls`` is the folder of the broker's identity,
    whose certificate has to hold for ``advertised_host`` and 127.0.0.1; beside itself ``admins`` may do everything.
    ``timeout`` is in seconds, without the download.

    Raises:
        AlreadyRunning: it already runs in that directory.
        PortTaken: something else listens on ``port``.
        DownloadFailed, JavaMissing: Kafka's jars or a Java runtime could not be had.
        Failed: Java ended or did not answer in time.
        NotUsable: ``name``, ``port`` or ``heap`` is none.
        NoIdentity: ``tls`` holds none of a broker that holds today.
        BrokerError: ``directory`` cannot be used.
    """
    folder = _folder(name, directory)
    if not 0 < port < 65536:
        raise NotUsable(f"port {port} is not between 1 and 65535")
    if not _HEAP.fullmatch(heap):
        raise NotUsable(f"heap {heap!r} is not a size as Java takes it, such as 256m")
    identity = None if tls is None else _broker_identity(tls)
    told = advertised_host or (socket.gethostname() if host in ("0.0.0.0", "::", "") else host)
    jars = ensure_jars(cache or cache_folder(os.environ), progress)
    java = java_binary()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _starting(folder):
            running = status(name, directory)
            if running is not None:
                raise AlreadyRunning(
                    f"broker {name} already runs in {folder} (process {running.pid}, port {running.port}); "
                    f"stop it first, or give another --name or --dir"
                )
            _need_free(host, port)
            if link is not None:
                _need_free("127.0.0.1", link.port)
            _write_properties(folder, host=host, told=told, port=port, link=link, identity=identity, admins=admins)
            command = [str(java), *_JVM, *_JVM_QUIET, f"-Xmx{heap}", "-cp", f"{jars}/*"]
            _format(folder, command)
            pid = _launch(folder, [*command, "kafka.Kafka", str(folder / "server.properties")], told, port, identity)
            own = None if identity is None else identity.path
            broker = Broker(name=name, folder=folder, pid=pid, host=told, port=port, tls=own)
            _wait_until_it_answers(broker, timeout)
            return broker
    except OSError as exc:
        raise BrokerError(f"cannot use {folder} for broker {name}: {exc}") from exc


def status(name: str, directory: Path) -> Broker | None:
    """The broker if it runs, else None."""
    folder = _folder(name, directory)
    try:
        noted = json.loads((folder / "broker.pid").read_text())
        broker = Broker(
            name=name,
            folder=folder,
            pid=int(noted["pid"]),
            host=str(noted["host"]),
            port=int(noted["port"]),
            tls=Path(noted["tls"]) if noted.get("tls") else None,
        )
        started = str(noted["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return broker if processes.start_time(broker.pid) == started else None


def stop(name: str, directory: Path, *, timeout: float = 30.0) -> bool:
    """Stop the broker; its data stays. True if it ran, False if only leftovers of a dead one (or nothing) were there.

    It is asked to stop, and killed if it has not within ``timeout`` seconds.
    """
    broker = status(name, directory)
    if broker is not None:
        processes.end(broker.pid, timeout=timeout)
    (_folder(name, directory) / "broker.pid").unlink(missing_ok=True)
    return broker is not None


def kill(name: str, directory: Path) -> bool:
    """End the broker with SIGKILL, as a power cut would; what it acknowledged is on the disk. True if it ran."""
    broker = status(name, directory)
    if broker is not None:
        processes.end(broker.pid, timeout=0)
    return broker is not None


def reload_certificates(name: str, directory: Path) -> Broker:
    """Let the broker that runs read its identity's files again; connections that are open go on with what they know.

    Raises:
        NotUsable: it does not run, or speaks no TLS. NoIdentity: the files are not whole, and nothing was changed.
        kafka.Unreachable, kafka.KafkaException: it did not answer, or takes the files not.
    """
    broker = status(name, directory)
    if broker is None or broker.tls is None:
        raise NotUsable(f"broker {name} in {directory} {'does not run' if broker is None else 'speaks no TLS'}")
    identity = _broker_identity(broker.tls)
    settings = (broker.folder / "server.properties").read_text(encoding="utf-8")
    listeners = [one for one in (CLIENTS, LINK, CONTROLLER) if f"{one}:SSL" in settings]
    # Said of the broker: files as it knows them, and not as whoever asks would.
    read_again(broker.cluster, listeners, str(identity.keystore_file), str(identity.ca_file))
    return broker


def _folder(name: str, directory: Path) -> Path:
    if not _NAME.fullmatch(name):
        raise NotUsable(f"{name!r} is not a broker name: letters, digits, '.', '_', '-', at most 64")
    return directory.absolute() / name


def _broker_identity(tls: Path) -> TlsFolder:
    """What is in ``tls``, looked at before Java is, which would tell it in a trace of many lines."""
    try:
        found = read_folder(tls)
        found.check_dates(datetime.now(UTC))
    except SecurityError as exc:
        raise NoIdentity(str(exc)) from exc
    if found.identity.role is not Role.BROKER:
        raise NoIdentity(
            f"{found.path} is the identity {found.identity}, and a Kafka's is a broker's, such as broker:cloud"
        )
    if not found.keystore_file.is_file():
        raise NoIdentity(f"there is no {found.keystore_file}, which Kafka needs")
    return found


def _write_properties(
    folder: Path,
    *,
    host: str,
    told: str,
    port: int,
    link: LinkListener | None,
    identity: TlsFolder | None,
    admins: Sequence[Identity],
) -> None:
    # Only the node itself talks to its controller, so that port may be another one after each start.
    controller = processes.free_port()
    listeners = {CLIENTS: (f"{host}:{port}", f"{told}:{port}")}
    if link is not None:
        listeners[LINK] = (f"127.0.0.1:{link.port}", f"127.0.0.1:{link.advertised_port}")
    protocol = "PLAINTEXT" if identity is None else "SSL"
    settings = {
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "inter.broker.listener.name": CLIENTS,
        "listeners": ",".join(f"{n}://{a}" for n, (a, _) in listeners.items())
        + f",{CONTROLLER}://127.0.0.1:{controller}",
        "advertised.listeners": ",".join(f"{n}://{a}" for n, (_, a) in listeners.items()),
        "listener.security.protocol.map": ",".join(f"{n}:{protocol}" for n in [*listeners, CONTROLLER]),
        "log.dirs": str(folder / "data"),
    }
    text = _ours("kafka.properties")
    if identity is not None:
        settings |= {
            "ssl.keystore.location": str(identity.keystore_file),
            "ssl.truststore.location": str(identity.ca_file),
            "super.users": ";".join(one.kafka_principal for one in (identity.identity, *admins)),
        }
        text += "\n" + _ours("kafka-tls.properties")
    text += "\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
    (folder / "server.properties").write_text(text, encoding="utf-8")


def _ours(name: str) -> str:
    return resources.files("headwater.servers").joinpath(name).read_text(encoding="utf-8")


def _format(folder: Path, command: list[str]) -> None:
    """Write the cluster's identity into the data folder, once in its life."""
    if (folder / "data" / "meta.properties").is_file():
        return
    identity = urlsafe_b64encode(uuid.UUID(bytes=secrets.token_bytes(16), version=4).bytes).decode().rstrip("=")
    if identity.startswith("-"):  # Kafka's tool would take it for an option
        identity = "A" + identity[1:]
    done = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(folder / "server.properties")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise Failed(f"Kafka could not format {folder / 'data'}:\n" + "\n".join(said[-10:]))


def _launch(folder: Path, command: list[str], told: str, port: int, identity: TlsFolder | None) -> int:
    log = folder / "broker.log"
    if log.exists():
        log.replace(folder / "broker.log.1")
    with log.open("wb") as out:
        pid = processes.spawn(command, out, cwd=folder)
    note = {"pid": pid, "started": processes.start_time(pid), "host": told, "port": port}
    if identity is not None:
        note["tls"] = str(identity.path)
    pending = folder / "broker.pid.new"
    pending.write_text(json.dumps(note))
    pending.replace(folder / "broker.pid")
    return pid


def _wait_until_it_answers(broker: Broker, timeout: float) -> None:
    end = time.monotonic() + timeout
    try:
        while True:
            if processes.start_time(broker.pid) is None:
                raise Failed(f"Kafka {broker.name} ended while it started; {_last_lines(broker.log)}")
            try:
                with socket.create_connection((broker.host, broker.port), timeout=1.0):
                    pass
                kafka.partition_counts(broker.cluster, [], timeout=5.0)
                return
            except (OSError, kafka.Unreachable):
                if time.monotonic() > end:
                    raise Failed(
                        f"Kafka {broker.name} did not answer at {broker.bootstrap} within {timeout:.0f} s; "
                        f"{_last_lines(broker.log)}"
                    ) from None
            time.sleep(0.05)
    except BaseException:
        # Also on Ctrl-C: a broker that was never handed out is not left behind.
        processes.end(broker.pid, timeout=5.0)
        (broker.folder / "broker.pid").unlink(missing_ok=True)
        raise


def _last_lines(log: Path, count: int = 12) -> str:
    lines = log.read_text(errors="replace").splitlines()[-count:] if log.exists() else []
    return f"the end of {log}:\n" + "\n".join(lines) if lines else f"{log} is empty"


def _need_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As Java does: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            whose = processes.listener(port)
            who = f" by process {whose[0]} ({whose[1]})" if whose else ""
            raise PortTaken(f"port {port} on {host} is taken{who}: {exc.strerror}; choose another --port") from exc


@contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """One start at a time in a folder."""
    import fcntl

    descriptor = os.open(folder / ".starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another process is starting a broker in {folder} at this moment") from None
        yield
    finally:
        os.close(descriptor)
