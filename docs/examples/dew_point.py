"""The dew point in °C, from temperature (°C) and relative humidity (%): a join of two sensors of a device.

headwater analytics run join --gateway rock64 --code dew_point.py \
    --left '/3303/*/5700' --right '/3304/*/5700' --tolerance 5s --as /3303/100/5700
"""

from math import log


def ingest(record):
    """Leave out what no air has: a sensor that is broken says 850 °C or 140 %."""
    if record.path.startswith("/3304/"):
        return record if 0 < record.value <= 100 else None
    return record if -60 <= record.value <= 60 else None


def on_join(temperature, humidity):
    """The Magnus formula, with the constants of Sonntag (1990)."""
    gamma = log(humidity.value / 100) + 17.62 * temperature.value / (243.12 + temperature.value)
    return round(243.12 * gamma / (17.62 - gamma), 2)
