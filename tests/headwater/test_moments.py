"""Points in time as people give them."""

from __future__ import annotations

import pytest

from headwater.moments import parse_moment

NOW = 1_772_366_400_000  # 2026-03-01T12:00:00Z


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("now", NOW),
        ("2026-03-01T12:00:00Z", NOW),
        ("2026-03-01T12:00:00", NOW),
        ("2026-03-01 12:00", NOW),
        ("2026-03-01T13:00:00.250+01:00", NOW + 250),
        ("2026-03-01", NOW - 12 * 3_600_000),
        ("1772366400", NOW),
        ("1772366400.5", NOW + 500),
        ("1772366400000", NOW),
        ("0", 0),
        ("-2h", NOW - 7_200_000),
        ("-1.5m", NOW - 90_000),
        ("-30s", NOW - 30_000),
        ("-1d", NOW - 86_400_000),
        ("-1w", NOW - 7 * 86_400_000),
        (" -2h ", NOW - 7_200_000),
    ],
)
def test_a_time_is_read_in_each_of_its_forms(text: str, then: int) -> None:
    assert parse_moment(text, NOW) == then


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2h",
        "-2",
        "-h",
        "-2y",
        "2026-13-01",
        "12:00",
        "١٢",
        "-99999999w",
        "1969-01-01",
        "1e9",
        "9" * 400,
        "nan",
    ],
)
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|before 1970"):
        parse_moment(text, NOW)
