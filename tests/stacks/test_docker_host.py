"""What a killed run of the Swarm's tests left is ended by its record, and nothing else is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.servers import processes
from tests.kafka_brokers import end_child_with_this_process
from tests.stacks.docker_host import end_leftover, write_record


@pytest.fixture
def left() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    end_child_with_this_process(process.pid)
    yield process
    process.kill()
    process.wait(60)


def test_process_of_a_record_is_ended(tmp_path: Path, left: subprocess.Popen[bytes]) -> None:
    write_record(tmp_path, left.pid)
    end_leftover(tmp_path)
    assert left.wait(60) == -9


def test_another_process_that_has_the_number_by_now_is_left_alone(
    tmp_path: Path, left: subprocess.Popen[bytes]
) -> None:
    write_record(tmp_path, left.pid)
    record = next(tmp_path.iterdir())
    started = processes.start_time(left.pid)
    assert started
    record.write_text(record.read_text().replace(started, "1"))
    end_leftover(tmp_path)
    assert left.poll() is None


@pytest.mark.parametrize("text", [None, "", "{}", '{"pid": "x", "started": "1"}', '{"pid": 1, "started": null}'])
def test_folder_without_a_good_record_is_passed_over(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "process.json").write_text(text)
    end_leftover(tmp_path)
