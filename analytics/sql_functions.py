"""SQL's functions: what picks, rounds, measures and dates values; a row of `FUNCTIONS` each.

What a function does with a value is in `analytics.sql_values`; here its node becomes a closure. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter

from sqlglot import exp

from analytics import sql_values as sql
from analytics.sql_compiler import NOW, Compiled, Compiler, Nodes, Row, called, constant
from analytics.sql_values import Scalar


def _coalesce(compiler: Compiler, node: exp.Expression) -> Compiled:
    values = [compiler.value(one) for one in (node.this, *node.expressions)]
    runs = [value.run for value in values]

    def run(row: Row) -> Scalar:
        for one in runs:
            known = one(row)
            if known is not None:
                return known
        return None

    return Compiled(run, any(value.is_time for value in values))


def _nullif(compiler: Compiler, node: exp.Expression) -> Compiled:
    value = compiler.value(node.this)
    other, order = compiler.against(value, node.this, node.args["expression"])

    def run(row: Row) -> Scalar:
        known = value.run(row)
        return None if order(known, other.run(row)) == 0 else known

    return Compiled(run, value.is_time)


def _function(compiler: Compiler, node: exp.Expression) -> Compiled:
    act, inner = _FUNCTIONS[type(node)], compiler.value(node.this).run
    return Compiled(lambda row: act(inner(row)))


def _round(compiler: Compiler, node: exp.Expression) -> Compiled:
    digits: Scalar = 0
    if (given := node.args.get("decimals")) is not None:
        digits = compiler.value(given).literal
    if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= 15:
        raise compiler.unsupported("ROUND to anything but 0 to 15 digits", node)
    inner, wanted, act = compiler.value(node.this).run, digits, sql.rounded
    return Compiled(lambda row: act(inner(row), wanted))


def _anonymous(compiler: Compiler, node: exp.Expression) -> Compiled:
    if node.name.lower() == "now" and not node.expressions:
        return _now(compiler, node)
    raise compiler.unsupported(f"the function {node.name[:60].upper()}()", node)


def _now(compiler: Compiler, node: exp.Expression) -> Compiled:
    compiler.used.add(NOW)
    return Compiled(itemgetter(NOW), True)


def _interval(compiler: Compiler, node: exp.Expression) -> Compiled:
    """INTERVAL '5 minutes': a number of milliseconds."""
    amount = None if node.this is None else sql.number(compiler.value(node.this).literal)
    unit = node.args.get("unit")
    length = _UNITS.get(unit.name.upper().rstrip("S")) if unit is not None else None
    if amount is None or length is None:
        raise compiler.unsupported(f"an INTERVAL that is no number of {', '.join(_UNITS).lower()}s", node)
    return constant(sql.multiply(amount, length))


def _part(compiler: Compiler, node: exp.Expression) -> Compiled:
    """HOUR(time) and EXTRACT(HOUR FROM time), in UTC."""
    if type(node) is exp.Extract:
        name, inner = node.name.upper(), node.args["expression"]
    else:
        name, inner = called(node), node.this
    if name not in _PARTS:
        raise compiler.unsupported(f"EXTRACT of {name}; the parts are {', '.join(_PARTS)};", node)
    attribute, date = name.lower(), sql.date
    moment = compiler.as_time(compiler.value(inner), inner).run

    def run(row: Row) -> Scalar:
        known = moment(row)
        when = date(known) if isinstance(known, int) else None
        return None if when is None else int(getattr(when, attribute))

    return Compiled(run)


def _cast(compiler: Compiler, node: exp.Expression) -> Compiled:
    """DATE '2026-01-31' and TIMESTAMP '…', which the parser makes casts of; no other cast."""
    value = compiler.value(node.this)
    if node.args["to"].sql() in ("DATE", "TIMESTAMP", "TIMESTAMPTZ") and isinstance(value.literal, str):
        return compiler.as_time(value, node.this)
    raise compiler.unsupported("CAST", node)


def _on_text(act: Callable[[str], Scalar]) -> Callable[[Scalar], Scalar]:
    def run(value: Scalar) -> Scalar:
        known = sql.text(value)
        return None if known is None else act(known)

    return run


_FUNCTIONS: Mapping[type[exp.Expression], Callable[[Scalar], Scalar]] = {
    exp.Abs: sql.absolute,
    exp.Upper: _on_text(str.upper),
    exp.Lower: _on_text(str.lower),
    exp.Length: _on_text(len),
}
_UNITS = {"MILLISECOND": 1, "SECOND": 1000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000, "WEEK": 604_800_000}
_PARTS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")

_ONE = frozenset({"this"})

FUNCTIONS: Nodes = {
    exp.Coalesce: (_coalesce, frozenset({"this", "expressions"})),
    exp.Nullif: (_nullif, frozenset({"this", "expression"})),
    **dict.fromkeys(_FUNCTIONS, (_function, _ONE)),
    exp.Round: (_round, frozenset({"this", "decimals"})),
    exp.Anonymous: (_anonymous, frozenset({"this", "expressions"})),
    exp.CurrentTimestamp: (_now, frozenset()),
    exp.Interval: (_interval, frozenset({"this", "unit"})),
    exp.Extract: (_part, frozenset({"this", "expression"})),
    **dict.fromkeys((exp.Year, exp.Month, exp.Day, exp.Hour, exp.Minute, exp.Second), (_part, _ONE)),
    exp.Cast: (_cast, frozenset({"this", "to", "_type"})),
}
