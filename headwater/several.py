"""The parent of a gateway of several processes: opens their sockets, starts them, and starts again who ended.

Owns the children from their start to their end, the health and the metrics of all of them at one port, and that their
state is in its place. It takes no message and knows no device.

The sockets of the port are all opened here, once, so that the kernel's choice among them (what a message names, or a
hash of both addresses) is the same while a child is away; what arrives for it waits. A child that loses this process
ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from connectors.health import serve_health
from connectors.process_metrics import Component, ProcessMetrics
from gateway.coap.udp import bind, name_of
from gateway.several.carrying import carry_over, place_of
from gateway.several.control import METRICS, READY
from gateway.several.seat import Seat
from gateway.several.steering import steer
from gateway.state_file import StateLocked, lock_directory
from headwater import lean
from headwater.exits import Exit, Stop

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings import GatewaySettings

_log = structlog.get_logger("headwater.gateway")

#: Seconds for all children to end by themselves, of the ten that this process has.
_GRACE: Final = 8.5
_LOOK: Final = 0.1
#: A child that ends is started again after this time, which doubles with each that was not ready in between.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
#: Seconds in which a child answers.
_PATIENCE: Final = 3.0
#: What remains of a parent that was killed is gone after as long as it may take to stop.
_REMAINS: Final = 11.0
#: Bytes that wait on the way from one child to another.
_LINE_BUFFER: Final = 4 << 20
_OF_ALL: Final = ("headwater_build_info", "headwater_ready")


class Child:
    """One process of the gateway, over all its lives."""

    def __init__(self, settings: GatewaySettings, seat: Seat, held: int) -> None:
        self._settings = settings
        self._seat = seat
        self._held = held
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._asking = threading.Lock()
        self._question = 0
        #: What it has answered and was not taken yet.
        self._heard = bytearray()
        self._pause = _FIRST_PAUSE
        self._start_at = 0.0
        #: True once it was ready, in any of its lives and in this one.
        self.was_ready = False
        self.is_settled = False

    @property
    def number(self) -> int:
        return self._seat.number

    def start(self) -> None:
        """Begin a life."""
        self.is_settled = False
        mine, its = socket.socketpair()
        seat = replace(self._seat, parent=its.fileno())
        file = lean.handed(lean.Process.GATEWAY_PART, (self._settings, seat))
        words = [
            sys.executable,
            "-P",
            "-m",
            "headwater.lean",
            *sys.argv[1:],
            f"({self.number + 1} of {seat.processes})",
        ]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which tells the others.
                start_new_session=True,
                pass_fds=(*seat.files, file, self._held),
                env={**os.environ, lean.HANDED: str(file)},
            )
        finally:
            os.close(file)
            its.close()
        with self._asking:
            self._line = mine
            self._heard.clear()

    def look(self) -> int | None:
        """Start it again, after a while, if it has ended; the exit code of one that never was of use."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                try:
                    self.start()
                except OSError as exc:  # no memory for it, or too many processes: the others go on
                    _log.error("a process of the gateway cannot be started", process=self.number, reason=str(exc))
                    self._postpone()
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._let_go()
        if not self.was_ready and code == Exit.CANNOT_START:
            return code
        _log.error("a process of the gateway ended and is started again", process=self.number, code=code)
        self._postpone()
        return None

    def _postpone(self) -> None:
        self._start_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _let_go(self) -> None:
        self._process = None
        # It has ended, so nobody who asks it waits any more.
        with self._asking:
            if self._line is not None:
                self._line.close()

    def ready(self, patience: float = _PATIENCE) -> str | None:
        """Why it is of no use now, or None."""
        try:
            words = self._ask(READY, patience).decode()
        except OSError:
            return f"process {self.number} of the gateway does not answer"
        if words:
            return words
        self.was_ready = self.is_settled = True
        self._pause = _FIRST_PAUSE
        return None

    def metrics(self) -> str:
        """What it shows; nothing if it does not answer."""
        try:
            return self._ask(METRICS, _PATIENCE).decode()
        except OSError:
            return ""

    def _ask(self, what: int, patience: float) -> bytes:
        with self._asking:
            line = self._line
            if self._process is None or line is None:
                raise OSError("it does not run")
            self._question = (self._question + 1) % 256
            line.settimeout(patience)
            line.sendall(bytes((what, self._question)))
            while True:
                size = int.from_bytes(self._heard[1:5], "big") + 5
                if len(self._heard) >= max(size, 5):
                    number, body = self._heard[0], bytes(self._heard[5:size])
                    del self._heard[:size]
                    # Answers to questions that nobody waits for any more come first.
                    if number == self._question:
                        return body
                elif more := line.recv(65536):
                    self._heard += more
                else:
                    raise OSError("it has ended")

    def terminate(self) -> None:
        """Tell it to stop."""
        if self._process is not None:
            self._process.terminate()

    def end(self, until: float) -> int:
        """Wait for its end, and make it one at ``until`` (monotonic seconds); the exit code."""
        if self._process is None:
            return 0
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._let_go()
        # It was told before it could hear: what it has to do in order begins after that.
        return 0 if code == -signal.SIGTERM else code


class _Shown(Collector):
    """The metrics of all children, with the label ``process``; those of this one are of the process ``parent``."""

    def __init__(self, children: list[Child]) -> None:
        self._children = children
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for child in self._children:
            for family in text_string_to_metric_families(child.metrics()):
                if family.name not in _OF_ALL:
                    _add(found, family, str(child.number))
        for family in self._own.collect():
            _add(found, family, "parent")
        yield from found.values()


