"""Decoding afresh, as commands have it: the option that goes with it, and the decoder for what is about to be replayed.

What becomes of a record is `connectors.redecode`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from connectors.redecode import Announced, Redecoder
    from connectors.replay import Plan


def object_version(text: str) -> str:
    """An object version such as 1.0.

    Raises:
        typer.BadParameter: it is none.
    """
    from schemas.lwm2m.objects import version_key

    if version_key(text) is None:
        raise typer.BadParameter(f"{text!r:.60} is no object version, such as 1.0")
    return text


AssumeOption = Annotated[
    str | None,
    typer.Option(
        "--assume-version",
        metavar="V",
        parser=object_version,
        help="The object version of devices whose registration is no longer in the log; else theirs stay as they are.",
    ),
]


def redecoder_of(plan: Plan, place: Path, objects: Collection[int] | None, assume: str | None) -> Redecoder:
    """What decodes the records of ``plan`` afresh by the models of the folder ``place``.

    Raises:
        DefinitionError: the folder cannot be read. Unreachable, KafkaException: the registrations cannot.
    """
    from connectors.redecode import Redecoder
    from headwater.known_models import known

    return Redecoder(known(place), _announced(plan), objects=objects, otherwise=assume)


def _announced(plan: Plan) -> Announced:
    from cloud.interrupts import interruptible
    from connectors.redecode import read_announced
    from connectors.sink_records import owner
    from schemas.avro.topics import Topics

    gateways = {owner(topic)[0] for topic, _ in plan.spans}
    topics = [Topics(gateway).registrations for gateway in sorted(gateways)]
    return interruptible(lambda: read_announced(plan.settings.kafka, topics))
