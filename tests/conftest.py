"""What every room's tests share: real Kafka brokers, and names that keep tests apart on one of them."""

from __future__ import annotations

import logging
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from connectors.kafka import Cluster
from headwater.logs import NOISY
from headwater.servers import broker
from tests import (
    alertmanager_server,
    cassandra_server,
    elasticsearch_server,
    influxdb_server,
    monitoring_tools,
    orientdb_server,
    prometheus_server,
    redis_server,
)
from tests.kafka_brokers import BrokerFactory, KafkaBroker, new_broker
from tests.stacks import dashboard_way, server_images
from tests.stacks.docker_host import CannotRun, have_docker

# A shell that starts us in the background lets SIGINT be ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test asserts a time: a slow machine is no failure.
settings.register_profile("headwater", deadline=None)
settings.load_profile("headwater")


#: What never runs side by side, by the beginning of the file's name. Tests of faults and fleets keep the machine busy:
#: with two of them a gateway may be so slow that its devices think it gone. Both demos listen on the default ports.
_TOGETHER = {
    "tests/faults/": "faults",
    "tests/integration/test_demo.py": "demos",
    "tests/integration/test_city.py": "demos",
    "tests/stacks/test_guide.py": "faults",
    "tests/stacks/test_images.py": "faults",
    "tests/stacks/test_swarm.py": "faults",
}

#: Servers that take minutes to come by, once: by a word of the ids of the tests that need them.
_SERVERS: dict[str, Callable[[], object]] = {
    "alertmanager": alertmanager_server.alertmanager,
    "cassandra": cassandra_server.home,
    "elasticsearch": elasticsearch_server.both,
    "influxdb": influxdb_server.influxd,
    "test_dashboard": dashboard_way.install,
    "test_guide": server_images.install,
    "test_swarm": server_images.install,
    "test_monitoring": monitoring_tools.everything,
    "orientdb": orientdb_server.jars,
    "prometheus": prometheus_server.prometheus,
    "redis": redis_server.binaries,
}


#: What takes longest begins first, so that no worker is left alone with it at the end; by the file's first letters.
_FIRST = ("tests/faults/", "tests/stacks/test_swarm", "tests/stacks/", "tests/integration/", "tests/interop/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By `_FIRST`, and else as they were."""
    items.sort(
        key=lambda item: next((i for i, start in enumerate(_FIRST) if item.nodeid.startswith(start)), len(_FIRST))
    )


class _Groups(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Of several workers one gets all tests of a file, so that few start each server; and one all of `_TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((group for start, group in _TOGETHER.items() if file.startswith(start)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """xdist asks this once."""
    # Else it would begin with the files of the most tests, which are not those that take longest.
    config.option.loadscopereorder = False
    return _Groups(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the stores' servers at hand before the first test begins: its time is bounded, a build's is not."""
    if session.config.option.collectonly or not _can_run(session.items):
        return
    for word, install in _SERVERS.items():
        if any(word in item.nodeid for item in session.items):
            install()


def _can_run(items: list[pytest.Item]) -> bool:
    """False if all that is wanted is Docker's, which cannot run here: each test says at once what is missing."""
    if items and all(item.get_closest_marker("swarm") for item in items):
        try:
            have_docker()
        except CannotRun:
            return False
    return True


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The logging of a command that a test ran in its own process ends with it: its stream is closed by then."""
    levels = {name: logging.getLogger(name).level for name in ("", *NOISY)}
    yield
    structlog.reset_defaults()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real Kafka that all tests of the session share; topics are told apart by ``gateway_id``. Never kill it."""
    directory = tmp_path_factory.mktemp("kafka")
    shared = new_broker("shared", directory, "256m", None)
    try:
        yield shared.cluster
    finally:
        shared.stop()


@pytest.fixture(scope="session")
def cloud_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A second one, beside ``kafka``, for what goes from one cluster to another. Never kill it."""
    directory = tmp_path_factory.mktemp("cloud-kafka")
    shared = new_broker("cloud", directory, "256m", None)
    try:
        yield shared.cluster
    finally:
        shared.stop()


@pytest.fixture
def broker_factory(tmp_path: Path) -> Iterator[BrokerFactory]:
    """Brokers of the test's own, which it may kill and restart: ``broker_factory("edge")``."""
    made: list[KafkaBroker] = []

    def make(name: str = "edge", *, heap: str = "128m", link: broker.LinkListener | None = None) -> KafkaBroker:
        one = new_broker(name, tmp_path / "kafka", heap, link)
        made.append(one)
        return one

    yield make
    for one in made:
        broker.kill(one.name, one.directory)


@pytest.fixture
def gateway_id() -> str:
    """A gateway id that no other test has."""
    return f"gw-{secrets.token_hex(5)}"
