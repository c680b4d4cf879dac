"""The dashboard of the services, on a real Swarm: cAdvisor tells of its containers, and every panel has an answer."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cadvisor_server import CadvisorServer
from tests.monitoring_tools import node_exporter
from tests.ports import held_port
from tests.stacks.dashboard_way import SCRAPE_S, Scraper
from tests.stacks.docker_host import CannotRun, Daemon, have_docker
from tests.stacks.grafana_queries import Sources, Span, choose, dashboards
from tests.way import until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

#: By name: how many tasks, and what they may take.
SERVICES = {
    "rock_gateway": ("--replicas", "2", "--limit-cpu", "0.05", "--limit-memory", "64M"),
    "rock_kafka": ("--replicas", "1", "--limit-memory", "96M"),
}
WATCHED_S = 25


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sources, float]]:
    """A Swarm of one node with `SERVICES`, seen by cAdvisor, scraped by Prometheus; since when."""
    try:
        have_docker()
    except CannotRun as exc:
        pytest.fail(f"the dashboard of services was not tried: {exc}")
    folder = tmp_path_factory.mktemp("services")
    swarm = Daemon(name="services", folder=folder / "docker")
    cadvisor = CadvisorServer(directory=folder / "cadvisor", port=held_port(), docker=f"unix://{swarm.socket}")
    scraper = Scraper(
        directory=folder / "prometheus", port=held_port(), targets={"cadvisor": [f"127.0.0.1:{cadvisor.port}"]}
    )
    try:
        swarm.start()
        swarm.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        _import_image(swarm, folder)
        for name, options in SERVICES.items():
            swarm.docker("service", "create", "--detach", "--name", name, *options, "busy:1")
        # In Docker's namespaces of processes and mounts, as a container with the host's has them.
        cadvisor.within = ("nsenter", "--target", str(swarm.pid), "--pid", "--mount")
        cadvisor.start()
        scraper.start()
        sources = Sources(prometheus=scraper.url, influxdb="", database="", token="")
        tasks = 'container_cpu_usage_seconds_total{container_label_com_docker_swarm_service_name!=""}'
        until("three tasks are scraped", lambda: len(sources.prom("query", query=tasks)["result"]) >= 3)
        since = time.time()
        until("time for a few scrapes", lambda: time.time() > since + WATCHED_S)
        yield sources, since
    finally:
        scraper.remove()
        cadvisor.remove()
        swarm.remove()


def _import_image(swarm: Daemon, folder: Path) -> None:
    """An image of one program that needs nothing else, and does something when it is asked."""
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(node_exporter(), "busy")
    swarm.docker("import", "--change", 'ENTRYPOINT ["/busy"]', str(archive), "busy:1")


@pytest.mark.parametrize("how", ["all", "listed", "single"])
def test_every_query_has_an_answer(watched: tuple[Sources, float], how: str) -> None:
    sources, since = watched
    (dashboard,) = (one for one in dashboards() if one.file.name == "services.json")
    span = Span(start=since, end=time.time(), step=SCRAPE_S, scrape=SCRAPE_S)
    chosen = choose(sources, dashboard, span, listed=how == "listed", single=how == "single")
    assert list(chosen["service"].values) == (["rock_gateway"] if how == "single" else sorted(SERVICES))
    for query in dashboard.queries:
        answer = sources.ask(query, chosen, span)
        assert answer, f"{query.name}: {query.text}"
        names = {one.name for one in answer.series}
        if "service_name" in str(query.target["legendFormat"]):
            assert names <= set(chosen["service"].values), query.text


def test_figures_are_those_of_the_services(watched: tuple[Sources, float]) -> None:
    sources, since = watched
    (dashboard,) = (one for one in dashboards() if one.file.name == "services.json")
    span = Span(start=since, end=time.time(), step=SCRAPE_S, scrape=SCRAPE_S)
    chosen = choose(sources, dashboard, span)
    found = {query.name: sources.ask(query, chosen, span) for query in dashboard.queries}

    def last(name: str) -> dict[str, float]:
        return {one.name: one.points[-1][1] for one in found[name].series}

    assert list(last("Services A").values()) == [2]
    assert list(last("Tasks A").values()) == [3]
    assert last("Running tasks A") == {"rock_gateway": 2, "rock_kafka": 1}
    assert 0 < max(last("Memory of the limit A").values()) < 1
    limits = {row["container_label_com_docker_swarm_service_name"]: row["Value"] for row in found["Tasks now B"].table}
    assert limits == {"rock_gateway": 64 << 20, "rock_kafka": 96 << 20}
