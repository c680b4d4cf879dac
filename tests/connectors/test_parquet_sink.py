"""What the Parquet sink alone promises: its files, each row once in them, and what a kill or a full disk leaves."""

from __future__ import annotations

import random
import resource as limits
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from connectors.kafka import Cluster
from connectors.runner import SinkSettings
from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.parquet import KIND, open_parquet
from connectors.sinks.parquet_rows import SCHEMA
from schemas.lwm2m.nodes import Instance, Resource, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.sink_harness import PATIENCE_S, eventually, make_topics, produce, running
from tests.sink_samples import at, notification, resource

SEED = 20_261_122
HOUR_MS = 3_600_000
ROOT = Path(__file__).parents[2]


def some(first: int, last: int, *, partition: int = 0) -> list[SinkRecord]:
    """A reading an offset, ten of them in a second of 1970's first hour."""
    return [
        at(n, notification(resource("/3303/0/5700", float(n)), timestamp=n * 100), partition=partition)
        for n in range(first, last)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "history"


def table(folder: Path) -> pa.Table:
    return ds.dataset(folder, partitioning="hive").to_table()


def numbers(folder: Path) -> list[float]:
    """All that a reader finds, in order; none while nothing was published."""
    if not files(folder):
        return []
    found: list[float] = sorted(table(folder)["number"].to_pylist())
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("gateway=*/date=*/hour=*/*"))


def hidden(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / "_headwater").glob(pattern))


@contextmanager
def disk_ends_after(size: int) -> Iterator[None]:
    """No file of this process gets larger than ``size`` bytes: the kernel refuses in the middle of a write."""
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))


def test_files_are_partitioned_by_gateway_day_and_hour_of_the_gateways_time(folder: Path) -> None:
    one_o_clock = 1_795_352_400_000 // HOUR_MS * HOUR_MS  # 2026-11-22 13:00 UTC
    sink = open_parquet({"folder": str(folder)})
    sink.write(
        [
            at(0, notification(resource("/3303/0/5700", 1.0, timestamp=5), timestamp=one_o_clock - 1)),
            at(1, notification(resource("/3303/0/5700", 2.0), timestamp=one_o_clock), partition=1),
        ]
    )
    sink.close()
    assert [str(file.relative_to(folder)) for file in files(folder)] == [
        f"gateway=gw1/date=2026-11-22/hour=12/iot.gw1.observations-0-00000000000000000000-{one_o_clock - 1}-0.parquet",
        f"gateway=gw1/date=2026-11-22/hour=13/iot.gw1.observations-1-00000000000000000001-{one_o_clock}-0.parquet",
    ]
    found = table(folder)
    assert found.schema.names == [*SCHEMA.names, "gateway", "date", "hour"]
    assert found.select(SCHEMA.names).schema.equals(SCHEMA)
    first, second = found.sort_by("offset").to_pylist()
    assert (first["gateway"], first["date"], first["hour"], second["hour"]) == ("gw1", "2026-11-22", 12, 13)
    assert (first["device_time"].timestamp(), first["gateway_time"].timestamp()) == (0.005, (one_o_clock - 1) / 1000)
    assert (second["device_time"], second["topic"], second["partition"]) == (None, "iot.gw1.observations", 1)


def test_the_options_of_the_files_are_theirs(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "compression": "gzip", "max_rows": 100, "publish_s": 0})
    sink.write(some(0, 250))
    sink.close()
    parts = [pq.ParquetFile(file).metadata for file in files(folder)]
    assert [part.num_rows for part in parts] == [100, 100, 50]
    assert {part.row_group(0).column(0).compression for part in parts} == {"GZIP"}


def test_many_small_batches_make_few_files(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "max_rows": 100, "publish_s": 0})
    for n in range(250):
        sink.write(some(n, n + 1))
    sink.close()
    assert [pq.ParquetFile(file).metadata.num_rows for file in files(folder)] == [100, 100, 50]
    assert numbers(folder) == [float(n) for n in range(250)]
    assert not hidden(folder, "*.journal") + hidden(folder, "*.part")


