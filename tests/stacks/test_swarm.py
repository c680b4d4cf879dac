"""The whole fleet on a real Swarm of four boxes: deployed, used, broken, updated, grown, shrunk, audited, removed.

The tests are in the order of a fleet's life and share one: what each does to it, the audit near the end must not find.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headwater.demo.audit import Stored, Verdict, judge
from schemas.avro.records import Notification, Response
from schemas.avro.topics import Topics
from tests.stacks.boxes import HERE, Box
from tests.stacks.docker_host import DockerError
from tests.stacks.fleet import REPOSITORY, Fleet, script
from tests.stacks.lab import FIRST, NEXT, lab
from tests.way import Sensors, until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(4800)]

CLOUD_KAFKA = "kafka-cloud:9092"
#: Devices at each gateway.
DEVICES = 2
#: Nothing that a test waits for may take longer, in seconds.
PATIENCE = 600.0
#: As docs/deploy.md has it.
BOOTSTRAP = """\
patterns:
  "press-*":
    servers:
      - uri: coaps://{gateway}:5684
        short_id: 123
        security: psk
        store: /var/lib/credentials/credentials.db
"""


class Devices(Sensors):
    """Virtual devices in the boxes' network, at the published port of a gateway's box."""

    def __init__(self, box: Box, folder: Path, *arguments: str, endpoint: str) -> None:
        super().__init__((box.address, 5683), folder, *arguments, endpoint=endpoint)
        self._command = box.network.command(*self._command)


class Way:
    """The fleet with devices at its gateways."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.sensors: dict[str, Sensors] = {}

    def add_devices(self, gateway: str) -> Sensors:
        """Start devices that register at a gateway's published port."""
        folder = self.folder / gateway
        folder.mkdir()
        count = ("--count", str(DEVICES), "--period", "0.5")
        self.sensors[gateway] = Devices(self.fleet.boxes[gateway], folder, *count, endpoint=f"{gateway}-dev")
        self.sensors[gateway].start()
        return self.sensors[gateway]

    def endpoints(self, gateway: str) -> set[str]:
        return {f"{gateway}-dev-{number}" for number in range(1, DEVICES + 1)}

    def wait_for_new_readings(self, *gateways: str) -> None:
        """Wait until each device has another notification acknowledged."""
        for gateway in gateways or tuple(self.sensors):
            self.sensors[gateway].wait_for_all(DEVICES, PATIENCE)

    def points(self, gateway: str) -> int:
        """How many values of a gateway's devices InfluxDB holds."""
        found = self.fleet.influxdb(f"SELECT COUNT(value) FROM resources WHERE serverId = '{gateway}'")
        return int(found[0]["values"][0][1]) if found else 0

    def wait_for_new_points(self, *gateways: str) -> None:
        """Wait until values that were not there before are in InfluxDB."""
        before = {gateway: self.points(gateway) for gateway in gateways or tuple(self.sensors)}
        for gateway, count in before.items():
            end = time.monotonic() + PATIENCE
            while self.points(gateway) <= count:
                assert time.monotonic() < end, f"no new points of {gateway} in InfluxDB\n{self.fleet.state()}"

    def end(self) -> None:
        for one in self.sensors.values():
            one.end()


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four boxes in one Swarm, with all images; no fleet yet."""
    with lab() as made:
        cloud = made.boxes["cloud"]
        cloud.docker("swarm", "init", "--advertise-addr", cloud.address)
        token = cloud.docker("swarm", "join-token", "--quiet", "worker")
        join = ("swarm", "join", "--token", token, f"{cloud.address}:2377")
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(lambda box: box.docker(*join), (box for box in made.boxes.values() if box is not cloud)))
        folder = tmp_path_factory.mktemp("fleet")
        (folder / "bootstrap.yaml").write_text(BOOTSTRAP.format(gateway=made.boxes["rock64"].address))
        yield Fleet(
            folder=folder,
            cloud=cloud,
            boxes=made.boxes,
            images=made.images,
            version=FIRST,
            gateways=["rock64", "tinker"],
            # One of them has a bootstrap server, the other its replicator at the cloud, and a job.
            more={
                "rock64": {"bootstrap": {"config": "bootstrap.yaml"}},
                "tinker": {"replicator": "cloud", "analytics": {"max-temperature": None}},
            },
        )


@pytest.fixture(scope="module")
def way(swarm: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Monitoring, cloud, sinks and two gateways, deployed; devices at both."""
    swarm.apply()
    made = Way(swarm, tmp_path_factory.mktemp("devices"))
    try:
        for gateway in swarm.gateways:
            made.add_devices(gateway)
        yield made
    finally:
        made.end()


