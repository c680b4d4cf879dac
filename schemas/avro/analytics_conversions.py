"""Records of analytics (``schemas.avro.analytics_records``) ⇄ the plain dicts that fastavro writes and reads.

One function a record and way, as in :mod:`schemas.avro.conversions`. Makes no bytes.
"""

from __future__ import annotations

from typing import Any

from schemas.avro.analytics_records import Aggregate, Alert, AlertState, EnrichedReading, Statistics

Fields = dict[str, Any]


def aggregate_fields(record: Aggregate) -> Fields:
    return {
        "serverId": record.server_id,
        "ep": record.ep,
        "path": record.path,
        "start": record.start,
        "end": record.end,
        "count": record.count,
        "min": record.min,
        "max": record.max,
        "mean": record.mean,
        "sum": record.sum,
        "last": record.last,
    }


def aggregate_record(fields: Fields) -> Aggregate:
    return Aggregate(
        server_id=fields["serverId"],
        ep=fields["ep"],
        path=fields["path"],
        start=fields["start"],
        end=fields["end"],
        count=fields["count"],
        min=fields["min"],
        max=fields["max"],
        mean=fields["mean"],
        sum=fields["sum"],
        last=fields["last"],
    )


def statistics_fields(record: Statistics) -> Fields:
    return {
        "serverId": record.server_id,
        "ep": record.ep,
        "path": record.path,
        "timestamp": record.timestamp,
        "mean": record.mean,
        "std_dev": record.std_dev,
        "variance": record.variance,
        "stream_length": record.stream_length,
    }


def statistics_record(fields: Fields) -> Statistics:
    return Statistics(
        server_id=fields["serverId"],
        ep=fields["ep"],
        path=fields["path"],
        timestamp=fields["timestamp"],
        mean=fields["mean"],
        std_dev=fields["std_dev"],
        variance=fields["variance"],
        stream_length=fields["stream_length"],
    )


def reading_fields(record: EnrichedReading) -> Fields:
    return {
        "serverId": record.server_id,
        "ep": record.ep,
        "path": record.path,
        "timestamp": record.timestamp,
        "value": record.value,
        "mean": record.mean,
        "std_dev": record.std_dev,
        "z_score": record.z_score,
        "outlier": record.outlier,
    }


def reading_record(fields: Fields) -> EnrichedReading:
    return EnrichedReading(
        server_id=fields["serverId"],
        ep=fields["ep"],
        path=fields["path"],
        timestamp=fields["timestamp"],
        value=fields["value"],
        mean=fields["mean"],
        std_dev=fields["std_dev"],
        z_score=fields["z_score"],
        outlier=fields["outlier"],
    )


def alert_fields(record: Alert) -> Fields:
    return {
        "id": record.id,
        "rule": record.rule,
        "serverId": record.server_id,
        "ep": record.ep,
        "path": record.path,
        "severity": record.severity,
        "state": record.state._value_,
        "value": record.value,
        "threshold": record.threshold,
        "since": record.since,
        "timestamp": record.timestamp,
        "summary": record.summary,
    }


def alert_record(fields: Fields) -> Alert:
    return Alert(
        id=fields["id"],
        rule=fields["rule"],
        server_id=fields["serverId"],
        ep=fields["ep"],
        path=fields["path"],
        severity=fields["severity"],
        state=_STATES[fields["state"]],
        value=fields["value"],
        threshold=fields["threshold"],
        since=fields["since"],
        timestamp=fields["timestamp"],
        summary=fields["summary"],
    )


_STATES = {one.value: one for one in AlertState}
