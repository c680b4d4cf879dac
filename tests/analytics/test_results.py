"""Results that are written straight to bytes: the same as by way of their records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from analytics import results
from schemas.avro.analytics_records import EnrichedReading, Statistics
from schemas.avro.serde import encode

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
LONGS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats()


@given(NAMES, NAMES, NAMES, LONGS, NUMBERS, NUMBERS, NUMBERS, LONGS)
def test_statistics_are_those_of_the_serde(
    server_id: str, ep: str, path: str, timestamp: int, mean: float, std_dev: float, variance: float, length: int
) -> None:
    record = Statistics(
        server_id=server_id,
        ep=ep,
        path=path,
        timestamp=timestamp,
        mean=mean,
        std_dev=std_dev,
        variance=variance,
        stream_length=length,
    )
    assert results.statistics(server_id, ep, path, timestamp, mean, std_dev, variance, length) == encode(record)


@given(NAMES, NAMES, NAMES, LONGS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans())
def test_enriched_readings_are_those_of_the_serde(
    server_id: str,
    ep: str,
    path: str,
    timestamp: int,
    value: float,
    mean: float,
    std_dev: float,
    z_score: float,
    outlier: bool,
) -> None:
    record = EnrichedReading(
        server_id=server_id,
        ep=ep,
        path=path,
        timestamp=timestamp,
        value=value,
        mean=mean,
        std_dev=std_dev,
        z_score=z_score,
        outlier=outlier,
    )
    made = results.enriched(server_id, ep, path, timestamp, value, mean, std_dev, z_score, outlier)
    assert made == encode(record)
