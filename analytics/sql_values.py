"""What SQL's operators do with the values of readings: NULL, comparison, arithmetic, LIKE, time. Pure.

Follows SQL's three-valued logic (ISO/IEC 9075-2, section 8): None is NULL and unknown. Where SQL leaves a choice, this
module makes it, as `docs/analytics.md` tells: a text beside a number counts as the number that it spells and is NULL if
it spells none; ``/`` never cuts to an integer; what is no number any more (0/0, division by zero) is NULL; integers
beyond 64 bits go on as floating point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal

Scalar = None | bool | int | float | str

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
#: Beyond this many characters nothing is read as a number: no sensible one is so long, and reading costs.
_LONGEST_NUMBER = 100
_INTEGERS = range(-(2**63), 2**63)


def number(value: Scalar) -> int | float | None:
    """The value as a number: true is 1, a text is what it spells, NaN is NULL."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER or _NUMBER.fullmatch(value) is None:
            return None
        try:
            return _fit(int(value))
        except ValueError:
            value = float(value)
    return None if math.isnan(value) else value


def _fit(value: int) -> int | float:
    return value if value in _INTEGERS else float(value)


def text(value: Scalar) -> str | None:
    """The value as text; booleans as ``true`` and ``false``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if isinstance(value, float) and math.isnan(value) else str(value)


def truth(value: Scalar) -> bool | None:
    """The value as a condition: numbers are true unless 0; a text is a condition only if it spells one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTHS:
        return value.lower() == "true"
    known = number(value)
    return None if known is None else known != 0


_TRUTHS = frozenset({"true", "false"})


def negation(value: Scalar) -> bool | None:
    """NOT."""
    known = truth(value)
    return None if known is None else not known


def order(left: Scalar, right: Scalar) -> int | None:
    """Negative, zero or positive as ``left`` is before, equal to or after ``right``; None where that is unknown.

    Texts among themselves go by code point; in every other company a text is a number, or beside a boolean what it
    spells.
    """
    if left is None or right is None:
        return None
    if isinstance(left, str) and isinstance(right, str):
        return (left > right) - (left < right)
    if {type(left), type(right)} == {bool, str}:
        return _order(truth(left), truth(right))
    return _order(number(left), number(right))


def _order(left: float | None, right: float | None) -> int | None:
    return None if left is None or right is None else (left > right) - (left < right)


def arithmetic(act: Callable[[int | float, int | float], int | float | None]) -> Callable[[Scalar, Scalar], Scalar]:
    """``act`` on values as numbers; NULL with NULL, and where the result is no number."""

    def run(left: Scalar, right: Scalar) -> Scalar:
        one, other = number(left), number(right)
        if one is None or other is None:
            return None
        result = act(one, other)
        if isinstance(result, int):
            return _fit(result)
        return None if result is None or math.isnan(result) else result

    return run


add = arithmetic(lambda left, right: left + right)
subtract = arithmetic(lambda left, right: left - right)
multiply = arithmetic(lambda left, right: left * right)
divide = arithmetic(lambda left, right: None if right == 0 else left / right)


def _remainder(left: int | float, right: int | float) -> int | float | None:
    if right == 0 or math.isinf(left):
        return None
    if isinstance(left, int) and isinstance(right, int):
        # The sign is the dividend's, as in C and in SQL (ISO/IEC 9075-2, section 6.27); Python's is the divisor's.
        rest = abs(left) % abs(right)
        return rest if left >= 0 else -rest
    return math.fmod(left, right)


modulo = arithmetic(_remainder)


def negative(value: Scalar) -> Scalar:
    """Unary minus."""
    return subtract(0, value)


def absolute(value: Scalar) -> Scalar:
    """ABS."""
    known = number(value)
    return None if known is None else _fit(abs(known)) if isinstance(known, int) else abs(known)


_EXACT = Context(prec=60)


def rounded(value: Scalar, digits: int) -> Scalar:
    """ROUND: halves go away from zero. ``digits`` is 0 to 15."""
    known = number(value)
    # Beyond 2^53 there are no fractions left.
    if known is None or isinstance(known, int) or not abs(known) < 2**53:
        return int(known) if isinstance(known, bool) else known
    return float(Decimal(known).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, _EXACT))


def concatenate(left: Scalar, right: Scalar) -> Scalar:
    """``||``."""
    one, other = text(left), text(right)
    return None if one is None or other is None else one + other


def like(pattern: str, escape: str | None, *, fold: bool) -> Callable[[str], bool]:
    r"""A test for ``pattern``: ``%`` is any text, ``_`` any one character; ``fold`` makes letters' case equal.

    The pieces between the ``%`` are looked for from the left, each at its first place: with no choice there is no going
    back, so a hostile pattern costs the length of the text times its own at most.

    Raises:
        ValueError: the escape character is at the end or before another than ``%``, ``_`` and itself.
    """
    pieces: list[str] = [""]
    characters = iter(pattern.lower() if fold else pattern)
    escape = escape.lower() if fold and escape is not None else escape
    for character in characters:
        if character == escape:
            escaped = next(characters, None)
            if escaped is None or escaped not in ("%", "_", escape):
                raise ValueError(f"{escape!r} stands before %, _ or itself")
            pieces[-1] += re.escape(escaped)
        elif character == "%":
            pieces.append("")
        else:
            pieces[-1] += "." if character == "_" else re.escape(character)
    if len(pieces) == 1:
        only = re.compile(pieces[0], re.DOTALL)
        return lambda value: only.fullmatch(value.lower() if fold else value) is not None
    first = re.compile(pieces[0], re.DOTALL)
    between = [re.compile(piece, re.DOTALL) for piece in pieces[1:-1] if piece]
    last = re.compile(pieces[-1] + r"\Z", re.DOTALL)
    tail = len(re.sub(r"\\(.)", r"\1", pieces[-1], flags=re.DOTALL))

    def run(value: str) -> bool:
        value = value.lower() if fold else value
        begun = first.match(value)
        if begun is None:
            return False
        at = begun.end()
        for piece in between:
            found = piece.search(value, at)
            if found is None:
                return False
            at = found.end()
        return len(value) - tail >= at and last.match(value, len(value) - tail) is not None

    return run


def moment(value: Scalar) -> int | None:
    """Epoch milliseconds of an ISO 8601 date or time (UTC where it has no offset), or the number itself."""
    if not isinstance(value, str):
        known = number(value)
        return int(known) if known is not None and math.isfinite(known) else None
    if len(value) > _LONGEST_NUMBER:
        return None
    try:
        when = datetime.fromisoformat(value.strip())
        return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None


def date(milliseconds: int) -> datetime | None:
    """The moment in UTC; None beyond the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
