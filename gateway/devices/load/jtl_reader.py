"""Reads a file of results (JTL): ours, and JMeter's own as far as it is CSV with a header.

Strict: what is no sample is an error that says the line, and nothing is guessed. Only a last line that does not end is
left out and told, as a process that is killed may leave one. Memory stays bounded whatever the file is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from gateway.devices.load.histogram import MOST
from gateway.devices.load.jtl import JtlError
from gateway.devices.load.samples import Sample

#: Without these there is nothing to count.
NEEDED = ("timeStamp", "elapsed", "label", "success")
_MOST_LINE = 1 << 20
#: Epoch ms of the end of the year 9999.
_MOST_TIME = 253_402_300_799_999
_DIGITS = re.compile(r"[0-9]{1,18}")


class JtlReader:
    """Iterates over the samples of ``path``; once it is through, ``cut_off`` says whether the last line did not end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_off = False

    def __iter__(self) -> Iterator[Sample]:
        """Raises JtlError: there is no such file, or it is no JTL; with the number of the line."""
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                yield from self._samples(file)
        except UnicodeDecodeError as exc:
            raise JtlError(f"{self.path}: is no text in UTF-8 ({exc.reason}), so no JTL") from exc
        except OSError as exc:
            raise JtlError(f"{self.path}: cannot be read: {exc.strerror}") from exc

    def _samples(self, file: TextIO) -> Iterator[Sample]:
        lines = _Lines(file, self)
        header = next(lines, "")
        column, delimiter = self._header(header)
        parsed = csv.reader(lines, delimiter=delimiter, strict=True)
        make = _maker(column)
        begins = lines.number + 1
        while True:
            try:
                row = next(parsed)
                if row:
                    if len(row) != len(column):
                        raise ValueError(f"{len(row)} fields where the header has {len(column)}")
                    sample = make(row)
            except StopIteration:
                return
            except (ValueError, csv.Error) as exc:
                if lines.unended:
                    self.cut_off = True
                    return
                raise self._error(begins, str(exc)) from exc
            if row:
                yield sample
            begins = lines.number + 1

    def _header(self, line: str) -> tuple[list[str], str]:
        """The columns' names in order, and the delimiter, which JMeter lets one choose."""
        text = line.removeprefix("\ufeff").rstrip("\r\n")
        if not text:
            raise JtlError(f"{self.path}: is empty; a JTL begins with a line that names its columns")
        if text.startswith("<"):
            raise self._error(1, "is XML; let JMeter save results as CSV (jmeter.save.saveservice.output_format=csv)")
        found = re.fullmatch(r"\w+(?:([^\w\"])\"?\w+\"?)*", text)
        delimiter = (found and found[1]) or ","
        names = [name.strip('"') for name in text.split(delimiter)]
        if missing := [name for name in NEEDED if name not in names]:
            said = ", ".join(missing)
            raise self._error(1, f"is no header of a JTL: {said} not among its columns (timeStamp,elapsed,label,…)")
        if "SampleCount" in names:
            raise self._error(1, "has the column SampleCount: a line stands for many samples, which is not supported")
        return names, delimiter

    def _error(self, line: int, why: str) -> JtlError:
        return JtlError(f"{self.path}, line {line}: {why[:300]}")


class _Lines:
    """The lines of a file, none longer than is sane, and the number of the last one."""

    def __init__(self, file: TextIO, reader: JtlReader) -> None:
        self._file = file
        self._reader = reader
        self.number = 0
        #: The last line of the file had no end.
        self.unended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MOST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if not line.endswith(("\n", "\r")):
            if len(line) >= _MOST_LINE:
                raise JtlError(f"{self._reader.path}, line {self.number}: is longer than {_MOST_LINE} characters")
            self.unended = True
        return line


def _maker(columns: Sequence[str]) -> Callable[[list[str]], Sample]:
    """From a row of fields to its sample; it raises ValueError, in words, for a row that is none."""
    place = {name: index for index, name in enumerate(columns)}
    at, elapsed, label, success = (place[name] for name in NEEDED)
    code, said, failure, thread = (
        place.get(name) for name in ("responseCode", "responseMessage", "failureMessage", "threadName")
    )
    received, sent = place.get("bytes"), place.get("sentBytes")

    def make(row: list[str]) -> Sample:
        if row[success] not in ("true", "false"):
            raise ValueError(f"success is {row[success][:40]!r}; it is true or false")
        good = row[success] == "true"
        message = "" if failure is None else row[failure]
        if not good and not message and said is not None:
            message = row[said]
        endpoint, number = _thread("" if thread is None else row[thread])
        return Sample(
            _number(row[at], "timeStamp", _MOST_TIME),
            min(_number(row[elapsed], "elapsed", MOST) * 1000, MOST),
            row[label],
            endpoint,
            number,
            "" if code is None else row[code],
            good,
            message,
            0 if sent is None else _number(row[sent], "sentBytes", MOST),
            0 if received is None else _number(row[received], "bytes", MOST),
        )

    return make


def _number(text: str, name: str, most: int) -> int:
    if _DIGITS.fullmatch(text) is None:
        hint = " (epoch milliseconds: jmeter.save.saveservice.timestamp_format=ms)" if name == "timeStamp" else ""
        raise ValueError(f"{name} is {text[:40]!r}; a whole number is expected{hint}")
    number = int(text)
    if number > most:
        raise ValueError(f"{name} is {number}, which is more than {most}")
    return number


def _thread(name: str) -> tuple[str, int]:
    """Endpoint and number of a thread's name; JMeter's is ``GROUP 1-7``. 0: the name has no number."""
    front, _, number = name.rpartition("-")
    endpoint, _, group = front.rpartition(" ")
    if group.isdecimal() and number.isdecimal() and number.isascii() and len(number) < 10:
        return endpoint, int(number)
    return name, 0
