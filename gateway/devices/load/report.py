"""Writes the report: from a file of results (JTL), line by line in bounded memory, or from the results at hand."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gateway.devices.load.audited import AuditResult
from gateway.devices.load.jtl import JtlError
from gateway.devices.load.jtl_reader import JtlReader
from gateway.devices.load.page import page
from gateway.devices.load.samples import Sample
from gateway.devices.load.timeline import Timeline

_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What was read from a file of results. ``cut_off``: its last line had no end, and was left out."""

    timeline: Timeline
    cut_off: bool


class ReportError(Exception):
    """The report cannot be written; the message says where and why."""


def write_report(
    jtl: Path,
    html: Path,
    *,
    title: str | None = None,
    run: Mapping[str, str] | None = None,
    audit: AuditResult | None = None,
) -> Reported:
    """Make the report ``html`` of the file of results ``jtl``; returns what was read, for who tells figures too.

    An ``html`` that is there is replaced, once the new one is complete.

    Raises:
        JtlError: the file cannot be read or has no sample, with the line. ReportError: ``html`` cannot be written.
    """
    reader = JtlReader(jtl)
    timeline = Timeline()
    _count(timeline, reader)
    if not timeline.intervals:
        raise JtlError(f"{jtl}: has no sample, so there is nothing to report")
    notes = ["Times are whole milliseconds, as the file of results has them."]
    if reader.cut_off:
        notes.append("The file's last line has no end and is left out: what wrote it was ended in the middle.")
    write_page(
        timeline, html, title=title or f"Load: {jtl.name}", run=run or {"results": str(jtl)}, audit=audit, notes=notes
    )
    return Reported(timeline=timeline, cut_off=reader.cut_off)


def write_page(
    timeline: Timeline,
    html: Path,
    *,
    title: str,
    run: Mapping[str, str],
    audit: AuditResult | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Make the report of what was measured; ``run`` says what was run, by name (options, `machine`).

    Raises:
        ReportError: ``html`` cannot be written.
    """
    written = html.with_name(f"{html.name}.part")
    try:
        with written.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(page(timeline, title=title, run=run, audit=audit, notes=notes))
        written.replace(html)
    except OSError as exc:
        written.unlink(missing_ok=True)
        raise ReportError(f"{html}: the report cannot be written: {exc.strerror}") from exc


def machine() -> str:
    """What the load ran on, in words."""
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs,"
        f" {platform.python_implementation()} {platform.python_version()}"
    )


def _count(timeline: Timeline, samples: Iterable[Sample]) -> None:
    more = iter(samples)
    while batch := list(islice(more, _BATCH)):
        timeline.add(batch)
