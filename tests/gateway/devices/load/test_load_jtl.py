"""The file of results: what is written is read again, hostile texts and all; what is no JTL is told with its line."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.devices.load import jtl as module
from gateway.devices.load.jtl import COLUMNS, JtlError, JtlWriter
from gateway.devices.load.jtl_reader import JtlReader
from gateway.devices.load.results import Results
from gateway.devices.load.samples import Sample

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['a,b"c"', "two\nlines", "\r\n", '"', "<script>alert(1)</script>", "\x00", "=1+1", "é✓", "ep 1-7", " "]
)
_samples = st.builds(
    Sample,
    at_ms=st.integers(0, 4_000_000_000_000),
    elapsed_us=st.integers(0, 10**9).map(lambda ms: ms * 1000),
    label=_text,
    endpoint=_text,
    thread=st.integers(1, 100_000),
    code=_text,
    success=st.booleans(),
    message=_text,
    sent=st.integers(0, 70_000),
    received=st.integers(0, 70_000),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_samples, max_size=20))
def test_what_is_written_is_read_again(tmp_path: Path, samples: list[Sample]) -> None:
    path = tmp_path / "round.jtl"
    with JtlWriter(path, url="coap://[::1]:5683", overwrite=True) as writer:
        writer.add(samples, active=3)
    assert writer.failure is None
    assert list(JtlReader(path)) == samples


def test_a_file_is_jmeters_csv_with_its_default_columns(tmp_path: Path) -> None:
    path = tmp_path / "load.jtl"
    with JtlWriter(path, url="coap://127.0.0.1:5683") as writer:
        writer.add([Sample(1_790_000_000_123, 4_600, "send", "dev-1", 7, "2.04", True, sent=40, received=9)], 12)
        writer.add([Sample(1_790_000_000_124, 93_000_000, "send", "dev-2", 8, "timeout", False, 'no "answer"', 80)], 12)
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert path.read_text().splitlines()[0] == COLUMNS
    assert first == {
        "timeStamp": "1790000000123",
        "elapsed": "5",
        "label": "send",
        "responseCode": "2.04",
        "responseMessage": "OK",
        "threadName": "dev-1 1-7",
        "dataType": "text",
        "success": "true",
        "failureMessage": "",
        "bytes": "9",
        "sentBytes": "40",
        "grpThreads": "12",
        "allThreads": "12",
        "URL": "coap://127.0.0.1:5683",
        "Latency": "5",
        "IdleTime": "0",
        "Connect": "0",
    }
    assert second["failureMessage"] == 'no "answer"'
    assert second["success"] == "false"


def test_files_of_jmeter_are_read(tmp_path: Path) -> None:
    path = tmp_path / "jmeter.jtl"
    path.write_text(
        f"{COLUMNS}\n"
        "1515586391000,137,Home page,200,OK,Thread Group 1-12,text,true,,1591,115,1,1,https://example.org/,137,0,80\n"
        "1515586391137,5,Login,500,Internal Error,Thread Group 1-13,,false,"
        '"Test failed: code expected to equal /\n\n****** received  : [[[500]]]/",0,115,1,1,null,0,0,0\n'
    )
    first, second = JtlReader(path)
    assert first == Sample(1_515_586_391_000, 137_000, "Home page", "Thread Group", 12, "200", True, "", 115, 1591)
    assert second.message.startswith("Test failed: code expected")
    assert not second.success


def test_other_columns_delimiters_and_variables_of_jmeter_are_read(tmp_path: Path) -> None:
    path = tmp_path / "jmeter.jtl"
    path.write_text('\ufefftimeStamp;elapsed;success;label;"user"\r\n1;2;true;a,b;joe\r\n\r\n3;4;false;c;ann\r\n')
    assert [(one.at_ms, one.elapsed_us, one.label, one.success) for one in JtlReader(path)] == [
        (1, 2000, "a,b", True),
        (3, 4000, "c", False),
    ]


_ROW = "1,2,l,200,OK,t 1-1,text,true,,0,0,1,1,,2,0,0\n"


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("", None, "is empty"),
        ("<?xml version='1.0'?>\n", 1, "XML"),
        (_ROW, 1, "timeStamp"),
        ("timeStamp,elapsed,label\n", 1, "success not among its columns"),
        ("timeStamp,elapsed,label,success,SampleCount\n", 1, "SampleCount"),
        (f"{COLUMNS}\n{_ROW}1,2,l\n", 3, "3 fields where the header has 17"),
        (f"{COLUMNS}\n{_ROW.replace('1,2', '2018/01/10 12:13:11,2')}", 2, "timestamp_format=ms"),
        (f"{COLUMNS}\n{_ROW.replace('1,2', '1,-2')}", 2, "elapsed is '-2'"),
        (f"{COLUMNS}\n{_ROW.replace('1,2', '1,٣')}", 2, "elapsed"),
        (f"{COLUMNS}\n{_ROW.replace('1,2', '1,999999999999999999')}", 2, "more than"),
        (f"{COLUMNS}\n{_ROW.replace('true', 'yes')}", 2, "success is 'yes'"),
        (f"{COLUMNS}\n" + _ROW.replace(",l,", ",two\nlines,"), 2, "fields"),
        (f'{COLUMNS}\n{_ROW}{_ROW}1,2,"never ends,{_ROW}', 4, "unexpected end of data"),
        (f"{COLUMNS}\n" + _ROW.replace("l", "l" * 200_000), 2, "field larger"),
        (f"{COLUMNS}\n{'x' * (1 << 20)}x\n", 2, "is longer than"),
    ],
)
def test_what_is_no_jtl_is_told_with_its_line(tmp_path: Path, content: str, line: int | None, said: str) -> None:
    path = tmp_path / "bad.jtl"
    path.write_text(content)
    with pytest.raises(JtlError, match=str(path)) as error:
        list(JtlReader(path))
    assert said in str(error.value)
    if line is not None:
        assert f"line {line}:" in str(error.value)


def test_what_is_no_text_or_no_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bad.jtl"
    path.write_bytes(COLUMNS.encode() + b"\n\xff\xfe\n")
    with pytest.raises(JtlError, match="UTF-8"):
        list(JtlReader(path))
    with pytest.raises(JtlError, match="cannot be read: No such file"):
        list(JtlReader(tmp_path / "none.jtl"))


def test_a_last_line_that_does_not_end_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "load.jtl"
    with JtlWriter(path) as writer:
        writer.add([Sample(1, 2000, "send", "dev", 1, "2.04", True, 'with "quotes", and more')] * 3, 1)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        reader = JtlReader(path)
        samples = list(reader)
        # A line that lacks only the end of its last number looks whole.
        assert (len(samples), reader.cut_off) in ((2, True), (3, False)), whole[last:cut]
    assert len(samples) == 3


def test_what_is_flushed_is_in_the_file_without_an_end(tmp_path: Path) -> None:
    """As a process that is killed leaves it."""
    path = tmp_path / "load.jtl"
    results = Results(jtl=JtlWriter(path))
    for number in range(10):
        results.record(Sample(number, 1000, "send", "dev", 1, "2.04", True))
    results.tick(1000)
    until = time.monotonic() + 60
    while len(path.read_bytes().splitlines()) < 11 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(list(JtlReader(path))) == 10
    results.close(2000)


def test_a_disk_that_is_full_is_told_and_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "load.jtl"
    write = os.write
    room = 20_000

    def full(file: int, data: bytes | memoryview) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(28, "No space left on device")
        written = write(file, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", full)
    results = Results(jtl=JtlWriter(path))
    for number in range(5000):
        results.record(Sample(number, 1000, "send", "dev", 1, "2.04", True))
        if number % 100 == 0:
            results.tick(number)
    results.close(5000)
    monkeypatch.undo()
    assert results.timeline.total().count == 5000
    assert results.failure is not None
    assert "No space left on device" in results.failure
    assert str(path) in results.failure
    reader = JtlReader(path)
    written = list(reader)
    assert not reader.cut_off
    assert results.jtl is not None
    assert len(written) + results.jtl.missing == 5000
    assert 0 < len(written) < 5000


def test_a_real_device_that_is_full_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(JtlError, match=r"/dev/full: .* cannot be written: No space left"):
        JtlWriter(Path("/dev/full"), overwrite=True)


def test_a_disk_that_is_too_slow_gives_the_file_up_and_not_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 1000)
    with JtlWriter(tmp_path / "load.jtl") as writer:
        writer.add([Sample(1, 1, "send", "dev", 1, "", True)] * 100, 1)
        writer.flush()
        writer.add([Sample(1, 1, "send", "dev", 1, "", True)] * 10, 1)
    assert writer.failure is not None
    assert "slower than it comes" in writer.failure
    assert writer.missing == 110


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "load.jtl"
    path.write_text("precious")
    with pytest.raises(JtlError, match="there is such a file already"):
        JtlWriter(path)
    assert path.read_text() == "precious"
    with pytest.raises(JtlError, match="cannot be written: No such file"):
        JtlWriter(tmp_path / "none" / "load.jtl")
