"""The journal of updates: what was written is read back in order, and what is not whole never was."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import journal as module
from gateway.journal import NAMES, Entry, Journal, form
from gateway.state import StateUnavailable
from schemas.avro.compiled import encoded_long


def _update(number: int) -> tuple[bytes, bytes]:
    return number.to_bytes(2, "big"), form(b"127.0.0.1 %d" % number, b"key", b"head%d" % number)


def _entry(number: int, at_ms: int) -> Entry:
    return Entry(
        at_ms=at_ms,
        mid=number.to_bytes(2, "big"),
        peer=b"127.0.0.1 %d" % number,
        key=b"key",
        value=b"head%d" % number + encoded_long(at_ms),
    )


def _numbers(journal: Journal) -> list[int]:
    return [int.from_bytes(entry.mid, "big") for entry in journal.entries()]


def _reopened(directory: Path) -> list[int]:
    journal = Journal(directory)
    try:
        return _numbers(journal)
    finally:
        journal.close()


def test_what_was_written_is_there_for_the_next_process_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.entries() == []
    assert journal.write(1_000, [*_update(1), *_update(2)]) is not None
    assert journal.write(2_000, _update(3)) is not None
    expected = [_entry(1, 1_000), _entry(2, 1_000), _entry(3, 2_000)]
    assert journal.entries() == expected
    journal.close()
    again = Journal(tmp_path)
    assert again.entries() == expected
    assert again.write(3_000, _update(4)) is not None
    assert again.entries() == [*expected, _entry(4, 3_000)]
    again.close()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).touch(mode=0o644)
    Journal(tmp_path).close()
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in NAMES] == [0o600, 0o600]


def test_an_end_that_was_cut_anywhere_or_damaged_is_dropped_and_writing_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(1_000, _update(1))
    whole = journal.size
    journal.write(2_000, _update(2))
    journal.close()
    file = next(tmp_path / name for name in NAMES if (tmp_path / name).stat().st_size)
    data = file.read_bytes()
    for size in range(len(data)):
        file.write_bytes(data[:size])
        assert _reopened(tmp_path) == ([1] if size >= whole else [])
    for at in range(whole, len(data)):
        file.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        assert _reopened(tmp_path) == [1]
    again = Journal(tmp_path)
    again.write(3_000, _update(3))
    again.close()
    assert _reopened(tmp_path) == [1, 3]


@given(st.binary(max_size=300))
def test_a_file_with_anything_in_it_is_no_obstacle(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    directory = tmp_path_factory.mktemp("journal")
    (directory / NAMES[0]).write_bytes(junk)
    assert _reopened(directory) == []
    assert (directory / NAMES[0]).stat().st_size == 0


def test_it_is_cut_once_kafka_has_all_and_not_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, second = journal.write(1_000, _update(1)), journal.write(1_000, _update(2))
    assert first is not None and second is not None
    journal.confirm(first)
    journal.trim()
    assert _numbers(journal) == [1, 2]
    journal.confirm(second)
    journal.trim()
    assert _numbers(journal) == [] and journal.size == 0
    journal.write(1_000, _update(3))
    journal.close()
    assert _reopened(tmp_path) == [3]


def test_two_files_take_turns_and_none_is_used_again_before_kafka_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENOUGH", 200)
    journal = Journal(tmp_path)
    waiting = [journal.write(number, _update(number)) for number in range(1, 30)]
    assert _numbers(journal) == list(range(1, 30)) == _reopened(tmp_path)
    for segment in waiting:
        assert segment is not None
        journal.confirm(segment)
    for number in range(30, 2_000):
        segment = journal.write(number, _update(number))
        assert segment is not None
        journal.confirm(segment)
        found = _numbers(journal)
        assert found == list(range(found[0], number + 1))
        if number > 60:
            assert journal.size < 600
    journal.close()
    assert _reopened(tmp_path) == found


def test_what_is_said_again_is_confirmed_in_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(5):
        journal.write(number, _update(number))
    (only,) = journal.said_again()
    journal.trim()
    assert len(journal.entries()) == 5
    journal.confirm(only)
    journal.trim()
    assert journal.entries() == []
    journal.close()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / NAMES[1]).mkdir()
    with pytest.raises(StateUnavailable, match=r"updates-1\.journal cannot be used: Is a directory"):
        Journal(tmp_path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_journal import _numbers, _update
from gateway.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path({directory!r}))
assert journal.write(1, _update(1)) is not None
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + 10, resource.RLIM_INFINITY))
print([journal.write(2, _update(number)) for number in (2, 3)], journal.failed, _numbers(journal))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(journal.write(3, _update(4)) is not None, _numbers(journal))
"""


def test_a_full_disk_takes_nothing_by_halves_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    source = FULL_DISK.format(path=[str(here), str(here.parents[1])], directory=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    refused, written = ran.stdout.splitlines()[-2:]
    assert refused == "[None, None] 2 [1]" and written == "True [1, 4]"
    assert "updates cannot be kept on the disk" in ran.stdout
    assert _reopened(tmp_path) == [1, 4]


def test_a_torn_end_that_cannot_be_cut_off_is_no_place_to_write_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.write(1, _update(1))
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    assert journal.write(2, _update(2)) is None
    monkeypatch.setattr(os, "write", real)

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    cut = os.ftruncate
    monkeypatch.setattr(os, "ftruncate", fails)
    assert journal.write(3, _update(3)) is None
    monkeypatch.setattr(os, "ftruncate", cut)
    assert journal.write(4, _update(4)) is not None
    assert _numbers(journal) == [1, 4] and journal.failed == 2
    journal.close()
    assert _reopened(tmp_path) == [1, 4]
