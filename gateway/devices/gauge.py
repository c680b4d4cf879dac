"""An IPSO sensor instance of a virtual device: what it shows, and the extremes that it remembers.

Owns the resource ids that all sensor objects share (OMA registry, objects 3300 to 3346) and what Reset Min and Max
Measured Values does. Which value comes next is another's.
"""

from __future__ import annotations

from gateway.devices.model import Model
from schemas.lwm2m.path import Path

TIMESTAMP, MINIMUM, MAXIMUM, LOWEST, HIGHEST, RESET = 5518, 5601, 5602, 5603, 5604, 5605
VALUE, UNITS, APPLICATION, SENSOR_TYPE = 5700, 5701, 5750, 5751


def shown(model: Model, here: Path) -> float:
    """What the sensor instance at ``here`` shows."""
    return float(str(model.value(here.child(VALUE))))


def show(model: Model, here: Path, reading: float) -> None:
    """Show a new reading; the extremes move with it."""
    model.set(here.child(VALUE), reading)
    if reading < float(str(model.value(here.child(MINIMUM)))):
        model.set(here.child(MINIMUM), reading)
    if reading > float(str(model.value(here.child(MAXIMUM)))):
        model.set(here.child(MAXIMUM), reading)


def reset(model: Model, here: Path) -> None:
    """Reset Min and Max Measured Values: both are what is shown now."""
    now = model.value(here.child(VALUE))
    model.set(here.child(MINIMUM), now)
    model.set(here.child(MAXIMUM), now)
