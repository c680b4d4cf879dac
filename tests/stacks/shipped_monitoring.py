"""The shipped configuration of Prometheus and Alertmanager, as a test runs it: the same, but for where the targets are,
and how long things take.

Every duration (``for:``, ``[5m]``, intervals, waits) is divided by `HURRY`, thresholds stay as they are. So what takes
a quarter of an hour in a Swarm takes seconds here, by the same rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "stacks/monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yml"))

#: How many times faster a test is.
HURRY = 30
#: Seconds between two scrapes, and the shortest span that a rate is taken over: a few of them.
SCRAPE_S, SHORTEST_S = 2, 12

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RANGE = re.compile(r"\[(\d+)([smhd])\]")
_FOR = re.compile(r"^(\s+for: )(\d+)([smhd])$", re.MULTILINE)


def hurried_rules(text: str) -> str:
    """The text of a file of rules, faster."""

    def shorter(found: re.Match[str]) -> str:
        return f"[{max(SHORTEST_S, int(found[1]) * _UNITS[found[2]] // HURRY)}s]"

    def sooner(found: re.Match[str]) -> str:
        return f"{found[1]}{max(1, int(found[2]) * _UNITS[found[3]] // HURRY)}s"

    return _FOR.sub(sooner, _RANGE.sub(shorter, text))


def prometheus_config(folder: Path, targets: Mapping[str, Sequence[str]], *, alertmanager: str | None = None) -> Path:
    """Write the configuration and the rules into ``folder``; ``targets`` are ``host:port`` by the name of their job.

    A job without targets has none. ``alertmanager`` is ``host:port``.
    """
    made: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    unknown = set(targets) - {job["job_name"] for job in made["scrape_configs"]}
    assert not unknown, f"no job of the shipped configuration: {unknown}"
    made["global"] |= {
        "scrape_interval": f"{SCRAPE_S}s",
        "scrape_timeout": f"{SCRAPE_S}s",
        "evaluation_interval": "1s",
    }
    for job in made["scrape_configs"]:
        job.pop("scrape_interval", None)
        _put(job, targets.get(job["job_name"], ()))
    for one in made["alerting"]["alertmanagers"]:
        _put(one, () if alertmanager is None else (alertmanager,))
    (folder / "rules").mkdir(parents=True)
    for rules in RULES:
        (folder / "rules" / rules.name).write_text(hurried_rules(rules.read_text()))
    config = folder / "prometheus.yml"
    # JSON is YAML.
    config.write_text(json.dumps(made))
    return config


def alertmanager_config(folder: Path, webhook: str) -> Path:
    """Write the configuration into ``folder``; it posts to the URL ``webhook``."""
    secret = folder / "alert_webhook_url"
    secret.write_text(webhook)
    text = (MONITORING / "alertmanager.yml").read_text()
    assert "/run/secrets/alert_webhook_url\n" in text
    text = text.replace("url_file: /run/secrets/alert_webhook_url", f"url_file: {secret}")

    def sooner(found: re.Match[str]) -> str:
        return f"{found[1]}{max(1, int(found[2]) * _UNITS[found[3]] // HURRY)}s"

    text = re.sub(
        r"^(\s+(?:group_wait|group_interval|repeat_interval): )(\d+)([smhd])$", sooner, text, flags=re.MULTILINE
    )
    config = folder / "alertmanager.yml"
    config.write_text(text)
    return config


def _put(where: dict[str, Any], targets: Sequence[str]) -> None:
    for way in ("dns_sd_configs", "static_configs"):
        where.pop(way, None)
    where["static_configs"] = [{"targets": list(targets)}]


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert of the shipped rules, by its name."""
    found = {}
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    assert rule["alert"] not in found, f"two alerts {rule['alert']}"
                    found[rule["alert"]] = rule
    return found


def records() -> dict[str, str]:
    """What is recorded, by name."""
    rules = yaml.safe_load((MONITORING / "rules/recording.yml").read_text())
    return {rule["record"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
