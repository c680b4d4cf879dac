"""A running way under the eyes of the real Prometheus and Alertmanager: what they see of it, and of its faults.

Everything runs once for this file; its tests come in the order of what they break.
"""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from headwater.demo.link import Cut
from tests.installed_server import ANSWER_S
from tests.prometheus_server import promtool
from tests.stacks.metrics_page import page_rows
from tests.stacks.monitored_way import Watched, watched
from tests.stacks.shipped_monitoring import records
from tests.way import produce, until

pytestmark = pytest.mark.kafka

#: What may tell series apart, beside `le` and `quantile`: nothing of which devices or people make more and more.
LABELS = frozenset(
    {
        *("component", "gateway", "version", "python"),
        *("reason", "outcome", "stage", "lane", "topic", "partition", "sink", "group", "name", "kind"),
        *("standing", "phase"),
        # Of Python's own metrics, and of certificates.
        *("generation", "implementation", "major", "minor", "patchlevel"),
        *("identity", "file", "source", "status", "code"),
    }
)
#: What a metric may be measured in, at the end of its name (before `_total`): base units, or things that are counted.
NOT_BASE = re.compile(r"_(ms|millis|milliseconds|minutes|hours|days|kb|mb|kilobytes|megabytes|percent)(_|$)")
#: What tells that a kind of process is gone, and by which job of Prometheus its processes are seen.
DOWN = {
    "KafkaDown": "kafka",
    "SinkDown": "sink",
    "ReplicatorDown": "replicator",
    "AnalyticsJobDown": "analytics",
    "CampaignsDown": "campaigns",
    "AlertmanagerDown": "alertmanager",
}
NAME = re.compile(r"headwater_[a-z][a-z0-9]*(_[a-z0-9]+)*")


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("watched")) as running:
        yield running


