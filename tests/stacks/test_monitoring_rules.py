"""The shipped rules and configuration, without a running system: what Prometheus' own tools say of them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alertmanager_server import amtool
from tests.prometheus_server import promtool
from tests.stacks.alert_cases import CASES, Case
from tests.stacks.shipped_monitoring import (
    MONITORING,
    RULES,
    alertmanager_config,
    alerts,
    hurried_rules,
    prometheus_config,
)

DOCS = Path(__file__).parents[2] / "docs"
STACKS = Path(__file__).parents[2] / "stacks"
#: Patience with a busy machine, in seconds.
TOOL_S = 120.0


def said(*command: str | Path) -> str:
    """What a tool says; fails with that if it is not content."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_promtool_finds_nothing_wrong_with_the_configuration_and_its_rules() -> None:
    told = said(promtool(), "check", "config", "--lint=all", "--lint-fatal", MONITORING / "prometheus.yml")
    assert f"{len(RULES)} rule files found" in told
    said(promtool(), "check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_amtool_finds_nothing_wrong_with_the_configuration() -> None:
    assert "2 receivers" in said(amtool(), "check-config", MONITORING / "alertmanager.yml")


def test_what_the_tests_run_is_the_shipped_configuration_but_faster(tmp_path: Path) -> None:
    config = prometheus_config(tmp_path, {"gateway": ["127.0.0.1:1"]}, alertmanager="127.0.0.1:2")
    said(promtool(), "check", "config", config)
    said(amtool(), "check-config", alertmanager_config(tmp_path, "http://127.0.0.1:3/"))
    made = json.loads(config.read_text())
    assert [job["static_configs"][0]["targets"] for job in made["scrape_configs"] if job["job_name"] == "gateway"] == [
        ["127.0.0.1:1"]
    ]
    assert hurried_rules("  for: 5m\n  expr: rate(a[15m]) > 300") == "  for: 10s\n  expr: rate(a[30s]) > 300"


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_how_bad_it_is_what_it_is_and_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "none")
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook"}
    assert len(told["summary"]) < 140
    assert len(told["description"]) > 60
    page, _, anchor = told["runbook"].partition("#")
    assert page == "docs/monitoring.md"
    assert anchor == name.lower()
    headings = re.findall(r"^### (\w+)$", (DOCS / "monitoring.md").read_text(), re.MULTILINE)
    assert headings.count(name) == 1, f"docs/monitoring.md has no section {name}"


def test_the_page_has_no_alert_that_is_not_there() -> None:
    text = (DOCS / "monitoring.md").read_text()
    _, _, runbook = text.partition("\n## Alerts\n")
    assert set(re.findall(r"^### (\w+)$", runbook, re.MULTILINE)) == set(alerts())


def test_the_stack_gives_prometheus_all_of_the_rules() -> None:
    stack = yaml.safe_load((STACKS / "monitoring.yml").read_text())
    mounted = {
        one["target"]: stack["configs"][one["source"]]["file"] for one in stack["services"]["prometheus"]["configs"]
    }
    rules = {f"/etc/prometheus/rules/{one.name}": f"./monitoring/rules/{one.name}" for one in RULES}
    assert {target: file for target, file in mounted.items() if "/rules/" in target} == rules


def test_what_is_scraped_by_a_name_has_that_name_in_a_stack() -> None:
    asked = set(re.findall(r"names: \[tasks\.([\w-]+)\]", (MONITORING / "prometheus.yml").read_text()))
    given = set()
    for file in STACKS.glob("*.yml"):
        for service in yaml.safe_load(file.read_text())["services"].values():
            networks = service.get("networks", {})
            if isinstance(networks, dict) and networks.get("monnet"):
                # Where a variable may say another name, its default.
                given |= {re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", one) for one in networks["monnet"]["aliases"]}
    assert asked <= given
    assert {one for one in given if one.endswith("-metrics")} <= asked


def test_an_inhibition_names_alerts_that_are_there() -> None:
    names = re.findall(r'alertname=~?"([^"]+)"', (MONITORING / "alertmanager.yml").read_text())
    assert {one for name in names for one in name.split("|")} <= set(alerts())


def test_every_alert_is_tried() -> None:
    assert {case.alert for case in CASES} == set(alerts())


@pytest.mark.parametrize("rules", [one for one in RULES if one.stem != "recording"], ids=lambda one: one.stem)
def test_every_alert_fires_when_it_should_and_not_before(rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "tests.yml"
    here = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    file.write_text(
        json.dumps(
            {
                "rule_files": [str(MONITORING / "rules/recording.yml"), str(rules)],
                "evaluation_interval": "15s",
                "tests": [_test(case) for case in CASES if case.alert in here],
            }
        )
    )
    said(promtool(), "test", "rules", file)


def _test(case: Case) -> dict[str, Any]:
    firing = f'count by (alertname) (ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    there = [{"labels": f'{{alertname="{case.alert}"}}', "value": case.times}]
    return {
        "name": case.alert,
        "interval": "15s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            *({"expr": firing, "eval_time": moment, "exp_samples": []} for moment in case.quiet),
            {"expr": firing, "eval_time": case.fires, "exp_samples": there},
        ],
    }
