"""The dashboards: what is committed is what the code builds, and every query of every panel has an answer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from stacks.grafana.build import BOARDS, rendered, write
from stacks.grafana.names import UNITS, resources
from stacks.grafana.panels import INFLUXDB, PROMETHEUS, TAG
from tests.cadvisor_server import documented_metrics
from tests.stacks.dashboard_way import ROOT, System, system
from tests.stacks.grafana_queries import FOLDER, Answer, Chosen, Dashboard, Query, choose, dashboards

pytestmark = pytest.mark.timeout(600)

GRAFANA = ROOT / "stacks/grafana"
#: What is of containers is asked in `test_dashboard_of_services`, on a Swarm.
SERVICES = "services.json"
ALL = {one.file.name: one for one in dashboards()}
HERE = {name: one for name, one in ALL.items() if name != SERVICES}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Everything that the dashboards look at."""
    with system(tmp_path_factory.mktemp("dashboards")) as made:
        yield made


def answers(running: System, dashboard: Dashboard, chosen: Mapping[str, Chosen]) -> Iterator[tuple[Query, Answer]]:
    for query in dashboard.queries:
        yield query, running.sources.ask(query, chosen, running.span)


def numbers(answer: Answer) -> list[float]:
    """All numbers of an answer that say something."""
    told = [value for one in answer.series for _, value in one.points]
    told += [row["Value"] for row in answer.table if "Value" in row]
    return [value for value in told if not math.isnan(value)]


def shown_columns(query: Query, answer: Answer) -> set[str]:
    """The columns of a table as Grafana calls them before they are renamed; of several queries, the value's with its
    letter."""
    several = len(query.panel["targets"]) > 1
    names = {name for row in answer.table for name in row}
    return {f"Value #{query.target['refId']}" if name == "Value" and several else name for name in names}


def test_committed_dashboards_are_what_the_code_builds(tmp_path: Path) -> None:
    built = {file.name: file.read_text("utf-8") for file in write(tmp_path)}
    committed = {file.name: file.read_text("utf-8") for file in FOLDER.glob("*")}
    assert built == committed, "make dashboards"
    assert [rendered(one) for one in BOARDS] == [rendered(one) for one in BOARDS]


def test_file_of_a_dashboard_that_is_no_more_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    written = write(tmp_path)
    assert set(tmp_path.iterdir()) == set(written)


def test_uids_are_those_that_people_have_linked_to() -> None:
    assert {one.json["uid"] for one in ALL.values()} == {
        f"headwater-{name}"
        for name in (
            "analytics", "fleet", "gateway", "kafka", "kafka-topics", "lwm2m", "nodes", "replication", "services",
            "sinks",
        )
    }  # fmt: skip
    assert {one.file.stem for one in ALL.values()} == {
        one.json["uid"].removeprefix("headwater-") for one in ALL.values()
    }


