"""Mean and variance of a stream that keeps none of its values (Welford 1962; merged as Chan et al. 1979).

Owns the arithmetic and its state. What Welford subtracts from each value is the mean, so nothing large cancels; here
the mean is carried in two doubles (of about 106 bits together), and so is the sum of squares. With one each, values
such as 1e9 plus a few thousandths lose half of their digits, and ten million additions some more. The results are those
of the two passes with `math.fsum`, also in whichever order parts are merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

#: The square of anything larger would be near the end of what a double holds.
LARGEST = 1e150

#: 2**27 + 1 halves the 53 bits of a double (Dekker 1971).
_HALVES = 134_217_729.0


class Moments(NamedTuple):
    """The state of one stream: a tuple of numbers, all finite, that JSON holds (``Moments(*parsed)`` brings it back).

    The mean is ``mean + mean_low`` and the sum of the squared distances from it is ``m2 + m2_low``.
    """

    #: Values that are in.
    length: int = 0
    mean: float = 0.0
    mean_low: float = 0.0
    m2: float = 0.0
    m2_low: float = 0.0
    #: Values that were left out: no number, infinite or beyond `LARGEST`.
    refused: int = 0

    @property
    def variance(self) -> float:
        """Of the population, divided by `length`; 0.0 where there are no values."""
        return self.m2 / self.length if self.length else 0.0

    @property
    def sample_variance(self) -> float:
        """The estimate from a sample, divided by ``length - 1``; 0.0 where there are not two values."""
        return self.m2 / (self.length - 1) if self.length > 1 else 0.0

    @property
    def std_dev(self) -> float:
        """The root of `variance`."""
        return math.sqrt(self.variance)


EMPTY = Moments()


def add(state: Moments, value: float) -> Moments:
    """``state`` with one more value; one that is no number, infinite or beyond `LARGEST` is counted as refused only.

    The hot path: the exact sums and products of pairs are written out (Knuth's two-sum, Dekker's product).
    """
    count, mean, mean_low, m2, m2_low, refused = state
    if not -LARGEST <= value <= LARGEST:  # False for NaN as well
        return Moments(count, mean, mean_low, m2, m2_low, refused + 1)
    count += 1
    # delta + low = value - mean
    delta = value - mean
    part = delta - value
    low = (value - (delta - part)) - (mean + part) - mean_low
    # step + step_low = (delta + low) / count
    step = (delta + low) / count
    split = _HALVES * step
    high = split - (split - step)
    rest = step - high
    whole = float(count)
    split = _HALVES * whole
    whole_high = split - (split - whole)
    whole_rest = whole - whole_high
    product = step * whole
    error = ((high * whole_high - product) + high * whole_rest + rest * whole_high) + rest * whole_rest
    step_low = ((delta - product) - error + low) / whole
    # M2 += (value - mean before) * (value - mean after); each term is positive, so one double is enough for it.
    term = (delta + low) * ((delta - step) + (low - step_low))
    # mean += step
    total = mean + step
    part = total - mean
    low = (mean - (total - part)) + (step - part) + mean_low + step_low
    mean = total + low
    mean_low = low - (mean - total)
    total = m2 + term
    part = total - m2
    low = (m2 - (total - part)) + (term - part) + m2_low
    m2 = total + low
    return Moments(count, mean, mean_low, m2, low - (m2 - total), refused)


def add_all(state: Moments, values: Iterable[float]) -> Moments:
    """`add` for each of ``values``."""
    for value in values:
        state = add(state, value)
    return state


def merge(one: Moments, other: Moments) -> Moments:
    """The state of both streams together, as if one had followed the other."""
    if not other.length or not one.length:
        kept = one if one.length else other
        return kept._replace(refused=one.refused + other.refused)
    count = one.length + other.length
    delta, low = _sum(other.mean, -one.mean)
    delta, low = _sum(delta, low + (other.mean_low - one.mean_low))
    step, step_low = _divided(*_times(delta, low, float(other.length)), float(count))
    mean, mean_low = _sum(one.mean, step)
    mean, mean_low = _sum(mean, mean_low + one.mean_low + step_low)
    m2, m2_low = _sum(one.m2, other.m2)
    m2_low += one.m2_low + other.m2_low
    between = delta * delta * (one.length / count) * other.length
    m2, error = _sum(m2, between)
    m2, m2_low = _sum(m2, error + m2_low)
    return Moments(count, mean, mean_low, m2, m2_low, one.refused + other.refused)


def _sum(a: float, b: float) -> tuple[float, float]:
    """The sum and, exactly, what it leaves out."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _product(a: float, b: float) -> tuple[float, float]:
    """The product and, exactly, what it leaves out."""
    total = a * b
    split = _HALVES * a
    a_high = split - (split - a)
    split = _HALVES * b
    b_high = split - (split - b)
    a_rest, b_rest = a - a_high, b - b_high
    return total, ((a_high * b_high - total) + a_high * b_rest + a_rest * b_high) + a_rest * b_rest


def _times(high: float, low: float, factor: float) -> tuple[float, float]:
    total, error = _product(high, factor)
    return _sum(total, error + low * factor)


def _divided(high: float, low: float, divisor: float) -> tuple[float, float]:
    quotient = high / divisor
    product, error = _product(quotient, divisor)
    return _sum(quotient, ((high - product) - error + low) / divisor)
