"""`headwater load` against a gateway and a real Kafka: each kind, over DTLS, in a mix, and when things break."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import Cluster
from gateway.devices.load.jtl_reader import JtlReader
from gateway.devices.load.samples import Sample
from headwater.exits import Exit
from schemas.avro.records import Notification, RegistrationKind
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.oscore_device import credential
from tests.secure_device import new_store
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

KEY = bytes(range(16))
PATTERN = "/3303/*/5700"
#: Nothing that a test waits for may take longer, in seconds.
PATIENCE = 240.0


class LoadProcess:
    """One `headwater load` with its file of results; ``options`` follow the kind."""

    def __init__(self, folder: Path, kind: str, *options: str) -> None:
        self.jtl = folder / "load.jtl"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headwater.cli", "load", kind, *options, "--jtl", str(self.jtl), "-o", "json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )

    def samples(self) -> list[Sample]:
        return list(JtlReader(self.jtl)) if self.jtl.exists() and self.jtl.stat().st_size else []

    def ended(self, code: Exit = Exit.OK) -> dict[str, Any]:
        """Wait for its end; returns what it told."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == code, f"{out}\n{errors}"
        told = json.loads(out)
        assert isinstance(told, dict)
        # Every sample is in the file, and nothing else.
        by_label = Counter(one.label for one in self.samples())
        assert by_label == Counter({label: figures["count"] for label, figures in told["labels"].items()})
        return told


