"""The file of rules: what it says, and how people are told what is wrong with theirs."""

from __future__ import annotations

import pytest

from analytics.alerts import Comparison, Measure, Per, Severity
from analytics.outliers import Known
from analytics.rules import SAMPLE, Rules, RulesError, parse_rules
from analytics.series import SeriesPattern
from schemas.lwm2m.path import PathPattern


def test_the_sample_says_what_its_comments_say() -> None:
    rules = parse_rules(SAMPLE)
    temperature = SeriesPattern(path=PathPattern.parse("/3303/*/5700"))
    assert rules.distributions == (Known(mean=25.0, std_dev=2.0, series=temperature),)
    hot, fast, far = rules.alerts
    assert (hot.name, hot.comparison, hot.threshold, hot.clear) == ("too-hot", Comparison.GREATER, 30.0, 28.0)
    assert (hot.for_ms, hot.severity, hot.series) == (120_000, Severity.CRITICAL, temperature)
    assert (fast.measure, fast.comparison, fast.threshold, fast.per) == (
        Measure.RATE,
        Comparison.GREATER_EQUAL,
        5.0,
        Per.MINUTE,
    )
    assert (fast.severity, fast.for_ms, fast.clear) == (Severity.WARNING, 0, None)
    assert (far.measure, far.threshold, far.severity, far.series) == (
        Measure.Z_SIZE,
        4.0,
        Severity.INFO,
        SeriesPattern(),
    )


def test_an_empty_file_has_no_rules() -> None:
    assert parse_rules("") == Rules()


def test_an_endpoint_is_a_pattern_of_names() -> None:
    (rule,) = parse_rules('[[alert]]\nname = "a"\nwhen = "value<-1.5e2"\nendpoint = "roof-*"').alerts
    assert (rule.threshold, rule.series.endpoint) == (-150.0, "roof-*")


ALERT = '[[alert]]\nname = "a"\nwhen = "value > 30"\n'
DISTRIBUTION = "[[distribution]]\nmean = 1\nstd_dev = 2\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[alert", "no TOML"),
        ("[[alarm]]", r"no table 'alarm', did you mean 'alert'\?"),
        ("[alert]\nname = 'a'", r"alert: it is a list of tables, each headed by \[\[alert\]\]"),
        ("alert = [1]", "list of tables"),
        ("[[alert]]\nwhen = 'value > 1'", r"\[\[alert\]\] number 1: name: it is missing"),
        ("[[alert]]\nname = 'a'", r"number 1: when: it is missing"),
        (ALERT + "[[alert]]\nname = 1", r"number 2: name: a text is needed, not 1"),
        (ALERT + ALERT, r"number 2: name: 'a' is that of number 1 too"),
        (ALERT + "wen = 1", r"number 1: wen: there is no such key, did you mean 'when'\?"),
        (ALERT + "zzz = 1", "zzz: there is no such key; there are: clear, endpoint"),
        (ALERT + "path = '/a'", "number 1: path: '/a'"),
        (ALERT + "path = 3303", "path: a text is needed"),
        (ALERT + "clear = '28'", "clear: a number is needed, not '28'"),
        (ALERT + "clear = true", "clear: a number is needed, not True"),
        (ALERT + "clear = 31", "number 1: clear: 31 is above the threshold 30"),
        (ALERT + "clear = nan", "number 1: clear"),
        (ALERT + "clear = 1" + "0" * 400, "clear: it is too large"),
        (ALERT + "for = '5 minutes'", "number 1: for: '5 minutes' is no span of time"),
        (ALERT + "for = 5", "for: a text is needed"),
        (ALERT + "severity = 'bad'", "severity: 'bad' is none of info, warning, critical"),
        ("[[alert]]\nname = 'a'\nwhen = 'hot'", "when: 'hot' is no condition"),
        ("[[alert]]\nname = 'a'\nwhen = 'value > 1e999'", "when: the number to compare with is finite"),
        ("[[alert]]\nname = 'a'\nwhen = 'rate > 1'", 'when: .* a rate is "per second" or "per minute"'),
        ("[[alert]]\nname = 'a'\nwhen = 'value > 1 per second'", "when: .* only a rate is per second"),
        ("[[alert]]\nname = ''\nwhen = 'value > 1'", "number 1: name: a rule needs one"),
        ("[[distribution]]\nmean = 1", r"\[\[distribution\]\] number 1: std_dev: it is missing"),
        ("[[distribution]]\nmean = 1\nstd_dev = -2", "number 1: std_dev: it is not negative"),
        (DISTRIBUTION + "[[distribution]]\nmean = nan\nstd_dev = 1", "number 2: mean"),
        (DISTRIBUTION + "path = '/'", "number 1: path"),
    ],
)
def test_an_error_names_the_table_and_the_key(text: str, said: str) -> None:
    with pytest.raises(RulesError, match=said):
        parse_rules(text)