def test_devices_register_through_the_published_port_and_their_data_is_in_both_stores(way: Way) -> None:
    way.wait_for_new_readings()
    way.wait_for_new_points()
    names = {name for gateway in way.sensors for name in way.endpoints(gateway)}

    def in_the_graph() -> set[str]:
        try:
            return {str(row["name"]) for row in way.fleet.graph("SELECT name FROM Endpoints")}
        except DockerError:  # there is no database yet
            return set()

    until("all devices in the graph", lambda: in_the_graph() >= names, PATIENCE)
    servers = {row["serverId"] for row in way.fleet.graph("SELECT serverId FROM Servers")}
    assert servers == set(way.sensors)


def test_gateway_sees_the_address_that_a_device_sent_from(way: Way) -> None:
    found = way.fleet.graph("SELECT name, address FROM Endpoints")
    assert found
    assert {row["address"] for row in found} == {HERE}


def test_what_is_deployed_already_is_left_alone(way: Way) -> None:
    assert "nothing to change" in way.fleet.apply()


def test_command_goes_down_and_its_reply_comes_back(way: Way) -> None:
    device = "tinker-dev-1"
    way.fleet.client("write", device, "/1/0/1", "1234", "--gateway", "tinker")
    assert "1234" in way.fleet.client("read", device, "/1/0/1", "--gateway", "tinker")


def test_device_that_was_bootstrapped_gets_in_at_the_gateway_with_the_key_that_it_was_given(way: Way) -> None:
    box = way.fleet.boxes["rock64"]
    bootstrap = box.container("gw-rock64_bootstrap")
    key = box.docker("exec", bootstrap, "headwater", "credentials", "add", "press-7", "--psk").split()[-1]
    at = (HERE, f"{box.address}:5694", f"{box.address}:5684")
    words = box.network.command(sys.executable, "-m", "tests.stacks.bootstrapped", *at, "press-7", key)
    script(*words, environment={"PYTHONPATH": str(REPOSITORY)}, cwd=way.folder)
    gateway = box.container("gw-rock64_gateway")
    assert "press-7" in box.docker("exec", gateway, "headwater", "credentials", "list", "--output", "json")
    log = ("exec", bootstrap, "headwater", "bootstrap", "log", "press-7", "--output", "json")
    until("the run is done", lambda: json.loads(box.docker(*log))[0]["outcome"] == "done", PATIENCE)


def test_prometheus_sees_every_target_of_the_fleet(way: Way) -> None:
    def down() -> list[str]:
        active = way.fleet.prometheus("/api/v1/targets?state=active")["activeTargets"]
        assert active
        return [f"{one['scrapeUrl']}: {one['lastError']}" for one in active if one["health"] != "up"]

    def jobs() -> set[str]:
        active = way.fleet.prometheus("/api/v1/targets?state=active")["activeTargets"]
        return {one["labels"]["job"] for one in active}

    until("every target up", lambda: not down(), PATIENCE)
    assert jobs() >= {"prometheus", "gateway", "bootstrap", "replicator", "sink", "kafka"}, jobs()

    def devices() -> float:
        found = way.fleet.prometheus("/api/v1/query?query=sum(headwater_gateway_devices)")["result"]
        return float(found[0]["value"][1]) if found else 0.0

    until("Prometheus sees the devices", lambda: devices() > 0, PATIENCE)


def test_job_at_the_cloud_tells_the_maxima_of_its_gateway(way: Way) -> None:
    """Where the replicator runs at the cloud as well."""
    cloud = way.fleet.cloud.services()
    assert cloud["rep-tinker_replicator"] == cloud["an-tinker-max-temperature_job"] == "1/1"
    assert cloud["gw-tinker_replicator"] == "0/0"
    topics = Topics("tinker")
    found: list[Stored] = []

    def told() -> set[str]:
        found[:] = way.fleet.read("cloudnet", CLOUD_KAFKA, way.fleet.identity("admin:fleet"), [topics.maxper30sec])
        return {one.record.ep for one in found if isinstance(one.record, Notification)}

    until("a maximum of each device", lambda: told() == way.endpoints("tinker"), PATIENCE)
    assert all(one.record.path.endswith("/5700-max") for one in found if isinstance(one.record, Notification))