def page(address: str) -> str:
    """What a process shows Prometheus."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_S) as answer:
        return bytes(answer.read()).decode()


def missed(job: str) -> str:
    """A query: the targets that were not scraped for a second, or in vain, once they had been."""
    up = f'up{{job="{job}"}}'
    return f"min_over_time(({up} or 0 * last_over_time({up}[1h]))[1h:1s]) == 0"


def families(way: Watched) -> dict[str, list[Metric]]:
    """What each of our processes shows, by job."""
    return {job: list(text_string_to_metric_families(page(where))) for job, where in way.ours.items()}


def test_every_target_is_up_and_no_scrape_fails(way: Watched) -> None:
    jobs = {
        *("gateway", "bootstrap", "replicator", "sink", "analytics", "campaigns", "schemas"),
        *("kafka", "node", "prometheus", "alertmanager"),
    }
    until("all targets are up", way.prometheus.scrapes_all)
    assert {one["labels"]["job"] for one in way.prometheus.scraped()} == jobs


def test_the_names_of_our_metrics_keep_to_the_rules(way: Watched) -> None:
    for job, found in families(way).items():
        names = [family.name for family in found]
        assert len(names) == len(set(names)), f"{job} shows a metric twice"
        for family in found:
            assert family.documentation.strip(), f"{family.name} says nothing of itself"
            labels = {label for sample in family.samples for label in sample.labels} - {"le", "quantile"}
            assert labels <= LABELS, f"{family.name} of {job}"
            if family.name.startswith(("process_", "python_")):
                continue
            assert NAME.fullmatch(family.name), f"{family.name} of {job}"
            assert family.type in ("counter", "gauge", "histogram"), family.name
            assert not NOT_BASE.search(family.name), f"{family.name} is in no base unit"
            for sample in family.samples:
                assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
        # What devices are called never is a label, whatever the label is called.
        values = {value for family in found for sample in family.samples for value in sample.labels.values()}
        assert not any("watched-" in value for value in values)


def test_promtool_finds_nothing_wrong_with_what_any_process_shows(way: Watched) -> None:
    pages = {job: page(where) for job, where in way.ours.items()}
    pages |= {one["labels"]["instance"]: page(one["labels"]["instance"]) for one in way.prometheus.scraped()
              if one["labels"]["job"] == "kafka"}  # fmt: skip
    for job, text in pages.items():
        done = subprocess.run(
            [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{job}:\n{done.stdout}{done.stderr}"


def test_the_page_of_metrics_has_all_of_them_and_no_other(way: Watched) -> None:
    rows = page_rows()
    for job, found in families(way).items():
        shown = {
            one.name + ("_total" if one.type == "counter" else ""): one
            for one in found
            if one.name.startswith("headwater_")
        }
        documented = {name: row for name, row in rows.items() if job in row.processes and not row.only_some}
        assert set(documented) <= set(shown), f"docs/metrics.md has of {job} what is not there"
        missing = {name for name in shown if name not in rows or job not in rows[name].processes}
        assert not missing, f"docs/metrics.md lacks of {job}"
        for name, family in shown.items():
            assert rows[name].type == family.type, name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            if family.samples:
                assert labels == rows[name].labels, name


def test_every_recorded_rule_has_a_value(way: Watched) -> None:
    for name, expression in records().items():
        until(f"a value of {name}", lambda name=name: bool(way.prometheus.values(name)))  # type: ignore[misc]  # a lambda
        assert expression
    for rule in way.prometheus.rules():
        assert rule["health"] in ("ok", "unknown"), f"{rule['name']}: {rule.get('lastError')}"
        assert not rule.get("lastError")


def test_the_topic_tells_whose_metric_it_is(way: Watched) -> None:
    for metric in ("headwater_sink_lag_records", "headwater_analytics_lag_records", "kafka_log_size_bytes"):
        where = f'{metric}{{topic="{way.gateway.topics.observations}"}}'
        until(where, lambda where=where: bool(way.prometheus.values(where)))  # type: ignore[misc]  # a lambda
        assert {one["metric"]["gateway"] for one in way.prometheus.values(where)} == {way.gateway.id}
    until("which Kafka it is", lambda: len(way.prometheus.values("kafka_host_info")) == 2)


def test_a_certificate_that_runs_out_soon_is_told_of(way: Watched) -> None:
    alert = way.wait_for("CertificateNearlyExpired", identity="gateway:ageing", source="disk")
    assert alert["labels"]["severity"] == "critical"
    assert "runs out in 5d 23h" in alert["annotations"]["summary"]
    # The lesser alert on the same is there, and nobody is told of it.
    lesser = way.wait_for("CertificateExpires", identity="gateway:ageing", source="disk")
    until(
        "it is inhibited",
        lambda: bool(way.firing("CertificateExpires", **lesser["labels"])[0]["status"]["inhibitedBy"]),
    )
    way.wait_for("GatewayNotReady", gateway="ageing")


def test_a_poisoned_record_is_told_of(way: Watched) -> None:
    assert not way.firing("DeadLetters", component="sink")
    produce(way.cloud.cluster, way.gateway.topics.observations, b"poison")
    alert = way.wait_for("DeadLetters", component="sink", stage="decode")
    assert "headwater deadletter list" in alert["annotations"]["description"]
    way.wait_for("DeadLetters", component="analytics", stage="decode")
    assert not way.firing("DeadLetters", component="gateway")
    produce(way.edge.cluster, way.gateway.topics.requests, b"poison")
    way.wait_for("DeadLetters", component="gateway", stage="command", gateway=way.gateway.id)


def test_a_replicator_that_is_cut_off_is_told_of(way: Watched) -> None:
    assert not way.firing("ReplicatorCutOff")
    way.line.cut(Cut.RESET)
    way.wait_for("ReplicatorCutOff", gateway=way.gateway.id)
    assert not way.firing("ReplicatorDown")
    way.line.restore()
    until("it is over", lambda: not way.firing("ReplicatorCutOff"))


def test_a_gateway_that_is_killed_is_told_of_and_people_hear_of_it(way: Watched) -> None:
    assert not way.firing("GatewayDown")
    way.gateway.kill()
    alert = way.wait_for("GatewayDown", gateway=way.gateway.id)
    assert alert["labels"]["severity"] == "critical"
    way.wait_for("TargetDown", job="gateway")
    until(
        "people are told",
        lambda: any(one["alertname"] == "GatewayDown" and one["gateway"] == way.gateway.id for one in way.told.alerts),
    )
    assert not any(one["alertname"] == "Watchdog" for one in way.told.alerts)
    way.gateway.start()
    until("it is over", lambda: not way.firing("GatewayDown"))


def test_no_text_of_an_alert_has_an_error_in_it(way: Watched) -> None:
    for alert in way.alertmanager.alerts():
        assert not [text for text in alert["annotations"].values() if "<error" in text or "<no value>" in text], alert


def test_nothing_else_was_told_of(way: Watched) -> None:
    """What a whole and running way raises beside the faults of this file is a false alarm."""
    expected = {
        *("Watchdog", "CertificateExpires", "CertificateNearlyExpired", "GatewayNotReady", "DeadLetters"),
        *("ReplicatorCutOff", "ReplicationLags", "GatewayDown", "TargetDown"),
    }
    # Where a minute is two seconds, a busy machine may scrape too late; then these are right, and only then.
    expected |= {alert for alert, job in DOWN.items() if way.prometheus.values(missed(job))}
    # Of the machine that runs the tests, which may well be full and busy.
    ever = {
        one["metric"]["alertname"] for one in way.prometheus.values('last_over_time(ALERTS{alertstate="firing"}[1h])')
    }
    assert {one for one in ever if not one.startswith("Node")} <= expected


def test_the_page_and_the_configuration_name_the_same_jobs() -> None:
    text = (Path(__file__).parents[2] / "stacks/monitoring/prometheus.yml").read_text()
    jobs = set(re.findall(r"job_name: (\w+)", text))
    assert {process for row in page_rows().values() for process in row.processes} <= jobs
