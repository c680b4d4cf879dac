"""The report: one page, whole and well formed, that fetches nothing, and in which foreign texts are text."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.devices.load.audited import AuditResult, Latency
from gateway.devices.load.histogram import Histogram
from gateway.devices.load.jtl import COLUMNS, JtlError, JtlWriter
from gateway.devices.load.page import page
from gateway.devices.load.report import ReportError, machine, write_page, write_report
from gateway.devices.load.results import Results, results_json
from gateway.devices.load.samples import Sample
from gateway.devices.load.timeline import Timeline

START = 1_790_000_000_000


def _parsed(html: str) -> ElementTree.Element:
    """The page, which is XML as well, so that a parser of it sees each tag and attribute that is not closed."""
    assert html.startswith("<!doctype html>\n")
    return ElementTree.fromstring(html.partition("\n")[2])


def _timeline(*samples: Sample) -> Timeline:
    timeline = Timeline()
    timeline.add(samples)
    return timeline


def _samples(count: int = 400) -> list[Sample]:
    return [
        Sample(
            START + 50 * number,
            1000 + number,
            ("update", "send")[number % 2],
            f"dev-{number % 7}",
            number % 7 + 1,
            "timeout" if number % 50 == 49 else "2.04",
            number % 50 != 49,
            "no answer" if number % 50 == 49 else "",
            40,
            10,
        )
        for number in range(count)
    ]


def _audit() -> AuditResult:
    times = Histogram()
    times.add([5000, 7000])
    latency = Latency.of(times)
    return AuditResult(
        topic="iot.rock64.observations",
        at="127.0.0.1:9092",
        confirmable=10,
        acknowledged=9,
        unconfirmable=3,
        acknowledged_there=8,
        unacknowledged_there=1,
        unconfirmable_there=2,
        lost=1,
        doubled=4,
        out_of_order=5,
        foreign=6,
        unreadable=0,
        to_topic=latency,
        to_edge_log=latency,
        lost_ones=(("dev-<b>", "/3303/0/5700", 1.5),),
    )


def test_the_page_has_the_figures_of_each_label_the_errors_and_the_audit(tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    write_page(
        _timeline(*_samples()),
        html,
        title="Load of rock64",
        run={"command": "headwater load", "machine": machine()},
        audit=_audit(),
    )
    root = _parsed(html.read_text())
    rows = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    by_label = {row[0]: row for row in rows if len(row) > 10}
    # 200 updates of 1.000, 1.002, … 1.398 ms; every 50th sample failed, and these are all of them sends.
    assert by_label["update"][:5] == ["update", "200", "0", "0.00", "1.000"]
    assert by_label["send"][1:4] == ["200", "8", "4.00"]
    assert by_label["all"][1:4] == ["400", "8", "2.00"]
    assert by_label["update"][10] == "1.398"
    assert float(by_label["update"][6]) == pytest.approx(1.199, rel=0.01)
    assert ["8", "send", "timeout", "no answer"] in rows
    assert ["lost (acknowledged and not in the topic)", "1"] in rows
    assert ["doubled", "4"] in rows
    assert ["out of order", "5"] in rows
    assert ["command", "headwater load"] in rows
    titles = [one.text for one in root.iter("h2")]
    assert titles == [
        "Audit",
        "By label",
        "Throughput by label, by the time of the answer",
        "Elapsed time, all labels",
        "Elapsed time, p95 by label",
        "Errors by label",
        "Error rate",
        "Distribution of elapsed times",
        "Errors",
    ]
    assert len(list(root.iter("svg"))) == 6
    assert "<b>" not in html.read_text()


def test_an_audit_without_a_value_is_not_good() -> None:
    none = replace(
        _audit(), acknowledged=0, acknowledged_there=0, unacknowledged_there=0, unconfirmable_there=0, lost=0, doubled=0
    )
    assert not replace(none, out_of_order=0).good
    assert "127.0.0.1:9092: nothing to audit, no value was acknowledged" in none.text()
    # What nobody was to acknowledge is something.
    assert replace(none, unconfirmable_there=2, out_of_order=0).good
    assert "NOT GOOD" in _audit().text()


def test_a_point_of_a_plot_says_its_value() -> None:
    html = "".join(page(_timeline(*_samples(40)), title="t", run={}))
    said = [one.text or "" for one in _parsed(html).iter("title")]
    assert "update: 10 /s" in said
    assert any(re.fullmatch(r"p99: 1\.0\d ms", one) for one in said)


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    html = "".join(page(_timeline(*_samples()), title="t", run={}, audit=_audit()))
    root = _parsed(html)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & {one.tag for one in root.iter()}
    for one in root.iter():
        assert not {name for name in one.attrib if name.startswith("on") or name in ("href", "src", "style")}
    assert "url(" not in html
    assert "@import" not in html
    assert "http://" not in html
    assert "https://" not in html


_hostile = st.text(max_size=40) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><svg onload=alert(1)>',
        "</style></title></svg>",
        "]]>",
        "&amp;&#0;",
        "\x00\x1b[31m",
        "\u202egnp.exe",
        "\ud800",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_hostile, _hostile, _hostile, _hostile)
def test_foreign_texts_are_text(tmp_path: Path, label: str, endpoint: str, code: str, message: str) -> None:
    html = tmp_path / "hostile.html"
    sample = Sample(START, 1000, label, endpoint, 1, code, False, message)
    write_page(_timeline(sample, sample._replace(label="x")), html, title=label, run={code: message}, notes=[endpoint])
    plain = tmp_path / "plain.html"
    clean = sample._replace(label="l", endpoint="e", code="c", message="m")
    write_page(_timeline(clean, clean._replace(label="x")), plain, title="l", run={"c": "m"}, notes=["e"])
    root, expected = _parsed(html.read_text("utf-8")), _parsed(plain.read_text("utf-8"))
    if label != "x":
        # No element and no attribute is there that the plain one has not.
        assert sorted((one.tag, *one.attrib) for one in root.iter()) == sorted(
            (one.tag, *one.attrib) for one in expected.iter()
        )


@pytest.mark.parametrize("samples", [[], [Sample(START, 0, "NON", "d", 1, "", True)]])
def test_nothing_and_one_sample_have_a_page_too(samples: list[Sample]) -> None:
    _parsed("".join(page(_timeline(*samples), title="t", run={})))


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**12), st.booleans()), max_size=20))
def test_whatever_was_measured_can_be_drawn(measured: list[tuple[int, int, bool]]) -> None:
    samples = [Sample(START + at, elapsed, "l", "d", 1, "", good) for at, elapsed, good in measured]
    html = "".join(page(_timeline(*samples), title="t", run={}))
    root = _parsed(html)
    assert "nan" not in html
    for path in root.iter("path"):
        for number in re.findall(r"-?[\d.]+", path.attrib["d"]):
            assert 0 <= float(number) <= 900


def test_the_report_of_a_file_has_its_figures_and_says_how_fine_they_are(tmp_path: Path) -> None:
    jtl, html = tmp_path / "load.jtl", tmp_path / "load.html"
    results = Results(jtl=JtlWriter(jtl))
    for sample in _samples():
        results.record(sample)
    results.close(START)
    reported = write_report(jtl, html)
    assert not reported.cut_off
    text = html.read_text()
    _parsed(text)
    assert "Times are whole milliseconds" in text
    assert "has no end" not in text
    told, before = results_json(reported.timeline), results_json(results.timeline)
    assert (
        told["errors"] == before["errors"] == [{"label": "send", "code": "timeout", "message": "no answer", "count": 8}]
    )
    for label in ("update", "send"):
        for name in ("count", "errors", "received_bytes_per_s", "sent_bytes_per_s"):
            assert told["labels"][label][name] == pytest.approx(before["labels"][label][name], rel=0.001)
        assert told["labels"][label]["p50_ms"] == round(before["labels"][label]["p50_ms"])
    jtl.write_bytes(jtl.read_bytes()[:-30])
    assert write_report(jtl, html).cut_off
    assert "last line has no end" in html.read_text()


def test_a_file_without_samples_has_no_report_and_leaves_the_old_one(tmp_path: Path) -> None:
    jtl, html = tmp_path / "load.jtl", tmp_path / "load.html"
    html.write_text("old")
    jtl.write_text(f"{COLUMNS}\n")
    with pytest.raises(JtlError, match="has no sample"):
        write_report(jtl, html)
    jtl.write_text(f"{COLUMNS}\nnonsense\n")
    with pytest.raises(JtlError, match="line 2"):
        write_report(jtl, html)
    assert html.read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["load.html", "load.jtl"]


def test_a_report_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be written: No such file"):
        write_page(Timeline(), tmp_path / "none" / "report.html", title="t", run={})


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """A file of 12 MB is never in memory, nor a sample of each of its lines."""
    jtl, html = tmp_path / "long.jtl", tmp_path / "long.html"
    with jtl.open("w") as file:
        file.write(f"{COLUMNS}\n")
        for number in range(100_000):
            kind = f"{START + 10 * number},{number % 90},l{number % 5},2.04,OK,dev-{number} 1-{number},text,true"
            file.write(f"{kind},,10,40,5,5,coap://[::1]:5683,{number % 90},0,0\n")
    assert jtl.stat().st_size > 8_000_000
    tracemalloc.start()
    try:
        write_report(jtl, html)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8_000_000