def test_a_topic_that_was_made_anew_makes_few_files_as_well(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "max_rows": 100, "publish_s": 0})
    sink.write(some(1000, 1150))
    for n in range(80):
        sink.write([at(n, notification(resource("/3303/0/5700", float(n)), timestamp=200_000 + n))])
    sink.close()
    assert len(files(folder)) == 3
    assert len(numbers(folder)) == 230


def test_batches_that_are_cut_differently_each_time_are_stored_once(folder: Path) -> None:
    chance = random.Random(SEED)
    options = {"folder": str(folder), "max_rows": 150, "publish_s": 0}
    sinks = [open_parquet(options) for _ in range(3)]
    records = some(0, 600)
    done = 0
    while done < len(records):
        # As after a crash or a rebalance: somewhere behind what was written, by whichever has it now.
        start = max(0, done - chance.randint(0, 200))
        done = min(len(records), start + chance.randint(1, 120) + (done - start if chance.random() < 0.7 else 0))
        chance.choice(sinks).write(records[start:done])
    done = 0
    while done < len(records):
        step = chance.randint(1, 90)
        chance.choice(sinks).write(records[done : done + step])
        done += step
    for sink in sinks:
        sink.close()
    assert numbers(folder) == [float(n) for n in range(600)]


def test_what_waits_in_two_processes_is_published_once(folder: Path) -> None:
    options = {"folder": str(folder), "publish_s": 3600}
    first, second = open_parquet(options), open_parquet(options)
    for sink in (first, second):
        sink.write(some(0, 1))  # after a pause this is published at once
        sink.write(some(1, 60))
        sink.write(some(30, 90))
    assert numbers(folder) == [0.0]
    assert len(hidden(folder, "*.journal")) == 2
    second.close()
    assert numbers(folder) == [float(n) for n in range(90)]
    first.close()
    assert numbers(folder) == [float(n) for n in range(90)]


def test_all_rows_of_a_record_are_kept_also_where_a_file_ends_between_them(folder: Path) -> None:
    def record(offset: int) -> SinkRecord:
        values: tuple[Resource, ...] = tuple(resource(f"/3303/0/{n}", float(n)) for n in range(70))
        return at(offset, notification(Instance(path=Lwm2mPath(3303, 0), resources=values)))

    sink = open_parquet({"folder": str(folder), "max_rows": 100, "publish_s": 0})
    sink.write([record(0), record(1), record(2)])
    files(folder)[1].unlink()
    sink.write([record(1), record(2)])
    sink.close()
    rows = table(folder).select(["offset", "position"]).to_pylist()
    assert sorted((row["offset"], row["position"]) for row in rows) == [
        # Of record 1, the first rows are in the file that remained.
        *((0, n) for n in range(70)),
        *((1, n) for n in range(70)),
        *((2, n) for n in range(70)),
    ]


def test_it_is_published_though_nothing_more_comes(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 0.05})
    sink.write(some(0, 10))
    sink.write(some(10, 20))
    eventually(lambda: numbers(folder), [float(n) for n in range(20)])
    sink.close()


def test_when_much_waits_it_is_published_before_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.sinks.parquet.MAX_HELD", 100_000)
    sink = open_parquet({"folder": str(folder), "publish_s": 3600})
    for start in range(0, 2000, 200):
        sink.write(some(start, start + 200))
    assert len(numbers(folder)) >= 1000
    sink.close()
    assert numbers(folder) == [float(n) for n in range(2000)]


def test_a_reader_never_sees_a_row_twice_or_vanish(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "max_rows": 100, "publish_s": 0})
    done = threading.Event()

    def pour() -> None:
        for start in range(0, 600, 5):
            sink.write(some(max(0, start - 12), start + 5))
        sink.close()
        done.set()

    writer = threading.Thread(target=pour)
    writer.start()
    seen = 0
    try:
        while not done.is_set():
            found = numbers(folder)
            assert found == [float(n) for n in range(len(found))]
            assert len(found) >= seen
            seen = len(found)
    finally:
        writer.join(PATIENCE_S)
    assert numbers(folder) == [float(n) for n in range(600)]