def test_killed_gateway_comes_back_and_its_devices_go_on(way: Way) -> None:
    box = way.fleet.boxes["rock64"]
    before = box.container("gw-rock64_gateway")
    box.docker("kill", "--signal", "KILL", before)
    until(
        "another container of the gateway",
        lambda: box.container("gw-rock64_gateway") not in ("", before),
        PATIENCE,
    )
    way.wait_for_new_readings("rock64")
    way.wait_for_new_points("rock64")


def test_box_of_a_gateway_comes_back_from_a_power_cut(way: Way) -> None:
    box = way.fleet.boxes["rock64"]
    box.kill()
    box.start()
    way.wait_for_new_readings("rock64")
    way.wait_for_new_points("rock64")


def test_gateways_go_on_while_the_cloud_stack_is_away_and_the_cloud_gets_it_after(way: Way) -> None:
    way.fleet.cloud.docker("stack", "rm", "cloud")
    until("the cloud stack is gone", lambda: not _services(way.fleet, "cloud_"), PATIENCE)
    way.wait_for_new_readings()
    # Its databases may be ending still, on the volumes that the new ones will have.
    way.fleet.apply()
    way.wait_for_new_points()


def test_sink_is_scaled_to_two_while_data_flows(way: Way) -> None:
    cloud = way.fleet.cloud
    cloud.docker("service", "scale", "--detach", "connectors_influxdb-sink=2")
    until("two sinks", lambda: cloud.services()["connectors_influxdb-sink"] == "2/2", PATIENCE)
    way.wait_for_new_points()
    cloud.docker("service", "scale", "--detach", "connectors_influxdb-sink=1")
    until("one sink", lambda: cloud.services()["connectors_influxdb-sink"] == "1/1", PATIENCE)
    way.wait_for_new_points()


def test_image_is_updated_service_by_service_and_goes_back(way: Way) -> None:
    newer = {f"headwater:{NEXT}", f"headwater-kafka:{NEXT}"}
    way.fleet.version = NEXT
    way.fleet.apply()
    assert _images(way.fleet, "headwater") == newer
    way.wait_for_new_points()
    way.fleet.cloud.docker("service", "rollback", "--detach", "gw-rock64_gateway")
    box = way.fleet.boxes["rock64"]
    until(
        "the gateway of before",
        lambda: box.docker("ps", "--format", "{{.Image}}", "--filter", "name=_gateway") == f"headwater:{FIRST}",
        PATIENCE,
    )
    way.wait_for_new_points("rock64")
    # What was taken back by hand is not what the file says.
    way.fleet.apply()
    assert _images(way.fleet, "headwater") == newer
    way.wait_for_new_points("rock64")


def test_gateway_is_added(way: Way) -> None:
    way.fleet.gateways.append("pine64")
    way.fleet.apply()
    way.add_devices("pine64")
    way.wait_for_new_readings("pine64")
    way.wait_for_new_points("pine64")


def test_nothing_is_lost_and_nothing_doubled(way: Way) -> None:
    for sensors in way.sensors.values():
        if sensors.runs:
            sensors.stop()
    for gateway, sensors in way.sensors.items():
        journal = sensors.entries()
        assert journal
        topics = Topics(gateway)
        names = (topics.registrations, topics.observations, topics.replies, topics.deadletter)

        def verdict(
            gateway: str = gateway,
            names: Sequence[str] = names,
            topics: Topics = topics,
            journal: list = journal,  # type: ignore[type-arg]  # bound now
        ) -> tuple[Verdict, list[Stored]]:
            admin = way.fleet.identity("admin:fleet")
            edge = way.fleet.read(f"edgenet_{gateway}", f"kafka-{gateway}:9082", admin, names)
            cloud = way.fleet.read("cloudnet", CLOUD_KAFKA, admin, names)
            return judge(journal, edge, cloud, None, topics), cloud

        end = time.monotonic() + PATIENCE
        found, cloud = verdict()
        while not found.right(DEVICES) and time.monotonic() < end:
            time.sleep(1)
            found, cloud = verdict()
        assert found.right(DEVICES), found
        expected = _told(cloud)
        until(
            f"every value of {gateway} in InfluxDB",
            lambda expected=expected, gateway=gateway: not expected - _points(way.fleet, gateway),  # type: ignore[misc]  # bound now
            PATIENCE,
        )
        assert _points(way.fleet, gateway) == expected
    in_the_graph = Counter(row["name"] for row in way.fleet.graph("SELECT name FROM Endpoints"))
    assert in_the_graph == Counter(name for gateway in way.sensors for name in way.endpoints(gateway))