Starter = Callable[..., LoadProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    processes: list[LoadProcess] = []

    def begin(gateway: Gateway, kind: str, *options: str, secure: bool = False) -> LoadProcess:
        scheme, (host, port) = ("coaps", gateway.secure_address) if secure else ("coap", gateway.address)
        processes.append(LoadProcess(tmp_path, kind, "--server", f"{scheme}://{host}:{port}", *options))
        return processes[-1]

    yield begin
    for one in processes:
        one.process.kill()
        one.process.communicate()


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("load")
    keys = new_store(folder / "credentials.db", {f"secure-{number}": KEY for number in range(1, 21)})
    with Gateway("load", kafka, folder, observe=(PATTERN,), credentials=keys) as one:
        one.wait_ready()
        yield one


def counts(told: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(samples, errors) by label."""
    return {label: (figures["count"], figures["errors"]) for label, figures in told["labels"].items()}


def by_way_of(gateway: Gateway) -> tuple[str, ...]:
    return "--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap


def key_list(folder: Path, count: int) -> str:
    listed = folder / "keys.csv"
    listed.touch(0o600)
    lines = [f"secure-{number},psk,,{KEY.hex()}" for number in range(1, count + 1)]
    listed.write_text("\n".join(["endpoint,kind,identity,key", *lines]))
    return str(listed)


def context_list(folder: Path, count: int) -> str:
    """The OSCORE contexts of ``closed-1`` and so on, in the store of the folder and in a list."""
    contexts = [
        credential(f"closed-{number}", bytes((number,)), secret=bytes([number]) * 16) for number in range(1, count + 1)
    ]
    with contextlib.closing(SqliteCredentials(folder / "credentials.db", make=True)) as store:
        store.put(contexts, Put.NEW)
    listed = folder / "contexts.json"
    listed.touch(0o600)
    rows = [
        {
            "endpoint": one.endpoint,
            "kind": "oscore",
            "master_secret": one.master_secret.reveal().hex(),
            "sender_id": one.sender_id.hex(),
            "recipient_id": one.recipient_id.hex(),
        }
        for one in contexts
    ]
    listed.write_text(json.dumps(rows))
    return str(listed)


def test_register_registers_and_de_registers_in_each_loop(gateway: Gateway, start: Starter) -> None:
    load = start(gateway, "register", "--threads", "10", "--loops", "3", "--endpoint", "again")
    assert counts(load.ended()) == {"register": (30, 0), "deregister": (30, 0)}
    until(
        "the end of each registration",
        lambda: (
            [one.kind for one in gateway.registrations("again-7")]
            == [RegistrationKind.NEW, RegistrationKind.DELETE] * 3
        ),
    )


def test_update_updates_the_registration(gateway: Gateway, start: Starter) -> None:
    load = start(gateway, "update", "--threads", "10", "--loops", "5", "--endpoint", "updating", "--delay", "10")
    assert counts(load.ended()) == {"register": (10, 0), "update": (50, 0), "deregister": (10, 0)}
    until("the last record", lambda: len(gateway.registrations("updating-3")) == 7)
    assert [one.kind for one in gateway.registrations("updating-3")][1:6] == [RegistrationKind.UPDATE] * 5


def test_devices_that_are_to_stay_are_registered_afterwards(gateway: Gateway, start: Starter) -> None:
    load = start(gateway, "register", "--threads", "3", "--endpoint", "staying", "--keep")
    assert counts(load.ended()) == {"register": (3, 0)}
    until("the registration", lambda: bool(gateway.registrations("staying-1")))
    assert [one.kind for one in gateway.registrations("staying-1")] == [RegistrationKind.NEW]


@pytest.mark.parametrize("kind", ["notify", "send"])
def test_every_value_that_is_told_is_in_the_topic_once_and_in_order(
    gateway: Gateway, start: Starter, kind: str
) -> None:
    options = ("--threads", "20", "--loops", "30", "--endpoint", f"tells-{kind}")
    told = start(gateway, kind, *options, "--audit", *by_way_of(gateway)).ended()
    label = {"notify": "notify CON", "send": "send"}[kind]
    assert counts(told)[label] == (600, 0)
    audit = told["audit"]
    assert (audit["good"], audit["acknowledged"], audit["acknowledged_there"]) == (True, 600, 600)
    # And so says another reader of the topic.
    records = [one for one in gateway.seen(gateway.topics.observations) if isinstance(one, Notification)]
    assert sum(one.ep.startswith(f"tells-{kind}-") for one in records) == 600


def test_notifications_without_acknowledgement_arrive(gateway: Gateway, start: Starter) -> None:
    options = ("--threads", "10", "--loops", "20", "--delay", "20", "--endpoint", "non")
    told = start(gateway, "notify", "--non", *options, "--audit", *by_way_of(gateway)).ended()
    assert counts(told)["notify NON"] == (200, 0)
    assert (told["audit"]["unconfirmable"], told["audit"]["acknowledged"]) == (200, 0)
    assert told["audit"]["unconfirmable_there"] > 0


def test_answer_reads_each_device_by_way_of_kafka(gateway: Gateway, start: Starter) -> None:
    options = ("--threads", "10", "--loops", "5", "--endpoint", "answering", "--timeout", "60")
    told = start(gateway, "answer", *options, *by_way_of(gateway)).ended()
    assert counts(told) == {"register": (10, 0), "answer": (50, 0), "deregister": (10, 0)}


def test_mixed_load_over_dtls(gateway: Gateway, start: Starter, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(
        "notify: {weight: 60, delay: 5}\nupdate: 10\nsend: 10\nanswer: 10\nregister: 10\ndelay: 1\n"
    )
    options = ("mix.yaml", "--threads", "20", "--loops", "30", "--endpoint", "secure", "--seed", "3")
    keys = ("--psk-list", key_list(tmp_path, 20))
    load = start(gateway, "mixed", *options, *keys, "--audit", *by_way_of(gateway), "--timeout", "60", secure=True)
    told = load.ended()
    found = counts(told)
    assert not any(errors for _, errors in found.values()), told["errors"]
    assert found["DTLS handshake"] == (20, 0)
    # 600 loops in all; one that registers anew de-registers first, and where it is a device's last that is its end.
    anew = found["deregister"][0] - 20
    kinds = ("notify CON", "update", "send", "answer")
    assert 580 <= sum(found[kind][0] for kind in kinds) + anew <= 600
    assert found["register"][0] == 20 + anew
    assert told["audit"]["good"]
    assert told["audit"]["acknowledged"] == found["notify CON"][0] + found["send"][0]


def test_mixed_load_with_oscore_where_nobody_is_let_in_without(
    kafka: Cluster, gateway_id: str, tmp_path: Path, start: Starter
) -> None:
    (tmp_path / "mix.yaml").write_text("notify: 60\nupdate: 10\nsend: 10\nanswer: 10\nregister: 10\n")
    contexts = context_list(tmp_path, 20)
    credentials = tmp_path / "credentials.db"
    with Gateway(gateway_id, kafka, tmp_path, "--no-insecure", observe=(PATTERN,), credentials=credentials) as gateway:
        gateway.wait_ready()
        options = ("mix.yaml", "--threads", "20", "--loops", "20", "--endpoint", "closed", "--timeout", "60")
        audited = ("--oscore-list", contexts, "--audit", *by_way_of(gateway))
        told = start(gateway, "mixed", *options, *audited).ended()
        assert gateway.metric("oscore_renewed_total") == 20
        # A device with a secret of its own is told so at once.
        wrong = Path(contexts).read_text().replace("01" * 16, "ff" * 16)
        Path(contexts).write_text(wrong)
        (tmp_path / "load.jtl").unlink()
        refused = start(gateway, "update", "--endpoint", "closed-1", "--oscore-list", contexts).ended(Exit.REFUSED)
    found = counts(told)
    assert not any(errors for _, errors in found.values()), told["errors"]
    assert {"register", "notify CON", "update", "send", "answer", "deregister"} <= set(found)
    assert told["audit"]["good"]
    assert told["audit"]["acknowledged"] == found["notify CON"][0] + found["send"][0]
    assert counts(refused) == {"register": (1, 1)}
    assert "no OSCORE context: the server answered 4.00" in refused["errors"][0]["message"]


def test_device_with_a_key_that_is_not_its_own_is_an_error_in_words(
    gateway: Gateway, start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "wrong.key").touch(0o600)
    (tmp_path / "wrong.key").write_text("ff" * 16)
    load = start(gateway, "update", "--endpoint", "secure-1", "--psk-file", "wrong.key", secure=True)
    told = load.ended(Exit.REFUSED)
    assert counts(told) == {"DTLS handshake": (1, 1)}
    assert told["errors"][0]["message"] == "the server does not take this identity with this key"


def test_load_that_the_gateway_does_not_observe_says_what_to_do(
    kafka: Cluster, gateway_id: str, tmp_path: Path, start: Starter
) -> None:
    with Gateway(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        told = start(gateway, "notify", "--timeout", "0.5", "--threads", "2").ended(Exit.REFUSED)
    assert counts(told)["observe"] == (4, 4)
    assert "start it with --observe '/3303/*/5700'" in told["errors"][0]["message"]


def test_load_that_is_stopped_while_devices_are_started_ends_in_order(gateway: Gateway, start: Starter) -> None:
    options = ("--threads", "1000", "--ramp-up", "3600", "--loops", "0", "--endpoint", "begun", "--delay", "5")
    load = start(gateway, "update", *options)
    until("some devices", lambda: len({one.endpoint for one in load.samples() if one.label == "update"}) >= 3)
    load.process.send_signal(signal.SIGINT)
    told = load.ended()
    assert told["stopped"]
    assert 3 <= told["started"] < 1000
    assert counts(told)["deregister"] == (told["started"], 0)
    assert counts(told)["register"] == (told["started"], 0)


def test_audit_of_a_topic_that_never_comes_to_be_says_so(gateway: Gateway, start: Starter) -> None:
    options = ("--threads", "2", "--endpoint", "astray", "--audit", "--audit-patience", "2")
    load = start(gateway, "send", *options, "--gateway", "mistyped", "--kafka", gateway.cluster.bootstrap)
    told = load.ended(Exit.REFUSED)
    assert (told["audit"]["lost"], told["audit"]["good"]) == (2, False)
    assert told["trouble"] == ["there is no topic iot.mistyped.observations: is --gateway mistyped right?"]


def test_load_ends_in_order_when_it_is_told_to(gateway: Gateway, start: Starter) -> None:
    options = ("--threads", "50", "--loops", "0", "--endpoint", "stopped", "--delay", "5")
    load = start(gateway, "notify", *options, "--audit", *by_way_of(gateway))
    until("all devices", lambda: len({one.endpoint for one in load.samples() if one.label == "notify CON"}) == 50)
    load.process.send_signal(signal.SIGINT)
    told = load.ended()
    assert told["stopped"]
    assert told["audit"]["good"]
    left, failed = counts(told)["deregister"]
    assert not failed
    # On a machine that is too slow for the bounded end it says so.
    assert left + told["noticed"]["unfinished"] + told["noticed"]["not de-registered"] >= 50


def test_second_signal_ends_a_load_at_once_and_leaves_whole_lines(gateway: Gateway, start: Starter) -> None:
    load = start(gateway, "update", "--threads", "50", "--loops", "0", "--endpoint", "hurried", "--keep")
    until("updates", lambda: len(load.samples()) > 1000)
    load.process.send_signal(signal.SIGINT)
    load.process.send_signal(signal.SIGTERM)
    load.process.communicate(timeout=PATIENCE)
    assert load.process.returncode == Exit.INTERRUPTED
    reader = JtlReader(load.jtl)
    assert len(list(reader)) > 1000
    assert not reader.cut_off


@pytest.mark.parametrize("loops", [(), ("--loops", "0")], ids=["no loops", "loops for ever"])
def test_duration_ends_a_load(gateway: Gateway, start: Starter, loops: tuple[str, ...]) -> None:
    told = start(gateway, "update", "--threads", "5", "--duration", "2", "--endpoint", "timed", *loops).ended()
    assert counts(told)["deregister"] == (5, 0)
    assert not told["stopped"]
    assert counts(told)["update"][0] > 5


@pytest.mark.parametrize("transport", ["clear", "dtls", "oscore"])
def test_nothing_acknowledged_is_lost_when_the_gateway_is_killed_in_the_middle(
    kafka: Cluster, gateway_id: str, tmp_path: Path, start: Starter, transport: str
) -> None:
    secure = transport == "dtls"
    keys = new_store(tmp_path / "credentials.db", {f"secure-{number}": KEY for number in range(1, 21)})
    contexts = context_list(tmp_path, 20)
    with Gateway(gateway_id, kafka, tmp_path, observe=(PATTERN,), credentials=keys) as gateway:
        gateway.wait_ready()
        # An endpoint that has a key is let in with it alone.
        endpoint, listed = {
            "clear": ("clear", ()),
            "dtls": ("secure", ("--psk-list", key_list(tmp_path, 20))),
            "oscore": ("closed", ("--oscore-list", contexts)),
        }[transport]
        options = ("--threads", "20", "--duration", "3600", "--delay", "10", "--endpoint", endpoint, *listed)
        audited = ("--max-errors", "100", "--audit", *by_way_of(gateway))
        load = start(gateway, "notify", *options, *audited, secure=secure)

        def told() -> int:
            return sum(one.label == "notify CON" and one.success for one in load.samples())

        until("notifications", lambda: told() > 500)
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        before = told()
        until("notifications of the next life", lambda: told() > before + 500)
        load.process.send_signal(signal.SIGTERM)
        ended = load.ended()
    assert ended["noticed"]["retransmitted"] > 0
    assert (ended["audit"]["lost"], ended["audit"]["doubled"]) == (0, 0)
    assert ended["audit"]["acknowledged"] > 1000


def test_errors_are_counted_while_there_is_no_gateway(
    kafka: Cluster, gateway_id: str, tmp_path: Path, start: Starter
) -> None:
    with Gateway(gateway_id, kafka, tmp_path, observe=(PATTERN,)) as gateway:
        gateway.wait_ready()
        load = start(gateway, "update", "--threads", "5", "--loops", "0", "--delay", "10", "--endpoint", "alone")
        until("updates", lambda: len(load.samples()) > 50)
        gateway.kill()
        until("what is given up", lambda: sum(not one.success for one in load.samples()) >= 5, PATIENCE)
        load.process.send_signal(signal.SIGTERM)
        told = load.ended(Exit.REFUSED)
    assert told["errors"][0]["code"] == "timeout"
    assert told["noticed"]["unreachable"] > 0  # ICMP


def test_five_hundred_devices_of_one_process_speak_dtls(
    kafka: Cluster, gateway_id: str, tmp_path: Path, start: Starter
) -> None:
    count = 500
    keys = new_store(tmp_path / "credentials.db", {f"secure-{number}": KEY for number in range(1, count + 1)})
    with Gateway(gateway_id, kafka, tmp_path, observe=(PATTERN,), credentials=keys) as gateway:
        gateway.wait_ready()
        options = (
            "--threads",
            str(count),
            "--ramp-up",
            "10",
            "--loops",
            "5",
            "--delay",
            "1000",
            "--endpoint",
            "secure",
        )
        audited = ("--psk-list", key_list(tmp_path, count), "--timeout", "60", "--audit", *by_way_of(gateway))
        told = start(gateway, "notify", *options, *audited, secure=True).ended()
    found = counts(told)
    assert found["DTLS handshake"] == found["register"] == found["deregister"] == (count, 0)
    assert found["notify CON"] == (5 * count, 0)
    assert (told["audit"]["good"], told["audit"]["acknowledged_there"]) == (True, 5 * count)


def test_ten_thousand_devices_of_one_process_register(
    kafka: Cluster, gateway_id: str, tmp_path: Path, start: Starter
) -> None:
    with Gateway(gateway_id, kafka, tmp_path) as gateway:
        gateway.wait_ready()
        load = start(gateway, "register", "--threads", "10000", "--ramp-up", "30", "--keep", "--endpoint", "many")
        told = load.ended()
        assert counts(told) == {"register": (10_000, 0)}
        assert gateway.metric("registrations_total") == 10_000
