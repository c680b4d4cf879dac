"""The job `outliers`, reading by reading: enriched readings, and alerts as a file of rules wants them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from analytics.alerts import alert_id
from analytics.job import Incoming, JobConfigError, Surroundings, parse_options
from analytics.jobs.outliers import KIND
from schemas.avro.analytics_records import Alert, AlertState, EnrichedReading
from schemas.avro.serde import decode, encode
from schemas.lwm2m.nodes import Instance, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.analytics.dict_state import Counts, DictState, Emitted
from tests.sink_samples import notification, resource

PATH = "/3303/0/5700"
KNOWN = '[[distribution]]\npath = "/3303/*/5700"\nmean = 25.0\nstd_dev = 2.0\n'
HOT = '[[alert]]\nname = "hot"\npath = "/3303"\nwhen = "value > 30"\nclear = 28\nfor = "2s"\nseverity = "critical"\n'
FIRING, RESOLVED = AlertState.FIRING, AlertState.RESOLVED


class Bench:
    """The job with a state in a dict and its rules in a file, and what it puts out."""

    def __init__(self, folder: Path, rules: str | None = None, state: DictState | None = None, **options: Any) -> None:
        if rules is not None:
            (folder / "rules.toml").write_text(rules, "utf-8")
            options["rules"] = str(folder / "rules.toml")
        self.state = state or DictState()
        self.counts = Counts()
        around = Surroundings(gateway="gw1", group="g", metrics=self.counts)
        self.job = KIND.make(parse_options(KIND, options), around)
        self._emitted = Emitted()

    def take(self, value: float, at: int = 1_000, path: str = PATH, ep: str = "ep-1", own: int | None = None) -> None:
        content = notification(resource(path, value, ResourceType.FLOAT, own), ep=ep, timestamp=at)
        self.job.take(Incoming("t", 0, 0, at, b"", encode(content), ()), self.state, self._emitted)

    def _results(self, topic: str) -> list[Any]:
        mine = [one for one in self._emitted.records if one[0] == topic]
        self._emitted.records = [one for one in self._emitted.records if one[0] != topic]
        assert all(key is not None and getattr(decode(key), "ep", "") for _, key, _, _ in mine)
        return [decode(value) for _, _, value, _ in mine]

    def readings(self) -> list[EnrichedReading]:
        return self._results("analytics.gw1.readings")

    def alerts(self) -> list[Alert]:
        return self._results("analytics.gw1.alerts")

    def changes(self) -> list[tuple[str, AlertState, int]]:
        return [(told.rule, told.state, told.timestamp) for told in self.alerts()]


def test_a_reading_is_held_against_the_known_distribution(tmp_path: Path) -> None:
    bench = Bench(tmp_path, KNOWN)
    bench.take(26.0, own=900)
    bench.take(35.0)
    assert bench.readings() == [
        EnrichedReading(
            server_id="gw1",
            ep="ep-1",
            path=PATH,
            timestamp=900,
            value=26.0,
            mean=25.0,
            std_dev=2.0,
            z_score=0.5,
            outlier=False,
        ),
        EnrichedReading(
            server_id="gw1",
            ep="ep-1",
            path=PATH,
            timestamp=1_000,
            value=35.0,
            mean=25.0,
            std_dev=2.0,
            z_score=5.0,
            outlier=True,
        ),
    ]
    # There is nothing to remember.
    assert not bench.state.held


def test_the_first_distribution_that_matches_counts_and_others_run(tmp_path: Path) -> None:
    special = '[[distribution]]\nendpoint = "oven-*"\nmean = 200\nstd_dev = 10\n'
    bench = Bench(tmp_path, special + KNOWN, warm_up=2)
    bench.take(200.0, ep="oven-1")
    bench.take(25.0)
    for value in (1.0, 3.0, 5.0):
        bench.take(value, path="/3304/0/5700")
    assert [(told.mean, told.std_dev, told.outlier) for told in bench.readings()] == [
        (200.0, 10.0, False),
        (25.0, 2.0, False),
        (1.0, 0.0, False),
        (1.0, 0.0, False),
        (2.0, 1.0, False),
    ]


def test_every_reading_of_a_record_is_enriched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, KNOWN)
    device = Instance(
        path=Lwm2mPath(3303, 0),
        resources=(
            resource(PATH, 21.0),
            resource("/3303/0/5701", "Cel", ResourceType.STRING),
            resource("/3303/0/5601", math.nan),
            resource("/3303/0/5602", 7, ResourceType.INTEGER),
        ),
    )
    bench.job.take(Incoming("t", 0, 0, 1, b"", encode(notification(device)), ()), bench.state, bench._emitted)
    assert [(told.path, told.value) for told in bench.readings()] == [(PATH, 21.0), ("/3303/0/5602", 7.0)]
    assert bench.counts.skipped_ == 1


def test_whether_outliers_are_learnt_is_an_option(tmp_path: Path) -> None:
    means = []
    for learn in ("all", "inliers"):
        bench = Bench(tmp_path, warm_up=4, learn=learn)
        for value in (1.0, 2.0, 1.0, 2.0, 100.0, 1.5):
            bench.take(value)
        *_, spike, last = bench.readings()
        assert spike.outlier
        means.append(last.mean)
    assert means == [pytest.approx(21.2), 1.5]


def test_an_alert_fires_after_its_time_and_ends_at_its_clear_level(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT)
    for at, value in ((1_000, 31.0), (2_000, 32.0), (3_000, 33.0), (4_000, 29.0), (5_000, 27.5), (6_000, 31.0)):
        bench.take(value, at=at)
    first = Alert(
        id=alert_id("hot", "gw1", "ep-1", PATH, 1_000),
        rule="hot",
        server_id="gw1",
        ep="ep-1",
        path=PATH,
        severity="critical",
        state=FIRING,
        value=33.0,
        threshold=30.0,
        since=1_000,
        timestamp=3_000,
        summary="value 33 > 30: /3303/0/5700 of ep-1",
    )
    fired, ended = bench.alerts()
    assert fired == first
    assert (ended.id, ended.state, ended.since, ended.timestamp, ended.value) == (
        first.id,
        RESOLVED,
        1_000,
        5_000,
        27.5,
    )


def test_late_readings_are_enriched_and_move_no_alert(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT + KNOWN)
    for own, value in ((1_000, 31.0), (3_000, 31.0), (500, 1.0), (2_000, 1.0), (4_000, 31.0)):
        bench.take(value, at=10_000, own=own)
    assert bench.changes() == [("hot", FIRING, 3_000)]
    assert len(bench.readings()) == 5
    assert bench.counts.late_ == 2


def test_one_wrong_clock_does_not_silence_alerts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT)
    bench.take(20.0, at=1_000, own=9_000_000_000_000)
    for at in (2_000, 4_000):
        bench.take(31.0, at=at, own=at)
    assert bench.changes() == [("hot", FIRING, 4_000)]
    assert bench.counts.ahead_ == 1


def test_rates_and_z_scores_raise_alerts(tmp_path: Path) -> None:
    rules = '[[alert]]\nname = "fast"\nwhen = "|rate| >= 2 per second"\n[[alert]]\nname = "far"\nwhen = "|z| > 4"\n'
    bench = Bench(tmp_path, KNOWN + rules)
    for at, value in ((1_000, 25.0), (2_000, 26.0), (3_000, 24.0), (4_000, 34.0), (9_000, 25.0)):
        bench.take(value, at=at)
    assert bench.changes() == [
        ("fast", FIRING, 3_000),
        ("far", FIRING, 4_000),
        ("fast", RESOLVED, 9_000),
        ("far", RESOLVED, 9_000),
    ]


def test_the_same_job_made_anew_goes_on_where_it_was(tmp_path: Path) -> None:
    readings = [(1_000 * n, 25.0 + (n * 7) % 11) for n in range(60)]
    rules = HOT + '[[alert]]\nname = "é z"\nwhen = "z > 1"\n'
    whole = Bench(tmp_path, rules, warm_up=3)
    for at, value in readings:
        whole.take(value, at=at)
    state, alerts, enriched = DictState(), [], []
    for at, value in readings:
        bench = Bench(tmp_path, rules, state, warm_up=3)
        bench.take(value, at=at)
        alerts += bench.alerts()
        enriched += bench.readings()
    assert alerts == whole.alerts()
    assert len(alerts) > 4
    assert enriched == whole.readings()


def test_an_alert_whose_rule_is_gone_or_moved_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT)
    for at in (1_000, 3_000):
        bench.take(31.0, at=at)
    (fired,) = bench.alerts()
    again = Bench(tmp_path, HOT.replace('"hot"', '"other"'), bench.state)
    again.take(31.0, at=4_000)
    (ended,) = again.alerts()
    assert (ended.id, ended.rule, ended.state, ended.severity) == (fired.id, "hot", RESOLVED, "critical")
    assert ended.summary == "the rule hot is there no more"
    again.take(31.0, at=5_000)
    assert again.alerts() == []
    again.take(31.0, at=6_000)
    assert again.changes() == [("other", FIRING, 6_000)]
    none = Bench(tmp_path, None, again.state)
    none.take(31.0, at=7_000)
    assert none.changes() == [("other", RESOLVED, 6_000)]


@pytest.mark.parametrize("narrowed", [{"path": "/3304"}, {"endpoint": "other"}])
def test_an_alert_ends_where_its_series_is_looked_at_no_more(tmp_path: Path, narrowed: dict[str, Any]) -> None:
    bench = Bench(tmp_path, HOT)
    for at in (1_000, 3_000):
        bench.take(31.0, at)
    bench.take(31.0, 3_000, ep="ep-2")
    assert [told.state for told in bench.alerts()] == [FIRING]
    again = Bench(tmp_path, HOT, bench.state, **narrowed)
    for at in (4_000, 5_000):
        again.take(32.0, at)
        again.take(32.0, at, ep="ep-2")
        again.take(32.0, at, ep="ep-3")
    assert again.readings() == []
    (ended,) = again.alerts()
    assert (ended.rule, ended.ep, ended.state, ended.timestamp) == ("hot", "ep-1", RESOLVED, 3_000)
    assert ended.summary == "/3303/0/5700 of ep-1 is not looked at any more"
    # Looked at once more, it begins anew.
    wide = Bench(tmp_path, HOT, bench.state)
    for at in (6_000, 8_000):
        wide.take(31.0, at)
    assert [(told.state, told.since) for told in wide.alerts()] == [(FIRING, 6_000)]


def test_an_alert_ends_also_where_nothing_else_is_remembered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT.replace('for = "2s"\n', "") + KNOWN)
    bench.take(31.0)
    assert bench.changes() == [("hot", FIRING, 1_000)]
    again = Bench(tmp_path, KNOWN, bench.state)
    again.take(31.0, at=2_000)
    again.take(31.0, at=3_000)
    assert again.changes() == [("hot", RESOLVED, 1_000)]


def test_an_endpoint_that_makes_up_paths_for_ever_does_not_fill_the_state(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT, max_series=10)
    for number in range(500):
        bench.take(1.0, path=f"/3303/{number}/5700")
    assert len(bench.readings()) == 10
    assert bench.counts.crowded_ == 490
    assert sum(map(len, bench.state.held.values())) < 3_000


def test_series_that_are_not_chosen_are_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, path="/3304", endpoint="roof-*")
    bench.take(1.0)
    bench.take(1.0, path="/3304/0/5700")
    bench.take(1.0, path="/3304/0/5700", ep="roof-1")
    assert [(told.ep, told.path) for told in bench.readings()] == [("roof-1", "/3304/0/5700")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "--limit"),
        ({"limit": "nan"}, "--limit"),
        ({"warm_up": 0}, "--warm-up"),
        ({"learn": "some"}, "--learn: input should be 'all' or 'inliers'"),
        ({"path": "nowhere"}, "--path"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobConfigError, match=said):
        parse_options(KIND, options)


def test_a_wrong_file_of_rules_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(JobConfigError, match=r"--rules .*rules\.toml: \[\[alert\]\] number 1: when: 'hot' is no"):
        Bench(tmp_path, '[[alert]]\nname = "a"\nwhen = "hot"\n')
    with pytest.raises(JobConfigError, match=r"--rules nowhere\.toml: No such file"):
        KIND.make(
            parse_options(KIND, {"rules": "nowhere.toml"}), Surroundings(gateway="g", group="g", metrics=Counts())
        )
    (tmp_path / "latin").write_bytes(b"# \xe9")
    with pytest.raises(JobConfigError, match="no UTF-8 text"):
        KIND.make(
            parse_options(KIND, {"rules": str(tmp_path / "latin")}),
            Surroundings(gateway="g", group="g", metrics=Counts()),
        )


def test_an_alert_ends_when_a_clock_that_was_ahead_is_right_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HOT.replace('for = "2s"\n', ""), ahead="1m")
    hours = 12 * 3_600_000
    bench.take(35.0, at=hours)
    bench.take(25.0, at=1_000)
    fired, resolved = bench.alerts()
    assert (fired.state, resolved.state, resolved.timestamp) == (FIRING, RESOLVED, 1_000)
    assert fired.id == resolved.id
    assert bench.counts.late_ == 0


@pytest.mark.parametrize(("rules", "narrowed"), [(None, {}), (HOT, {"path": "/3304"})])
def test_the_end_of_an_alert_that_is_given_up_is_dated_by_no_clock_that_was_ahead(
    tmp_path: Path, rules: str | None, narrowed: dict[str, Any]
) -> None:
    bench = Bench(tmp_path, HOT.replace('for = "2s"\n', ""), ahead="1m")
    bench.take(35.0, at=12 * 3_600_000)
    again = Bench(tmp_path, rules, bench.state, ahead="1m", **narrowed)
    again.take(35.0, at=1_000)
    (fired,), (ended,) = bench.alerts(), again.alerts()
    assert (ended.id, ended.state, ended.timestamp) == (fired.id, RESOLVED, 61_000)
