"""The dashboard of the services, on a real Swarm: cAdvisor tells of its containers, and every panel has an answer."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cadvisor_server import CadvisorServer
from tests.ports import held_port
from tests.prometheus_server import prometheus
from tests.stacks.dashboard_way import SCRAPE_S, SELDOM_S, Scraper
from tests.stacks.docker_host import Daemon, have_docker, need_docker
from tests.stacks.grafana_queries import Sources, Span, choose, dashboards
from tests.way import until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(1200)]

#: By name: how many tasks, and what they may take.
SERVICES = {
    "rock_gateway": ("--replicas", "2", "--limit-cpu", "0.05", "--limit-memory", "192M"),
    "rock_kafka": ("--replicas", "1", "--limit-memory", "256M"),
}
WATCHED_S = 25


@contextmanager
def swarm(folder: Path) -> Iterator[tuple[Sources, float]]:
    """A Swarm of one node with `SERVICES`, seen by cAdvisor, scraped by Prometheus; since when.

    Raises:
        CannotRun: this machine cannot run Docker.
    """
    have_docker()
    docker = Daemon(name="services", folder=folder / "docker")
    cadvisor = CadvisorServer(directory=folder / "cadvisor", port=held_port(), docker=f"unix://{docker.socket}")
    targets = {"cadvisor": [f"127.0.0.1:{cadvisor.port}"]}
    scraper = Scraper(directory=folder / "prometheus", port=held_port(), targets=targets)
    try:
        docker.start()
        docker.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        _import_image(docker, folder)
        for name, options in SERVICES.items():
            docker.docker("service", "create", "--detach", "--name", name, *options, "busy:1")
        # In Docker's namespaces of processes and mounts, as a container with the host's has them.
        cadvisor.within = ("nsenter", "--target", str(docker.pid), "--pid", "--mount")
        cadvisor.start()
        scraper.start()
        sources = Sources(prometheus=scraper.url, influxdb="", database="", token="")
        tasks = 'container_cpu_usage_seconds_total{container_label_com_docker_swarm_service_name!=""}'
        until("three tasks are scraped", lambda: len(sources.prom("query", query=tasks)["result"]) >= 3)
        yield sources, time.time()
    finally:
        scraper.remove()
        cadvisor.remove()
        docker.remove()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sources, float]]:
    need_docker("the dashboard of services")
    with swarm(tmp_path_factory.mktemp("services")) as (sources, since):
        until("time for a few scrapes", lambda: time.time() > since + WATCHED_S)
        yield sources, since


def _import_image(docker: Daemon, folder: Path) -> None:
    """An image of one program that needs nothing else and is never idle: a Prometheus that scrapes itself."""
    archive, config = folder / "image.tar", folder / "prometheus.yml"
    job = "{job_name: itself, static_configs: [{targets: ['127.0.0.1:9090']}]}"
    config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs: [{job}]\n")
    with tarfile.open(archive, "w") as tar:
        tar.add(prometheus(), "prometheus")
        tar.add(config, "prometheus.yml")
    start = '["/prometheus", "--config.file=/prometheus.yml", "--storage.tsdb.path=/data"]'
    docker.docker("import", "--change", f"ENTRYPOINT {start}", str(archive), "busy:1")


@pytest.mark.parametrize("how", ["all", "listed", "single"])
def test_every_query_has_an_answer(watched: tuple[Sources, float], how: str) -> None:
    sources, since = watched
    (dashboard,) = (one for one in dashboards() if one.file.name == "services.json")
    span = Span(start=since, end=time.time(), step=SCRAPE_S, scrape=SCRAPE_S, seldom=SELDOM_S)
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
    span = Span(start=since, end=time.time(), step=SCRAPE_S, scrape=SCRAPE_S, seldom=SELDOM_S)
    chosen = choose(sources, dashboard, span)
    found = {query.name: sources.ask(query, chosen, span) for query in dashboard.queries}

    def last(name: str) -> dict[str, float]:
        return {one.name: one.points[-1][1] for one in found[name].series}

    assert list(last("Services A").values()) == [2]
    assert list(last("Tasks A").values()) == [3]
    assert last("Running tasks A") == {"rock_gateway": 2, "rock_kafka": 1}
    assert 0 < max(last("Memory of the limit A").values()) < 1
    limits = {row["container_label_com_docker_swarm_service_name"]: row["Value"] for row in found["Tasks now B"].table}
    assert limits == {"rock_gateway": 192 << 20, "rock_kafka": 256 << 20}
