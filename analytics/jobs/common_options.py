"""What several jobs have as options in common: which series they take, and names of topics."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from analytics.job import JobOptions
from analytics.series import SeriesPattern
from schemas.lwm2m.path import PathPattern

#: What Kafka takes as a topic's name, but for ``.`` and ``..``.
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def _pattern(text: str) -> str:
    PathPattern.parse(text)
    return text


def _topic(text: str) -> str:
    if TOPIC.fullmatch(text) is None or text in (".", ".."):
        raise ValueError(f"{text[:80]!r} is no name of a topic: letters, digits, '.', '_' and '-' are expected")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
TopicName = Annotated[str, AfterValidator(_topic)]


class ChosenSeries(JobOptions):
    """The series that a job takes; all of them unless told."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("path", "endpoint")

    path: Pattern | None = Field(default=None, description="Only paths at or below this, such as '/3303/*/5700'.")
    endpoint: str = Field(default="*", description="Only endpoints with such names, as a shell's pattern: 'sensor-*'.")

    @property
    def only(self) -> SeriesPattern:
        return SeriesPattern(path=PathPattern.parse(self.path) if self.path else None, endpoint=self.endpoint)


#: Of a sample.
SAMPLE = """\
# Only paths at or below this; * stands for any id. Default: all.
# path = "/3303/*/5700"
# Only endpoints with such names, as a shell's pattern.
# endpoint = "*"
"""
