"""A gateway of several processes: each device has one owner, whichever process its datagrams arrive at."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code
from prometheus_client.parser import text_string_to_metric_families

from cloud import files
from connectors.kafka import Cluster, producer
from gateway.several.owners import owner_of
from gateway.state import State
from headwater.exits import Exit
from schemas.avro import serde
from schemas.avro.records import Notification, ReadBody, Request, RequestKind, RequestPayload, Response
from schemas.lwm2m.nodes import Resource
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk
from security.credentials.opening import StorePlace, place_of
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.gateway.several.test_carrying import registration
from tests.gateway_device import GatewayDevice
from tests.integration.test_files import FILE, IMAGE, ask_for, fetch
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice, new_store
from tests.way import Gateway, until

pytestmark = pytest.mark.kafka

PATH = "/3303/0/5700"
DEVICES = 200
#: Of two thousand datagrams, where a busy machine has devices say things again.
NEARLY_NONE = 10


class Several(Gateway):
    """`headwater gateway --processes N`; ``processes`` may be another in its next life."""

    def __init__(
        self, gateway_id: str, cluster: Cluster, folder: Path, processes: int = 2, credentials: StorePlace | None = None
    ) -> None:
        super().__init__(
            gateway_id,
            cluster,
            folder,
            *("--processes", str(processes)),
            observe=("/3303/*/5700",),
            credentials=credentials,
        )

    def begin_with(self, processes: int) -> None:
        self._command[self._command.index("--processes") + 1] = str(processes)
        self.start()

    @property
    def children(self) -> list[int]:
        """The process ids, the first process first."""
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, told), key=lambda pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2])

    def by_process(self, name: str) -> dict[str, float]:
        """``headwater_gateway_NAME`` of each process."""
        return {
            sample.labels["process"]: sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == f"headwater_gateway_{name}"
        }

    def total(self, name: str) -> float:
        return sum(self.by_process(name).values())

    def read_all(self, eps: Sequence[str]) -> None:
        """Ask each device to be read, by the ticket ``read-EP``, and wait for the replies."""
        payload = RequestPayload(kind=RequestKind.READ, path="/3/0/0")
        client = producer(self.cluster)
        for ep in eps:
            request = Request(server_id=self.id, ep=ep, ticket=f"read-{ep}", payload=payload)
            client.produce(self.topics.requests, serde.encode(request))
        assert client.flush(30) == 0
        until("all replies", lambda: set(self.answered()) == set(eps))

    def answered(self) -> Counter[str]:
        """By endpoint, how often a command of `read_all` was answered."""
        found = [one for one in self.seen(self.topics.replies) if isinstance(one, Response)]
        return Counter(one.ep for one in found if one.ticket == f"read-{one.ep}")

    def told(self) -> dict[str, list[object]]:
        """The values of PATH by endpoint, in their order."""
        found: dict[str, list[object]] = {}
        for one in self.seen(self.topics.observations):
            if isinstance(one, Notification) and isinstance(one.rep.body, ReadBody) and one.path == PATH:
                assert isinstance(one.rep.body.content, Resource)
                found.setdefault(one.ep, []).append(one.rep.body.content.value)
        return found


@contextmanager
def devices(make: Sequence[RawDevice]) -> Iterator[None]:
    with ExitStack() as open_ones:
        for one in make:
            open_ones.enter_context(one)
        yield


def at_once(work: Sequence[tuple[object, ...]]) -> None:
    """Each (function, arguments…) in a thread of its own; fails with what any of them raised."""
    failed: list[BaseException] = []

    def do(function: object, *arguments: object) -> None:
        try:
            function(*arguments)  # type: ignore[operator]
        except BaseException as exc:  # noqa: BLE001  # told below
            failed.append(exc)

    threads = [threading.Thread(target=do, args=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed[0]


def tell(device: RawDevice, number: int, value: float) -> None:
    """A notification that has to be acknowledged."""
    assert device.tell(PATH, number, value), f"{device.ep}: the gateway knows of no observation"


def send(device: RawDevice) -> None:
    answer = device.ask(Code.POST, ("dp",), (), b'[{"n":"/3303/0/5700","v":21.5}]', content_format=110)
    assert answer.code == Code.CHANGED, answer


def names(count: int, owner: int | None = None) -> list[str]:
    """Endpoint names, those of one of two processes if it is said."""
    found = (f"dev-{n}" for n in range(100_000))
    return [ep for ep, _ in zip((ep for ep in found if owner in (None, owner_of(ep, 2))), range(count), strict=False)]


def test_each_of_two_hundred_devices_has_one_owner_and_all_reaches_it(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        fleet = [RawDevice(gateway.address, ep) for ep in names(DEVICES)]
        with devices(fleet):
            at_once([(one.register,) for one in fleet])
            share = {str(n): sum(owner_of(one.ep, 2) == n for one in fleet) for n in (0, 1)}
            assert gateway.by_process("devices") == share
            # The kernel has spread them by address, so about half of all went from one process to the other.
            assert gateway.total("handed_on_total") > DEVICES / 4
            for one in fleet:
                one.wait_observed(PATH)
            until("all observations", lambda: gateway.total("observations") == DEVICES)
            at_once([(tell, one, 1, 20.0 + n) for n, one in enumerate(fleet)])
            at_once([(one.update,) for one in fleet])
            at_once([(send, one) for one in fleet[:20]])
            gateway.read_all([*(one.ep for one in fleet), "nobody"])
            assert gateway.answered() == Counter([*(one.ep for one in fleet), "nobody"])
            assert "no device nobody is registered" in str(gateway.reply("read-nobody"))
            assert gateway.told() == {one.ep: [20.0 + n, *([21.5] if n < 20 else [])] for n, one in enumerate(fleet)}
            assert gateway.new_registrations() == {one.ep: 1 for one in fleet}
            # A repeated ticket is answered again, by the one that answered it.
            again = f"read-{fleet[0].ep}"
            gateway.request(fleet[0].ep, again, RequestKind.READ, "/3/0/0")
            until("the repeated reply", lambda: len(gateway.replies(again)) == 2)
            assert not any(one.reset for one in fleet)
        assert gateway.stop() == Exit.OK


def test_what_names_its_process_arrives_there_and_does_not_cross(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        fleet = [RawDevice(gateway.address, ep) for ep in names(DEVICES)]
        with devices(fleet):
            at_once([(one.register,) for one in fleet])
            for one in fleet:
                one.wait_observed(PATH)
            until("all observations", lambda: gateway.total("observations") == DEVICES)
            before = gateway.total("handed_on_total")
            for number in range(1, 6):
                at_once([(tell, one, number, float(number)) for one in fleet])
            at_once([(one.update,) for one in fleet])
            gateway.read_all([one.ep for one in fleet])
            assert gateway.told() == {one.ep: [1.0, 2.0, 3.0, 4.0, 5.0] for one in fleet}
            assert gateway.total("handed_on_total") <= before + NEARLY_NONE
            # From other ports as well, of which nobody has been told.
            for one in fleet:
                one.move()
            at_once([(one.update,) for one in fleet])
            at_once([(tell, one, 6, 6.0) for one in fleet])
            assert gateway.total("handed_on_total") <= before + NEARLY_NONE
            assert gateway.total("devices") == DEVICES


def test_a_device_that_registers_again_from_another_port_has_one_registration(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        with RawDevice(gateway.address, "wanderer") as device:
            device.register()
            device.wait_observed(PATH)
            for n in range(1, 11):
                device.move()
                device.register()
                assert gateway.total("devices") == 1
                # Its observation goes on by the same token, from the new port.
                tell(device, n, float(n))
            # And an Update by the registration id alone, from ports that nobody knows.
            for _ in range(6):
                device.move()
                device.update()
            gateway.request("wanderer", "after", RequestKind.READ, "/3/0/0")
            gateway.reply("after")
            assert gateway.values("wanderer", PATH) == [float(n) for n in range(1, 11)]
            assert gateway.total("devices") == 1


def test_a_process_that_is_killed_loses_nothing_and_disturbs_nobody_elses_devices(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        fleets = [[RawDevice(gateway.address, ep) for ep in names(10, owner)] for owner in (0, 1)]
        everybody = [one for fleet in fleets for one in fleet]
        with devices(everybody):
            at_once([(one.register,) for one in everybody])
            for one in everybody:
                one.wait_observed(PATH)
            until("all observations", lambda: gateway.total("observations") == len(everybody))
            number = 1
            at_once([(tell, one, number, float(number)) for one in everybody])
            for victim in (0, 1, 0):
                os.kill(gateway.children[victim], signal.SIGKILL)
                # In mid-flow: whoever is heard by no process says it again.
                for _ in range(5):
                    number += 1
                    at_once([(tell, one, number, float(number)) for one in everybody])
                gateway.wait_ready()
            assert gateway.told() == {one.ep: [float(n) for n in range(1, number + 1)] for one in everybody}
            assert not any(one.reset for one in everybody)
            at_once([(one.update,) for one in everybody])
            assert gateway.new_registrations() == {one.ep: 1 for one in everybody}
            gateway.read_all([one.ep for one in everybody])
            assert set(gateway.answered().values()) == {1}


def test_the_number_of_processes_may_change_from_start_to_start(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    gateway = Several(gateway_id, kafka, tmp_path, processes=1)
    sleeper = RawDevice(gateway.address, "sleeper")
    fleet = [RawDevice(gateway.address, ep) for ep in names(12)]
    with gateway, devices([sleeper, *fleet]):
        gateway.wait_ready()
        at_once([(one.register,) for one in fleet])
        sleeper.register("b=UQ")
        for one in (*fleet, sleeper):
            one.wait_observed(PATH)
        sleeper.listening = False
        gateway.request("sleeper", "for-later", RequestKind.READ, "/3/0/0")
        gateway.request(fleet[0].ep, "answered", RequestKind.READ, "/3/0/0")
        gateway.reply("answered")
        until("the waiting command", lambda: gateway.metric("commands_waiting") == 1)
        for life, processes in enumerate((2, 3, 1, 2), 1):
            gateway.stop()
            gateway.begin_with(processes)
            gateway.wait_ready()
            for one in fleet:
                tell(one, life, float(life))
            at_once([(one.update,) for one in fleet])
        assert gateway.total("devices") == len(fleet) + 1
        # Answered in the first life, so it is known and not asked of the device again.
        asked = len(fleet[0].requests)
        gateway.request(fleet[0].ep, "answered", RequestKind.READ, "/3/0/0")
        until("the repeated reply", lambda: len(gateway.replies("answered")) == 2)
        assert len(fleet[0].requests) == asked
        sleeper.listening = True
        sleeper.update()
        gateway.reply("for-later")
        assert gateway.told() == {one.ep: [1.0, 2.0, 3.0, 4.0] for one in fleet}
        assert gateway.new_registrations() == {one.ep: 1 for one in (sleeper, *fleet)}


def test_children_end_with_a_parent_that_is_killed_and_the_next_one_goes_on(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        fleet = [RawDevice(gateway.address, ep) for ep in names(8)]
        with devices(fleet):
            at_once([(one.register,) for one in fleet])
            for one in fleet:
                one.wait_observed(PATH)
            children = gateway.children
            assert len(children) == 2
            gateway.kill()
            gateway.start()
            # Whoever hears it: those whose parent is gone may, in their last moments.
            at_once([(tell, one, 1, 1.0) for one in fleet])
            until("they are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
            gateway.wait_ready()
            assert gateway.told() == {one.ep: [1.0] for one in fleet}
            assert not any(one.reset for one in fleet)


def test_devices_with_keys_reach_their_owner_and_stay_theirs_when_their_address_changes(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    keys = {ep: bytes([n]) * 16 for n, ep in enumerate(names(16), 1)}
    store = new_store(tmp_path / "credentials.db", keys)
    with Several(gateway_id, kafka, tmp_path, credentials=place_of(str(store))) as gateway:
        gateway.wait_ready()
        # Half of them have no Connection ID.
        fleet = [
            SecureDevice(gateway.secure_address, ep, key, cid=b"" if n % 2 else None)
            for n, (ep, key) in enumerate(keys.items())
        ]
        with devices(fleet):
            at_once([(one.register,) for one in fleet])
            assert gateway.total("dtls_sessions_handed_on_total") > 0
            assert gateway.by_process("dtls_sessions") == {
                str(n): sum(owner_of(one.ep, 2) == n for one in fleet) for n in (0, 1)
            }
            for one in fleet:
                one.wait_observed(PATH)
            at_once([(tell, one, 1, 1.0) for one in fleet])
            movers = [one for n, one in enumerate(fleet) if n % 2]
            for life in (2, 3, 4):
                for one in movers:
                    one.move()
                at_once([(tell, one, life, float(life)) for one in movers])
            assert gateway.total("dtls_moved_total") == 3 * len(movers)
            at_once([(one.update,) for one in fleet])
            gateway.read_all([one.ep for one in fleet])
            # One process is killed: the devices of the other go on by their sessions.
            os.kill(gateway.children[0], signal.SIGKILL)
            at_once([(tell, one, 5, 5.0) for one in fleet if owner_of(one.ep, 2) == 1])
            gateway.wait_ready()
            lost = [one for one in fleet if owner_of(one.ep, 2) == 0]
            at_once([(one.connect,) for one in lost])
            at_once([(tell, one, 5, 5.0) for one in lost])
            assert gateway.new_registrations() == {one.ep: 1 for one in fleet}
            assert gateway.told() == {
                one.ep: [1.0, 2.0, 3.0, 4.0, 5.0] if one in movers else [1.0, 5.0] for one in fleet
            }


def test_devices_that_share_a_key_reach_the_owner_of_the_name_that_they_register(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    store = SqliteCredentials(tmp_path / "credentials.db", make=True)
    key = b"k" * 16
    shared = Psk(endpoint="dev-*", created=datetime.now(UTC), identity=b"shared", key=KeyBytes(key))
    store.put([shared], Put.NEW)
    store.close()
    place = place_of(str(tmp_path / "credentials.db"))
    with Several(gateway_id, kafka, tmp_path, credentials=place) as gateway:
        gateway.wait_ready()
        fleet = [
            SecureDevice(gateway.secure_address, ep, key, identity="shared", cid=b"" if n % 2 else None)
            for n, ep in enumerate(names(10))
        ]
        with devices(fleet):
            at_once([(one.register,) for one in fleet])
            for one in fleet:
                one.wait_observed(PATH)
            at_once([(tell, one, 1, 1.0) for one in fleet])
            for one in fleet:
                if fleet.index(one) % 2:
                    one.move()
                else:
                    one.connect()
            # Who made another session is known again by its registration, whichever process it came to.
            at_once([(one.update,) for one in fleet])
            at_once([(tell, one, 2, 2.0) for one in fleet])
            assert gateway.told() == {one.ep: [1.0, 2.0] for one in fleet}
            assert gateway.new_registrations() == {one.ep: 1 for one in fleet}
            share = {str(n): sum(owner_of(one.ep, 2) == n for one in fleet) for n in (0, 1)}
            assert gateway.by_process("devices") == share


def test_whoever_was_told_of_a_file_fetches_it_from_any_address(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        with RawDevice(gateway.address, "lamp") as device:
            device.register()
            assert files.send(kafka, gateway_id, FILE, IMAGE)
            ask_for(gateway, device)
            for _ in range(6):  # each from another port
                assert fetch(f"coap://127.0.0.1:{gateway.coap_port}/files/{FILE.sha256}").payload == IMAGE


def test_a_state_that_is_damaged_is_told_and_nothing_starts_without_it(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    damaged = tmp_path / "state" / "processes" / "0"
    damaged.mkdir(parents=True)
    (tmp_path / "state" / "processes" / "1").mkdir()
    (damaged / "gateway.db").write_bytes(b"no database" * 1000)
    with Several(gateway_id, kafka, tmp_path) as gateway:
        assert gateway.wait_ended() == Exit.CANNOT_START
        assert "is damaged" in gateway.said()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_row_that_cannot_be_read_is_told_as_damage(
    kafka: Cluster, gateway_id: str, tmp_path: Path, processes: int
) -> None:
    """It is met late, when the gateway runs already."""

    async def store() -> None:
        state = State.open(tmp_path / "state")
        state.put_registration(registration("a"))
        await state.close()

    asyncio.run(store())
    with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as db, db:
        db.execute("UPDATE registrations SET address = CAST(x'ff41' AS TEXT)")
    with Several(gateway_id, kafka, tmp_path, processes=processes) as gateway:
        assert gateway.wait_ended() == Exit.CANNOT_START
        assert "is damaged" in gateway.said() and "bug" not in gateway.said()


def test_devices_behind_a_device_live_where_it_does(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    with Several(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        sites = [GatewayDevice(gateway.address, f"site-{n}", "a", "b") for n in range(4)]
        with devices(sites):
            for one in sites:
                one.join()
            until("those behind them", lambda: gateway.total("devices_behind") == 8)
            for n, one in enumerate(sites):
                gateway.request(f"{one.ep}/a", f"ticket-{n}", RequestKind.READ, "/3303/0/5700")
            for n in range(len(sites)):
                gateway.reply(f"ticket-{n}")


@pytest.mark.parametrize("what", ["certificate", "oscore"])
def test_what_several_processes_cannot_do_is_refused_in_words(
    kafka: Cluster, gateway_id: str, tmp_path: Path, what: str
) -> None:
    store = str(tmp_path / "credentials.db")
    words = [sys.executable, "-m", "headwater.cli"]
    kind = ("--psk",) if what == "certificate" else ("--oscore", "--recipient-id", "01", "--sender-id", "02")
    subprocess.run([*words, "credentials", "add", "press", *kind, "--store", store], check=True, timeout=60)
    more: tuple[str, ...] = ()
    if what == "certificate":
        key, certificate = tmp_path / "gateway.key", tmp_path / "gateway.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=gateway", "-days", "30"],
            check=True, timeout=60, capture_output=True,
        )  # fmt: skip
        key.chmod(0o600)
        more = ("--coaps-cert", str(certificate), "--coaps-key", str(key))
    refused = subprocess.run(
        [
            *(*words, "gateway", "--id", gateway_id, "--kafka", kafka.bootstrap, "--processes", "2"),
            *("--credentials", store, *more, "--state", str(tmp_path / "state")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == Exit.USAGE
    assert "--processes does not go with" in refused.stderr