def _add(found: dict[str, Metric], family: Metric, process: str) -> None:
    shown = found.setdefault(family.name, Metric(family.name, family.documentation, family.type, family.unit))
    shown.samples += [one._replace(labels={**one.labels, "process": process}) for one in family.samples]


def run(settings: GatewaySettings, stop: threading.Event) -> None:
    """Run a gateway of ``settings.processes`` processes until ``stop`` is set.

    Raises:
        Stop: it cannot start, or a child did not end in order.
        StateError, CredentialStoreError, OSError: as a gateway of one process.
    """
    _refuse(settings)
    with contextlib.ExitStack() as held:
        lock = locked(settings.state, stop)
        held.callback(os.close, lock)
        carry_over(settings.state, settings.processes)
        plain = _sockets(settings.coap, settings.processes) if settings.insecure else None
        if plain is not None:
            _steer(plain)
        secure = None if settings.credentials is None else _sockets(settings.coaps, settings.processes)
        lines = _lines(settings.processes)
        for sock in (*(plain or ()), *(secure or ()), *(one for of in lines for one in of.values())):
            held.callback(sock.close)
        children = []
        for number in range(settings.processes):
            seat = Seat(
                number=number,
                processes=settings.processes,
                coap=None if plain is None else plain[number].fileno(),
                coaps=None if secure is None else secure[number].fileno(),
                lines={other: line.fileno() for other, line in lines[number].items()},
                parent=-1,
            )
            its = replace(
                settings,
                state=place_of(settings.state, number),
                coap=settings.coap if plain is None else name_of(plain[0]),
                metrics_port=None,
                make_credentials=False,
                import_credentials=None,
            )
            children.append(Child(its, seat, lock))
        _serve(settings, children, stop)


def _serve(settings: GatewaySettings, children: list[Child], stop: threading.Event) -> None:
    def ready() -> str | None:
        return next((why for child in children if (why := child.ready()) is not None), None)

    health = None
    if settings.metrics_port is not None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(ProcessMetrics(Component.GATEWAY, (settings.gateway,), ready))
        registry.register(_Shown(children))
        health = serve_health(
            settings.metrics_port,
            host=settings.metrics_host,
            keys=settings.metrics_keys,
            registry=registry,
            ready=ready,
        )
    failed = None
    try:
        for child in children:
            child.start()
        while not stop.wait(_LOOK):
            for child in children:
                if stop.is_set():
                    break
                if not child.is_settled:
                    child.ready(_LOOK)
                if (failed := child.look()) is not None:
                    stop.set()
    finally:
        until = time.monotonic() + _GRACE
        for child in children:
            child.terminate()
        codes = [child.end(until) for child in children]
        if health is not None:
            health.close()
    if failed is not None:
        raise Stop(Exit(failed), "a process of the gateway cannot start; what it said is above")
    if any(codes):
        raise Stop(Exit.BUG, f"a process of the gateway did not stop in order (exit codes {codes})")


def _refuse(settings: GatewaySettings) -> None:
    """Say what several processes cannot do yet, before anything is opened.

    Raises:
        Stop: they are asked to.
    """
    if settings.coaps_certificate is not None:
        raise Stop(
            Exit.USAGE,
            "--processes does not go with --coaps-cert: a session with a certificate cannot be handed from one process "
            "to another; leave one of them out",
        )
    if settings.credentials is None:
        return
    from security.credentials.kinds import Kind
    from security.credentials.opening import open_store

    if settings.import_credentials is not None:
        from gateway.given_credentials import take_up_file

        take_up_file(settings.credentials, settings.import_credentials, make=settings.make_credentials)
    store = open_store(settings.credentials, make=settings.make_credentials)
    try:
        speaks_oscore = store.has(Kind.OSCORE)
    finally:
        store.close()
    if speaks_oscore:
        raise Stop(
            Exit.USAGE,
            "--processes does not go with OSCORE, and there are credentials for it: leave --processes out, or remove "
            "them (headwater credentials list shows them)",
        )


def locked(state: Path, stop: threading.Event) -> int:
    """The state directory, for this process and its children. Those of a parent that was killed end a little later."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = time.monotonic() + _REMAINS
    while True:
        try:
            return lock_directory(state)
        except StateLocked:
            if time.monotonic() > until or stop.wait(_LOOK):
                raise


def _sockets(address: tuple[str, int], count: int) -> list[socket.socket]:
    """So many sockets of one port.

    The first is bound alone, so that nobody else's port is shared; those who come later are let in by us alone.
    """
    first = bind(*address)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets = [first]
    try:
        while len(sockets) < count:
            sockets.append(bind(address[0], name_of(first)[1], shared=True))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _steer(sockets: list[socket.socket]) -> None:
    try:
        steer(sockets[0])
    except OSError as exc:
        _log.info("the kernel does not look whose a message is, so more go from process to process", reason=str(exc))


def _lines(count: int) -> list[dict[int, socket.socket]]:
    """By process: its end of the line to each of the others."""
    lines: list[dict[int, socket.socket]] = [{} for _ in range(count)]
    for one in range(count):
        for other in range(one + 1, count):
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (here, there):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINE_BUFFER)
                # Beyond the system's bound, for who may.
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_SNDBUFFORCE", 32), _LINE_BUFFER)
            lines[one][other], lines[other][one] = here, there
    return lines