@pytest.mark.faults
def test_killed_again_and_again_every_acknowledged_row_is_there_once(folder: Path) -> None:
    chance = random.Random(SEED)
    durable = 0
    for life in range(8):
        # From behind what was acknowledged, as after offsets that were not committed.
        first = max(0, durable - chance.randint(0, 300))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.connectors.parquet_writer", str(folder), str(first), str(life)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 40)):
                durable = max(durable, int(process.stdout.readline()))
            process.kill()
            durable = max([durable, *(int(line) for line in process.stdout if line.endswith(b"\n"))])
        finally:
            process.kill()
            process.wait(PATIENCE_S)
        # Right now, with whatever the kill has left there.
        assert max(Counter(numbers(folder)).values(), default=1) == 1
    assert hidden(folder, "*.journal")
    open_parquet({"folder": str(folder)}).close()
    found = numbers(folder)
    assert found == [float(n) for n in range(len(found))]
    assert len(found) >= durable
    assert not hidden(folder, "*.journal")


def test_a_journal_that_was_torn_anywhere_keeps_what_is_whole(folder: Path, tmp_path: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 3600})
    sink.write(some(0, 1))
    sizes = []
    for n in (1, 2):
        sink.write(some(n, n + 1))
        (journal,) = hidden(folder, "*.journal")
        sizes.append(journal.stat().st_size)
    data = journal.read_bytes()
    sink.close()
    for cut in [*range(0, len(data), 97), sizes[0] - 1, sizes[0], len(data) - 1, len(data)]:
        torn = tmp_path / f"torn-{cut}"
        (torn / "_headwater").mkdir(parents=True)
        # A power cut may leave a file with its length, and something else in it.
        (torn / "_headwater" / "00000001.journal").write_bytes(data[:cut] + b"\xff" * 50)
        open_parquet({"folder": str(torn)}).close()
        whole = sum(size <= cut for size in sizes)
        assert numbers(torn) == [1.0, 2.0][:whole]
        assert not hidden(torn, "*.journal")


def big(first: int, last: int) -> Sequence[SinkRecord]:
    chance = random.Random(first)
    return [
        at(n, notification(resource("/19/0/0", chance.randbytes(2000), ResourceType.OPAQUE), timestamp=n))
        for n in range(first, last)
    ]


def test_a_full_disk_makes_it_wait_with_nothing_half_written(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 3600})
    sink.write(big(0, 1))
    sink.write(big(1, 20))
    with disk_ends_after(60_000):
        for _ in range(2):
            # The journal has room for some of it.
            with pytest.raises(RetryLater, match="File too large"):
                sink.write(big(20, 60))
        sink.write(big(20, 21))
    assert table(folder)["offset"].to_pylist() == [0]
    sink.write(big(21, 60))
    sink.close()
    assert sorted(table(folder)["offset"].to_pylist()) == list(range(60))
    assert not hidden(folder, "*.part") + hidden(folder, "*.journal")


def test_a_disk_that_is_full_when_it_is_published_is_told_by_the_next_write(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 0})
    sink.write(big(0, 20))
    with disk_ends_after(60_000):
        sink.write(big(20, 40))  # into the journal; the file of 40 has no room
        assert table(folder).num_rows == 20
        assert not hidden(folder, "*.part")
        for _ in range(2):
            with pytest.raises(RetryLater, match="File too large"):
                sink.write(big(40, 41))
    sink.write(big(40, 41))
    assert sorted(table(folder)["offset"].to_pylist()) == list(range(41))
    sink.close()


def test_a_folder_that_was_deleted_is_made_anew(folder: Path, tmp_path: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 3600})
    sink.write(some(0, 1))
    sink.write(some(1, 2))
    folder.rename(tmp_path / "elsewhere")
    sink.write(some(2, 3))
    sink.close()
    assert numbers(folder) == [1.0, 2.0]


def test_a_file_that_is_no_parquet_any_more_asks_for_patience_and_stays_untouched(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 0})
    sink.write(some(0, 1))
    (file,) = files(folder)
    file.write_text("my diary")
    sink.write(some(1, 2))
    with pytest.raises(RetryLater, match="Parquet"):
        sink.write(some(2, 3))
    assert file.read_text() == "my diary"
    file.unlink()
    sink.write(some(2, 3))
    sink.close()
    assert numbers(folder) == [1.0, 2.0]


