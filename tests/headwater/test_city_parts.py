"""The pieces of the sensor city: rules, findings, audit, view, the choice of stores, and when the link is cut."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analytics.outliers import OutlierPolicy, judge
from analytics.rules import parse_rules
from cloud.inventory import Picture
from connectors.kafka import Cluster
from connectors.sink_settings import sinks_from_toml
from gateway.devices.course import Outliers
from gateway.devices.metrics import CITY, METRICS
from gateway.devices.station import Made
from headwater.city import stores as city_stores
from headwater.city.audit import CityVerdict, judge_city
from headwater.city.findings import Findings
from headwater.city.parts import later
from headwater.city.rules import THRESHOLD, rules
from headwater.city.run import CitySettings
from headwater.city.stores import Store, Stores, choose
from headwater.city.view import CityPicture
from headwater.cli import app
from headwater.commands.city import CityOptions, city_settings
from headwater.demo.cuts import KEY_CUT, Cuts
from headwater.demo.journal import Entry
from headwater.demo.link import Link
from headwater.demo.traffic import Flow
from headwater.exits import Exit, Stop
from schemas.avro.analytics_records import Alert, AlertState, EnrichedReading, Statistics
from schemas.lwm2m.path import Path as Lwm2mPath

NOISE, RAIN = "/3324/0/5700", "/3346/1/5700"


def reading(
    value: float, *, outlier: bool = False, ep: str = "s-1", path: str = NOISE, timestamp: int = 5
) -> EnrichedReading:
    return EnrichedReading(
        server_id="demo",
        ep=ep,
        path=path,
        timestamp=timestamp,
        value=value,
        mean=50.0,
        std_dev=3.0,
        z_score=(value - 50.0) / 3.0,
        outlier=outlier,
    )


def statistics(length: int, mean: float, variance: float, *, ep: str = "s-1") -> Statistics:
    return Statistics(
        server_id="demo",
        ep=ep,
        path=NOISE,
        timestamp=length,
        mean=mean,
        std_dev=variance**0.5,
        variance=variance,
        stream_length=length,
    )


def alert(state: AlertState, *, id: str = "a", since: int = 1) -> Alert:
    return Alert(
        id=id,
        rule="noise-far-from-usual",
        server_id="demo",
        ep="s-1",
        path=NOISE,
        severity="warning",
        state=state,
        value=6.0,
        threshold=THRESHOLD,
        since=since,
        timestamp=since,
        summary="",
    )


def entry(value: float, *, ep: str = "s-1", path: str = NOISE) -> Entry:
    return Entry(ep=ep, path=path, mid=1, observe=1, values=((path, value),))


def made(value: float, *, ep: str = "s-1") -> Made:
    return Made(ep=ep, path=Lwm2mPath.parse(NOISE), value=value, timestamp=1)


def verdict(**changes: Any) -> CityVerdict:
    """Two readings of which one is an outlier, all as it should be but for ``changes``."""
    readings = [reading(50.0), reading(80.0, outlier=True)]
    given: dict[str, Any] = {
        "made": [made(80.0)],
        "journal": [entry(50.0), entry(80.0)],
        "readings": readings,
        "alerts": [alert(AlertState.FIRING), alert(AlertState.RESOLVED)],
        "rows": [(one.ep, one.path, one.value) for one in readings],
        "lengths": {("s-1", NOISE): 2},
    }
    return judge_city(**(given | changes))


# rules


def test_rules_are_those_of_every_metric_and_flag_each_outlier_that_is_made() -> None:
    parsed = parse_rules(rules(METRICS.values()))
    assert [rule.name for rule in parsed.alerts] == [f"{name}-far-from-usual" for name in METRICS]
    assert Outliers().size > THRESHOLD
    for metric in METRICS.values():
        (known,) = (one for one in parsed.distributions if one.series.matches("s", str(metric.path)))
        assert (known.mean, known.std_dev) == (metric.distribution.mean, metric.distribution.sigma)
        far = metric.distribution.mean + Outliers().size * metric.distribution.sigma
        assert judge(far, known, OutlierPolicy(limit=THRESHOLD)).outlier
        assert not judge(metric.distribution.mean, known, OutlierPolicy(limit=THRESHOLD)).outlier


# findings


def test_findings_count_readings_outliers_and_alerts() -> None:
    found = Findings()
    for one in (reading(50.0), reading(80.0, outlier=True), reading(1.0, path=RAIN)):
        found.take(one)
    assert (found.readings, found.outliers) == (3, 1)
    assert found.outliers_of[NOISE] == 1
    assert [one.value for one in found.last_outliers] == [80.0]
    assert found.paths == {NOISE, RAIN}
    for state in (AlertState.FIRING, AlertState.FIRING):
        found.take(alert(state))
    assert (found.raised, len(found.firing)) == (1, 1)
    found.take(alert(AlertState.RESOLVED))
    assert (found.raised, len(found.firing)) == (1, 0)
    found.take(alert(AlertState.FIRING, since=9))
    assert found.raised == 2


def test_statistics_of_several_stations_together_are_those_of_all_their_readings() -> None:
    found = Findings()
    found.take(statistics(3, 2.0, 2 / 3))  # 1, 2, 3
    found.take(statistics(2, 10.0, 1.0, ep="s-2"))  # 9, 11
    found.take(statistics(2, 1.5, 0.25))  # older than the first: it came again
    together = found.together(NOISE)
    assert together is not None
    assert together.count == 5
    assert together.mean == pytest.approx((1 + 2 + 3 + 9 + 11) / 5)
    assert together.std_dev == pytest.approx((sum((x - 5.2) ** 2 for x in (1, 2, 3, 9, 11)) / 5) ** 0.5)
    assert found.together(RAIN) is None


def test_findings_keep_only_the_last_outliers() -> None:
    found = Findings()
    for number in range(1000):
        found.take(reading(float(number), outlier=True))
    assert [one.value for one in found.last_outliers] == [999.0, 998.0, 997.0, 996.0, 995.0, 994.0]


# audit


def test_city_in_which_all_is_right() -> None:
    found = verdict()
    assert (found.lost, found.doubled, found.outliers_missed, found.false_alarms) == (0, 0, 0, 0)
    assert (found.outliers_made, found.outliers_told, found.outliers_found, found.alerts_raised) == (1, 1, 1, 1)
    assert (found.readings_told, found.readings_judged, found.readings_stored, found.readings_counted) == (2, 2, 2, 2)
    assert found.kinds == 1


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"readings": [reading(50.0), reading(80.0)]}, {"outliers_missed": 1, "outliers_found": 0}),
        ({"readings": [reading(50.0, outlier=True), reading(80.0, outlier=True)]}, {"false_alarms": 1}),
        ({"readings": [reading(80.0, outlier=True)]}, {"lost_readings": 1, "lost": 1, "doubled_rows": 1}),
        ({"readings": [reading(50.0)] * 2 + [reading(80.0, outlier=True)]}, {"doubled_readings": 1, "lost_rows": 1}),
        ({"rows": [("s-1", NOISE, 50.0)]}, {"lost_rows": 1, "lost": 1}),
        ({"rows": [("s-1", NOISE, 50.0)] * 2 + [("s-1", NOISE, 80.0)]}, {"doubled_rows": 1, "doubled": 1}),
        ({"lengths": {("s-1", NOISE): 1}}, {"lost_counts": 1, "lost": 1}),
        ({"lengths": {("s-1", NOISE): 3}}, {"doubled_counts": 1, "doubled": 1}),
        ({"lengths": {}}, {"lost_counts": 2}),
        ({"lengths": {("s-1", NOISE): 2, ("of-before", NOISE): 7}}, {"doubled": 0, "readings_counted": 2}),
        ({"made": [made(80.0), made(20.0)]}, {"outliers_made": 2, "outliers_told": 1, "outliers_missed": 0}),
        ({"made": [made(80.0, ep="s-2")]}, {"outliers_told": 0, "false_alarms": 1}),
        ({"rows": None, "lengths": None}, {"readings_stored": None, "readings_counted": None, "lost": 0}),
        ({"alerts": [alert(AlertState.FIRING), alert(AlertState.FIRING, since=2)]}, {"alerts_raised": 2}),
    ],
)
def test_what_is_wrong_in_a_city_is_counted(changes: dict[str, Any], wrong: dict[str, object]) -> None:
    found = verdict(**changes)
    assert {name: getattr(found, name) for name in wrong} == wrong


def test_same_value_twice_must_be_there_twice() -> None:
    zeros = [entry(0.0), entry(0.0)]
    once = judge_city([], zeros, [reading(0.0)], [], None, None)
    twice = judge_city([], zeros, [reading(0.0)] * 2, [], None, None)
    assert (once.lost, twice.lost, twice.doubled) == (1, 0, 0)


# view


def picture(findings: Findings) -> CityPicture:
    flow = Flow(
        seconds=12.0,
        link_cut=True,
        devices=2,
        registrations=2,
        acknowledged=40,
        edge=41,
        cloud=39,
        rows=0,
        edge_rate=3.0,
        cloud_rate=2.0,
    )
    return CityPicture(
        flow=flow, inventory=Picture(), findings=findings, metrics=METRICS, kept={"redis keys": "7"}, head="a city"
    )


def test_view_and_line_show_what_was_found_against_what_was_told() -> None:
    found = Findings()
    for one in (statistics(3, 50.5, 9.0), reading(80.0, outlier=True), alert(AlertState.FIRING)):
        found.take(one)
    shown = picture(found)
    out = io.StringIO()
    Console(file=out, width=160, no_color=True).print(shown.view())
    text = out.getvalue()
    (noise,) = (line for line in text.splitlines() if " noise " in line and "50/3" in line)
    assert noise.split() == ["noise", "dB", "50/3", "1", "50.50", "3.00", "1", "1"]
    assert "rainfall" not in text
    assert "+10.0" in text
    assert "CUT" in text
    assert "outliers 1" in shown.line()
    assert "redis keys 7" in shown.line()
    assert "WAN CUT" in shown.line()


def test_metric_near_its_floor_is_shown_with_it() -> None:
    found = Findings()
    found.take(reading(1.0, path=RAIN))
    out = io.StringIO()
    Console(file=out, width=160, no_color=True).print(picture(found).view())
    assert "0/3 ≥ 0" in out.getvalue()


# stores


def test_stores_are_embedded_unless_they_are_given_or_left_out() -> None:
    given = {Store.CASSANDRA: "db:9042", Store.REDIS: None}
    chosen = choose(given, [])
    assert chosen.addresses[Store.CASSANDRA] == "db:9042"
    assert chosen.embedded == {Store.REDIS}
    assert choose(given, [Store.REDIS]) == Stores(addresses={Store.CASSANDRA: "db:9042"})
    assert choose({}, list(Store)) == Stores()
    with pytest.raises(Stop, match="one or the other"):
        choose(given, [Store.CASSANDRA])


def test_file_of_the_sinks_is_one_that_sink_run_takes() -> None:
    stores = Stores(addresses={Store.CASSANDRA: "10.0.0.1:9042", Store.REDIS: "[::1]:6380"})
    made = sinks_from_toml(
        city_stores.sinks_file(stores), gateway="demo", kafka=Cluster(bootstrap="127.0.0.1:9092"), environment={}
    )
    options = {one.sink: dict(one.options) for one in made}
    assert options["cassandra"]["contact_points"] == ["10.0.0.1:9042"]
    assert (options["redis"]["host"], options["redis"]["port"]) == ("::1", 6380)
    assert tomllib.loads(city_stores.sinks_file(Stores())) == {}


def test_library_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(city_stores, "find_spec", lambda name: None if name == "quixstreams" else object())
    with pytest.raises(Stop, match=r"needs quixstreams: `make city`") as stopped:
        city_stores.check_libraries([Store.REDIS])
    assert stopped.value.code is Exit.CANNOT_START


def test_stores_that_are_left_out_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(city_stores, "find_spec", lambda name: object() if name == "quixstreams" else None)
    city_stores.check_libraries([])


# time


def test_new_kind_of_sensor_comes_midway_unless_it_is_told_when() -> None:
    assert CitySettings(stores=Stores()).grows_at is None
    assert CitySettings(stores=Stores(), duration=60.0).grows_at == 30.0
    assert CitySettings(stores=Stores(), duration=60.0, add_after=5.0).grows_at == 5.0


def test_link_is_cut_in_the_middle_and_at_the_key() -> None:
    with Link(0, 1) as link:
        cuts = Cuts(link, wan_cut=4.0, duration=20.0)
        seen = []
        for second in range(60):
            if second == 30:
                cuts.on_key(30.0)
            cuts.at(float(second))
            seen.append(cuts.is_cut)
        assert [second for second, cut in enumerate(seen) if cut] == [*range(8, 12), *range(30, 30 + int(KEY_CUT))]
        assert cuts.end(60.0) == 4.0 + KEY_CUT


def test_link_that_is_cut_at_the_end_is_restored() -> None:
    with Link(0, 1) as link:
        cuts = Cuts(link, wan_cut=50.0, duration=None)
        cuts.at(10.0)
        assert cuts.is_cut
        assert cuts.end(25.0) == 15.0
        assert not link.is_cut


# the command


@pytest.mark.parametrize(
    ("metric", "period", "metrics", "seconds"),
    [
        (None, None, list(CITY), 1.0),
        (["temperature"], None, ["temperature"], 10.0),
        (["temperature"], 0.5, ["temperature"], 0.5),
        (["noise", "rainfall", "noise"], None, ["noise", "rainfall"], 1.0),
    ],
)
def test_a_city_of_a_single_kind_of_sensor_is_read_every_ten_seconds(
    metric: list[str] | None, period: float | None, metrics: list[str], seconds: float, tmp_path: Path
) -> None:
    told = city_settings(
        CityOptions(metric=metric), duration=None, wan_cut=0.0, period=period, directory=tmp_path, live=False
    )
    assert (told.metrics, told.period) == (metrics, seconds)
    assert later(told.metrics) == ["water_level"]
    assert later(["water_level"]) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["city", "--sensors", "3"], "--sensors is an option of `headwater demo`"),
        (["city", "--secure"], "--secure is an option of `headwater demo`"),
        (["--stations", "3"], "--stations is an option of `headwater demo city`"),
        (["--add-after", "3"], "--add-after is an option of"),
        (["city", "--without", "mongo"], "--without mongo: the stores are cassandra, redis"),
        (["city", "--without", "redis", "--redis", "127.0.0.1:1"], "one or the other"),
        (["city", "--redis", "here"], "HOST:PORT"),
        (["city", "--metric", "charm"], "no metric 'charm': choose of temperature"),
        (["village"], "city"),
    ],
)
def test_wrong_use_of_the_city_is_said_in_words(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", *arguments, "--dir", str(tmp_path)])
    assert result.exit_code == Exit.USAGE
    assert words in result.output