def test_removed_gateway_leaves_nothing_but_what_it_sent(way: Way) -> None:
    assert "pine64" in way.fleet.gateways
    kept = way.points("pine64")
    stolen = way.folder / "stolen"
    shutil.copytree(way.fleet.identity("replicator:pine64"), stolen)
    requests = [Topics("pine64").requests]
    way.fleet.read("cloudnet", CLOUD_KAFKA, stolen, requests)
    done = way.fleet.deploy("remove", "--gateway", "pine64", "--revoke", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(DockerError, match=r"(?i)authoriz"):
        way.fleet.read("cloudnet", CLOUD_KAFKA, stolen, requests)
    way.fleet.gateways.remove("pine64")
    assert "nothing to change" in way.fleet.apply()
    cloud = way.fleet.cloud
    assert not _services(way.fleet, "gw-pine64_")
    assert "edgenet_pine64" not in cloud.docker("network", "ls", "--format", "{{.Name}}").split()
    assert not [name for name in cloud.docker("secret", "ls", "--format", "{{.Name}}").split() if "pine64" in name]
    assert "pine64" not in str(cloud.inspect("node", "inspect", "pine64")["Spec"]["Labels"])
    assert way.points("pine64") == kept


def test_removed_fleet_leaves_nothing(way: Way) -> None:
    done = way.fleet.deploy("remove", "--volumes", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    cloud = way.fleet.cloud
    assert cloud.docker("stack", "ls", "--format", "{{.Name}}") == ""
    assert cloud.docker("service", "ls", "--quiet") == ""
    assert cloud.docker("secret", "ls", "--quiet") == ""
    assert cloud.docker("config", "ls", "--quiet") == ""
    networks = cloud.docker("network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}}").split()
    assert networks == ["ingress"]
    # A container's own volume goes with it, and the last containers a moment after their services.
    until("no volume is left", lambda: cloud.docker("volume", "ls", "--quiet") == "", PATIENCE)
    for name in way.fleet.boxes:
        assert cloud.inspect("node", "inspect", name)["Spec"]["Labels"] == {}


def _services(fleet: Fleet, prefix: str) -> list[str]:
    return [name for name in fleet.cloud.services() if name.startswith(prefix)]


def _images(fleet: Fleet, prefix: str) -> set[str]:
    """The images of ours that services are told to run."""
    found = fleet.cloud.docker("service", "ls", "--format", "{{.Image}}").split()
    return {one for one in found if one.startswith(prefix) and not one.startswith("headwater-test")}


def _told(cloud: Sequence[Stored]) -> Counter[tuple[str, str, object]]:
    """Endpoint, path and value of everything that InfluxDB should hold."""
    found: Counter[tuple[str, str, object]] = Counter()
    for one in cloud:
        if isinstance(one.record, (Notification, Response)):
            found.update((one.record.ep, path, _alike(value)) for path, value in one.told)
    return found


def _points(fleet: Fleet, gateway: str) -> Counter[tuple[str, str, object]]:
    """Endpoint, path and value of every point with a value."""
    found: Counter[tuple[str, str, object]] = Counter()
    for series in fleet.influxdb(
        f"SELECT value, svalue, bvalue FROM resources WHERE serverId = '{gateway}' GROUP BY ep, path, kind"
    ):
        tags = series["tags"]
        for row in series["values"]:
            (value,) = [one for one in row[1:] if one is not None]
            if tags["kind"]:
                found[tags["ep"], tags["path"], _alike(value)] += 1
    return found


def _alike(value: object) -> object:
    """Numbers as InfluxDB has them."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