def test_another_writer_of_the_same_partition_makes_it_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr("connectors.sinks.parquet_files.BUSY_S", 0.05)
    sink = open_parquet({"folder": str(folder), "publish_s": 0})
    sink.write(some(0, 1))
    (lock,) = hidden(folder, "*.lock")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sink.write(some(1, 2))
        with pytest.raises(RetryLater, match="another process"):
            sink.write(some(2, 3))
    sink.write(some(2, 3))
    sink.close()
    assert numbers(folder) == [0.0, 1.0, 2.0]


def test_what_cannot_be_kept_is_refused_alone(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 0})
    with pytest.raises(RejectedRecords) as refused:
        sink.write(
            [
                at(0, notification(resource("/3303/0/5700", 1.0))),
                at(1, notification(resource("/3303/0/5605", 2**63, ResourceType.INTEGER))),
                at(2, notification(resource("/3303/0/5700", 1.0), timestamp=10**18)),
                at(3, notification(resource("/3303/0/5700", 1.0, timestamp=-(10**18)))),
                at(4, notification(resource("/3303/0/5605", 10**400, ResourceType.INTEGER))),
                at(5, notification(resource("/3303/0/5700", 2.0))),
            ]
        )
    assert [record.offset for record, _ in refused.value.rejected] == [1, 2, 3, 4]
    assert numbers(folder) == [1.0, 2.0]
    sink.close()


def test_a_file_of_an_older_version_is_left_as_it_is_and_still_tells_what_is_there(folder: Path) -> None:
    sink = open_parquet({"folder": str(folder), "publish_s": 0})
    sink.write(some(0, 2))
    (file,) = files(folder)
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["observation_id"]), file)
    sink.write(some(1, 3))
    sink.close()
    assert numbers(folder) == [0.0, 1.0, 2.0]
    assert [pq.ParquetFile(file).metadata.num_rows for file in files(folder)] == [2, 1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"folder": 7},
        {"folder": "x", "compression": "brown"},
        {"folder": "x", "max_rows": 0},
        {"folder": "x", "publish_s": -1},
        {"folder": "x", "publish_s": float("nan")},
    ],
)
def test_wrong_options_are_told_before_anything_is_made(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkConfigError):
        open_parquet(options)
    assert not list(tmp_path.iterdir())


def test_without_its_library_it_says_what_to_install(folder: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from connectors.sinks import SINKS, SinkConfigError\n"
        "try: SINKS['parquet'].open({'folder': sys.argv[1]})\n"
        "except SinkConfigError as exc: print(exc)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install 'headwater[parquet]'" in told.stdout


@pytest.mark.kafka
def test_partitions_that_change_hands_in_mid_flow_are_stored_once(
    kafka: Cluster, gateway_id: str, folder: Path
) -> None:
    topics = make_topics(kafka, gateway_id)
    settings = SinkSettings(
        sink="parquet",
        gateway=gateway_id,
        kafka=kafka,
        options={"folder": str(folder), "max_rows": 200, "publish_s": 0.1},
        batch_records=30,
        linger_s=0.05,
    )

    def pour(first: int) -> None:
        for partition in range(2):
            start = first + 500 * partition
            readings = [
                notification(resource("/3303/0/5700", float(n)), timestamp=n) for n in range(start, start + 500)
            ]
            produce(kafka, topics.observations, readings, partition=partition)

    pour(0)
    with running(settings) as first:
        eventually(lambda: len(numbers(folder)) > 0, True)
        with running(settings) as second:
            pour(1000)
            eventually(lambda: bool(first.partitions and second.partitions), True)
            pour(2000)
            eventually(lambda: numbers(folder), [float(n) for n in range(3000)])
        pour(3000)
        eventually(lambda: numbers(folder), [float(n) for n in range(4000)])
    # A new group reads everything again.
    seen: list[int] = []

    class Counting:
        def __init__(self, options: Mapping[str, object]) -> None:
            self._inner = open_parquet(options)

        def write(self, records: Sequence[SinkRecord]) -> None:
            self._inner.write(records)
            seen.extend(record.offset for record in records)

        def close(self) -> None:
            self._inner.close()

    with running(replace(settings, group=f"{settings.group_id}-again"), replace(KIND, open=Counting)):
        eventually(lambda: len(seen), 4000)
    assert numbers(folder) == [float(n) for n in range(4000)]
    assert not hidden(folder, "*.journal")