@pytest.mark.parametrize("name", ALL)
def test_dashboard_explains_itself_and_links_to_the_others(name: str) -> None:
    dashboard = ALL[name]
    told = dashboard.json
    assert told["title"].startswith("Headwater: ")
    assert told["description"]
    (link,) = told["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == ("dashboards", [TAG], True, True)
    assert told["tags"] == [TAG]
    ids = Counter(panel["id"] for panel in told["panels"])
    assert max(ids.values()) == 1
    for panel in dashboard.panels:
        assert panel["title"]
        assert panel["description"].endswith((".", "alerts.")), panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["type"] != "stat" or panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
    for variable in told.get("templating", {}).get("list", []):
        assert variable["label"]
        assert variable["description"]
        assert not variable["multi"] or variable["current"]["value"] == ["$__all"]


@pytest.mark.parametrize("name", ALL)
def test_no_two_panels_lie_over_one_another(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in ALL[name].json["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_data_sources_are_those_that_are_provisioned() -> None:
    there = yaml.safe_load((GRAFANA / "provisioning/datasources/headwater.yml").read_text())["datasources"]
    kinds = {one["uid"]: one["type"] for one in there}
    assert set(kinds.values()) == {"prometheus", "influxdb", "alertmanager"}
    for dashboard in ALL.values():
        for query in dashboard.queries:
            told = query.target["datasource"]
            assert kinds[told["uid"]] == told["type"] == query.panel["datasource"]["type"]
    assert {PROMETHEUS.uid, INFLUXDB.uid} <= kinds.keys()
    secrets = [value for one in there for value in one.get("secureJsonData", {}).values()]
    assert secrets == ["$__file{/run/secrets/influxdb_grafana_password}"]


def test_stack_mounts_every_dashboard_and_the_provisioning() -> None:
    stack = yaml.safe_load((ROOT / "stacks/cloud.yml").read_text())
    mounted = {
        one["target"]: (ROOT / "stacks" / stack["configs"][one["source"]]["file"]).resolve()
        for one in stack["services"]["grafana"]["configs"]
    }
    wanted = {f"/etc/grafana/dashboards/{file.name}": file for file in FOLDER.glob("*.json")}
    wanted |= {f"/etc/grafana/provisioning/{kind}/headwater.yml": GRAFANA / f"provisioning/{kind}/headwater.yml"
               for kind in ("datasources", "dashboards")}  # fmt: skip
    assert mounted == {target: file.resolve() for target, file in wanted.items()}


def test_dashboards_are_provisioned_from_where_the_stack_puts_them() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/headwater.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    # A config of Swarm is no larger than 500 KB.
    assert max(one.file.stat().st_size for one in ALL.values()) < 500_000


def test_every_unit_of_a_definition_is_one_of_grafanas() -> None:
    units = {one.unit for one in resources() if one.unit}
    assert units <= UNITS.keys()


def test_path_of_every_definition_is_found_by_its_pattern_alone() -> None:
    every = [(one, re.compile(one.pattern[1:-1])) for one in resources("value")]
    for one, _ in every:
        path = f"/{one.object.id}/3/{one.resource.id}"
        for text in (f"some endpoint {path}", f"e {path}/1", path):
            assert [other.name for other, pattern in every if pattern.search(text)] == [one.name], text


@pytest.mark.kafka
@pytest.mark.parametrize("name", HERE)
def test_every_query_has_an_answer(running: System, name: str) -> None:
    dashboard = HERE[name]
    chosen = choose(running.sources, dashboard, running.span)
    for query, answer in answers(running, dashboard, chosen):
        assert answer, f"{query.name}: {query.text}"
        if not query.is_table:
            assert all(one.name for one in answer.series), query.name
            names = Counter(one.name for one in answer.series)
            assert max(names.values()) == 1, f"{query.name}: {names.most_common(1)} cannot be told apart"
            assert numbers(answer), f"{query.name} is not a number all the time: {query.text}"


@pytest.mark.kafka
@pytest.mark.parametrize("name", HERE)
def test_every_value_chosen_by_itself_is_as_all(running: System, name: str) -> None:
    dashboard = HERE[name]
    everything = choose(running.sources, dashboard, running.span)
    listed = choose(running.sources, dashboard, running.span, listed=True)
    for query in dashboard.queries:
        span = running.span
        whole, by_values = (running.sources.ask(query, chosen, span) for chosen in (everything, listed))
        assert {one.name for one in by_values.series} == {one.name for one in whole.series}, query.text
        assert len(by_values.table) == len(whole.table), query.text


@pytest.mark.kafka
@pytest.mark.parametrize("name", HERE)
def test_one_value_chosen_leaves_no_other(running: System, name: str) -> None:
    dashboard = HERE[name]
    chosen = choose(running.sources, dashboard, running.span, single=True)
    tags = {
        "gateway": ("gateway", "serverId"),
        "device": ("ep",),
        "path": ("path",),
        "topic": ("topic",),
        "sink": ("sink",),
    }
    for query, answer in answers(running, dashboard, chosen):
        for variable, labels in tags.items():
            if f"${variable}" not in query.text and f"${{{variable}" not in query.text:
                continue
            seen = {row[label] for label in labels for row in _labelled(answer) if label in row}
            assert seen <= set(chosen[variable].values), f"{query.name}: {query.text}"


def _labelled(answer: Answer) -> list[Mapping[str, Any]]:
    return [*(one.labels for one in answer.series), *answer.table]


@pytest.mark.kafka
@pytest.mark.parametrize("name", HERE)
def test_tables_have_the_columns_that_are_renamed(running: System, name: str) -> None:
    dashboard = HERE[name]
    chosen = choose(running.sources, dashboard, running.span)
    for panel in dashboard.panels:
        there: set[str] = set()
        for query, answer in answers(running, dashboard, chosen):
            if query.panel is panel:
                there |= shown_columns(query, answer)
        renamed: dict[str, str] = {}
        for step in panel.get("transformations", []):
            if step["id"] == "organize":
                renamed = step["options"]["renameByName"]
                assert set(renamed) <= there, panel["title"]
                assert set(step["options"]["excludeByName"]) <= there, panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] == "byName":
                assert override["matcher"]["options"] in {renamed.get(one, one) for one in there}


@pytest.mark.kafka
@pytest.mark.parametrize("name", HERE)
def test_tables_of_several_queries_have_one_row_for_each_thing(running: System, name: str) -> None:
    """Grafana merges rows that agree in all columns that both have, beside the value."""
    dashboard = HERE[name]
    chosen = choose(running.sources, dashboard, running.span)
    for panel in dashboard.panels:
        if panel["type"] != "table" or len(panel["targets"]) < 2:
            continue
        asked = [answer.table for query, answer in answers(running, dashboard, chosen) if query.panel is panel]
        common = set.intersection(*({*rows[0]} - {"Value", "Time"} for rows in asked))
        found = [{tuple(row[label] for label in sorted(common)) for row in rows} for rows in asked]
        assert common, panel["title"]
        assert set.union(*found) == found[0], panel["title"]


@pytest.mark.kafka
def test_values_have_the_names_and_units_of_their_definitions(running: System) -> None:
    dashboard = ALL["lwm2m.json"]
    chosen = choose(running.sources, dashboard, running.span)
    (panel,) = (one for one in dashboard.panels if one["title"] == "Numbers")
    (query,) = (one for one in dashboard.queries if one.panel is panel)
    shown = {}
    for one in running.sources.ask(query, chosen, running.span).series:
        for override in panel["fieldConfig"]["overrides"]:
            if re.search(override["matcher"]["options"][1:-1], one.name):
                properties = {item["id"]: item["value"] for item in override["properties"]}
                shown[one.labels["ep"], one.labels["path"]] = (properties["displayName"], properties.get("unit"))
    ep = running.devices[0]
    name = "${__field.labels.ep} %s (${__field.labels.path})"
    assert shown[ep, "/3303/0/5700"] == (name % "Temperature", "celsius")
    assert shown[ep, "/3304/0/5700"] == (name % "Humidity", "humidity")
    assert shown[ep, "/3/0/9"] == (name % "Device, Battery Level", "percent")


@pytest.mark.kafka
def test_command_log_has_every_command_once_with_its_answer(running: System) -> None:
    dashboard = ALL["lwm2m.json"]
    chosen = choose(running.sources, dashboard, running.span)
    (query,) = (one for one in dashboard.queries if one.panel["title"] == "Command log")
    log = running.sources.ask(query, chosen, running.span).table
    by_ticket: dict[str, list[Mapping[str, Any]]] = {}
    for row in log:
        by_ticket.setdefault(row["ticket"], []).append(row)
    assert {one for one in by_ticket if not one.startswith("hw-campaign:")} == {
        f"ticket#{number}" for number in range(1, 11)
    }
    (executed,) = by_ticket["ticket#4"]
    assert (executed["kind"], executed["path"], executed["code"]) == ("execute", "/3303/0/5605", "CHANGED")
    (missing,) = by_ticket["ticket#5"]
    assert (missing["kind"], missing["code"]) == ("read", "NOT_FOUND")
    assert any(row["path"] == "/1/0/6" and row["bvalue"] is not None for row in by_ticket["ticket#2"])
    assert [row["Time"] for row in log] == sorted((row["Time"] for row in log), reverse=True)


def test_metrics_of_containers_are_those_that_cadvisor_documents() -> None:
    documented = documented_metrics()
    for query in ALL[SERVICES].queries:
        named = set(re.findall(r"\b(?:container|machine)_[a-z_]+(?=\{)", query.text))
        assert named, query.text
        assert named <= documented, query.text
