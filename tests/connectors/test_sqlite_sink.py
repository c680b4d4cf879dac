"""What the SQLite sink alone promises: its views, its file, and when it asks for patience."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError
from connectors.sinks.sqlite import open_sqlite
from schemas.lwm2m.nodes import ResourceType
from tests.sink_samples import at, delete, new, notification, resource


def ask(file: Path, sql: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(file)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "headwater.db"


def test_latest_is_by_gateway_time_then_offset_and_late_ones_are_not_newer(file: Path) -> None:
    sink = open_sqlite({"file": str(file)})
    sink.write(
        [
            at(0, notification(resource("/3303/0/5700", 1.0), timestamp=10)),
            at(1, notification(resource("/3303/0/5700", 2.0), timestamp=20)),
            at(2, notification(resource("/3303/0/5700", 3.0), timestamp=20)),
            at(3, notification(resource("/3303/0/5700", 4.0), timestamp=15)),
            at(4, notification(resource("/3303/0/5700", 5.0), timestamp=30), headers={"late": b"1"}),
            at(5, notification(resource("/3303/1/5700", 6.0), timestamp=30), headers={"late": b"1"}),
            at(6, notification(resource("/3303/0/5700", 7.0), timestamp=5, server="gw2")),
        ]
    )
    sink.close()
    assert ask(file, "SELECT server, path, value, gateway_time_ms FROM latest ORDER BY 1, 2") == [
        ("gw1", "/3303/0/5700", 3.0, 20),
        ("gw1", "/3303/1/5700", 6.0, 30),
        ("gw2", "/3303/0/5700", 7.0, 5),
    ]
    assert ask(file, "SELECT value FROM history WHERE late = 1 ORDER BY value") == [(5.0,), (6.0,)]


def test_the_devices_own_time_stands_beside_the_gateways(file: Path) -> None:
    sink = open_sqlite({"file": str(file)})
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0, timestamp=7), timestamp=10))])
    sink.close()
    assert ask(
        file, "SELECT device_time_ms, gateway_time_ms, ticket, observation_id, kind, code, type FROM history"
    ) == [(7, 10, "ticket#1", "obs-1", "observe", "CONTENT", "FLOAT")]


def test_online_endpoints_and_the_edges_can_be_walked(file: Path) -> None:
    sink = open_sqlite({"file": str(file)})
    sink.write([at(0, new()), at(1, new(ep="ep-2")), at(2, delete(ep="ep-2"))])
    sink.close()
    assert ask(file, "SELECT name FROM online_endpoints") == [("ep-1",)]
    assert ask(file, "SELECT server, endpoint FROM has_endpoint ORDER BY 2") == [("gw1", "ep-1"), ("gw1", "ep-2")]
    assert ask(file, "SELECT * FROM servers") == [("gw1",)]


def test_a_database_of_something_else_is_refused(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE history (mine)")
    db.close()
    with pytest.raises(SinkConfigError, match="something else"):
        open_sqlite({"file": str(file)})
    assert ask(file, "SELECT name FROM sqlite_master") == [("history",)]


def test_a_file_of_a_newer_version_is_refused(file: Path) -> None:
    open_sqlite({"file": str(file)}).close()
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SinkConfigError, match="newer"):
        open_sqlite({"file": str(file)})


def test_a_file_that_is_no_database_asks_for_patience_and_stays_untouched(file: Path) -> None:
    file.write_text("my diary " * 1000)
    sink = open_sqlite({"file": str(file)})
    with pytest.raises(RetryLater, match="not a database"):
        sink.write([at(0, new())])
    assert file.read_text() == "my diary " * 1000


@pytest.mark.parametrize(
    "options",
    [{}, {"file": ""}, {"file": 7}, {"file": "x", "max_size_mb": "big"}, {"file": "x", "max_size_mb": float("inf")}],
)
def test_wrong_options_are_told_before_anything_is_opened(options: dict[str, object]) -> None:
    with pytest.raises(SinkConfigError):
        open_sqlite(options)


def test_a_number_that_sqlite_cannot_hold_is_refused_alone(file: Path) -> None:
    sink = open_sqlite({"file": str(file)})
    with pytest.raises(RejectedRecords) as refused:
        sink.write(
            [
                at(0, notification(resource("/3303/0/5700", 1.0))),
                at(1, notification(resource("/3303/0/5605", 2**70, ResourceType.INTEGER))),
                at(0, new()),
            ]
        )
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert [row[0] for row in ask(file, "SELECT value FROM history")] == [1.0]
    assert len(ask(file, "SELECT * FROM endpoints")) == 1


def test_another_writer_makes_it_wait_and_it_goes_on_afterwards(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.sinks.sqlite.BUSY_S", 0.05)
    sink = open_sqlite({"file": str(file)})
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    batch = [at(0, new()), at(0, notification(resource("/3303/0/5700", 1.0)))]
    for _ in range(2):
        with pytest.raises(RetryLater, match="locked"):
            sink.write(batch)
    other.execute("COMMIT")
    other.close()
    sink.write(batch)
    sink.close()
    assert ask(file, "SELECT value FROM history") == [(1.0,)]


def test_a_full_disk_makes_it_wait_with_nothing_half_written(file: Path) -> None:
    sink = open_sqlite({"file": str(file), "max_size_mb": 0.25})
    big = [at(offset, notification(resource("/3303/0/5701", "x" * 4000, ResourceType.STRING))) for offset in range(100)]
    sink.write(big[:20])
    with pytest.raises(RetryLater, match="full"):
        sink.write(big[20:])
    assert ask(file, "SELECT count(*) FROM history") == [(20,)]
    sink.close()
    roomy = open_sqlite({"file": str(file), "max_size_mb": 10})
    roomy.write(big[20:])
    roomy.close()
    assert ask(file, "SELECT count(*) FROM history") == [(100,)]


def test_a_file_that_was_deleted_is_made_anew(file: Path) -> None:
    sink = open_sqlite({"file": str(file)})
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0)))])
    file.unlink()
    sink.write([at(1, notification(resource("/3303/0/5700", 2.0)))])
    sink.close()
    assert ask(file, "SELECT value FROM history") == [(2.0,)]


def test_two_sinks_write_one_file(file: Path) -> None:
    sinks = [open_sqlite({"file": str(file)}) for _ in range(2)]
    for offset in range(20):
        sinks[offset % 2].write([at(offset, notification(resource(f"/3303/{offset % 3}/5700", float(offset))))])
    for sink in sinks:
        sink.close()
    assert ask(file, "SELECT count(*), sum(value) FROM history") == [(20, 190.0)]
    assert ask(file, "SELECT count(*) FROM latest") == [(3,)]
