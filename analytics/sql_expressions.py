"""SQL expressions as closures over a row: which nodes there are, what each becomes, and which fields a query sees.

sqlglot read the text; here its tree is turned into closures by a table of the nodes that are known (`_NODES`), once,
and everything else is an error that names it and its place: no text is ever executed. Pure: ``now()`` is a field of the
row. What the operators do with values is in `analytics.sql_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlglot import exp

from analytics import sql_values as sql
from analytics.sql_values import Scalar

#: What a query sees of one reading: a value by each name of `FIELDS`, and `NOW`.
Row = Mapping[str, Scalar]
#: The key in a row of what ``now()`` says, in epoch milliseconds.
NOW = "now()"

#: The fields, and whether each is a time (epoch milliseconds). ``result`` is another name of ``value``.
FIELDS: Mapping[str, bool] = {
    "ep": False,
    "path": False,
    "object": False,
    "instance": False,
    "resource": False,
    "value": False,
    "svalue": False,
    "bvalue": False,
    "type": False,
    "time": True,
    "gateway_time": True,
    "kind": False,
    "code": False,
    "ticket": False,
    "observationId": False,
    "serverId": False,
    "late": False,
    "topic": False,
    "partition": False,
    "offset": False,
}
_NAMES = {name.lower(): name for name in FIELDS} | {"result": "value"}

#: Levels of the tree: a + b + c + … goes one deeper with each, chains of AND and OR do not.
MAX_NESTING = 100


class QueryError(ValueError):
    """The query is no query, or asks for what is not supported; the text says what and where."""


class Field(NamedTuple):
    """One column of the result."""

    name: str
    run: Callable[[Row], Scalar]


def at(line: object, column: object) -> str:
    """How a place is told."""
    return f"line {line}, column {column}"


class _Value(NamedTuple):
    """A compiled expression."""

    run: Callable[[Row], Scalar]
    is_time: bool = False
    #: Told apart from computed values: a literal's value is known now.
    literal: Scalar = None


_Order = Callable[[Scalar, Scalar], int | None]


class Compiler:
    """Turns one query's nodes into closures."""

    def __init__(self, query: str) -> None:
        self._query = query
        self.used: set[str] = set()
        self._depth = 0

    def unsupported(self, what: str, node: object) -> QueryError:
        return QueryError(f"{what} is not supported{self.place(node)}")

    def place(self, node: object) -> str:
        if isinstance(node, list):
            node = node[0] if node else None
        if not isinstance(node, exp.Expression):
            return ""
        inner = [one for one in node.walk() if "start" in one.meta]
        if not inner:
            return f": {node.sql()[:60]}"
        first = min(inner, key=lambda one: one.meta["start"])
        start, end = first.meta["start"], max(one.meta["end"] for one in inner)
        line = self._query.count("\n", 0, start) + 1
        column = start - self._query.rfind("\n", 0, start)
        return f" at {at(line, column)}: {self._query[start : end + 1][:60]}"

    def field(self, node: exp.Expression) -> Field:
        """One column of the result, by its alias, the field's name, or its own text."""
        if type(node) is exp.Alias:
            return Field(node.alias, self.value(node.this).run)
        if type(node) is exp.Star:
            raise self.unsupported("* beside other fields", node)
        value = self.value(node)
        name = node.sql()
        if type(node) is exp.Column:
            lower = node.name.lower()
            name = "result" if lower == "result" else _NAMES[lower]
        return Field(name, value.run)

    def value(self, node: exp.Expression) -> _Value:
        """The closure of any expression."""
        known = _NODES.get(type(node))
        if known is None:
            name = f"the function {node.name.upper()}()" if type(node) is exp.Anonymous else _called(node)
            raise self.unsupported(name, node)
        build, arguments = known
        self.check(node, arguments)
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise QueryError(f"the query is nested too deeply{self.place(node)}")
        value = build(self, node)
        self._depth -= 1
        return value

    def check(self, node: exp.Expression, arguments: frozenset[str]) -> None:
        """Nothing but these arguments: what is not known must not be passed over."""
        for name, given in node.args.items():
            if given and name not in arguments:
                raise self.unsupported(f"{name.strip('_').upper()} of {_called(node)}", node)

    # One method a kind of node; the table is below.

    def column(self, node: exp.Expression) -> _Value:
        name = _NAMES.get(node.name.lower())
        if name is None:
            hint = " (text is written in single quotes)" if node.this.args.get("quoted") else ""
            raise QueryError(
                f"there is no field {node.name[:60]!r}{self.place(node)}{hint}; the fields are "
                + ", ".join([*FIELDS, "result"])
            )
        self.used.add(name)
        return _Value(lambda row: row[name], FIELDS[name])

    def literal(self, node: exp.Expression) -> _Value:
        text = str(node.this)
        value: Scalar = text
        if not node.args["is_string"]:
            value = sql.number(text)
            if value is None:
                raise self.unsupported(f"the number {text[:40]}", node)
        return _constant(value)

    def boolean(self, node: exp.Expression) -> _Value:
        return _constant(bool(node.this))

    def null(self, node: exp.Expression) -> _Value:
        return _constant(None)

    def paren(self, node: exp.Expression) -> _Value:
        return self.value(node.this)

    def junction(self, node: exp.Expression) -> _Value:
        """AND and OR: a chain of them is one closure, however long."""
        kind = type(node)
        terms: list[Callable[[Row], Scalar]] = []
        todo: list[exp.Expression] = [node]
        while todo:
            one = todo.pop()
            if type(one) is kind:
                todo += [one.args["expression"], one.this]
            else:
                terms.append(self.value(one).run)
        return _Value(_all(terms) if kind is exp.And else _any(terms))

    def negated(self, node: exp.Expression) -> _Value:
        inner, negation = self.value(node.this).run, sql.negation
        return _Value(lambda row: negation(inner(row)))

    def comparison(self, node: exp.Expression) -> _Value:
        left = self.value(node.this)
        right, order = self.against(left, node.this, node.args["expression"])
        holds, one, other = _COMPARISONS[type(node)], left.run, right.run

        def run(row: Row) -> Scalar:
            known = order(one(row), other(row))
            return None if known is None else holds(known)

        return _Value(run)

    def against(self, left: _Value, beside: exp.Expression, node: exp.Expression) -> tuple[_Value, _Order]:
        """What ``left`` is compared with, and how the two are ordered: beside a time, a text is one."""
        right, order, moment = self.value(node), sql.order, sql.moment
        if left.is_time:
            return self.as_time(right, node), order
        if right.is_time:
            self.as_time(left, beside)
            return right, lambda one, other: order(moment(one), other)
        return right, order

    def as_time(self, value: _Value, node: exp.Expression) -> _Value:
        if value.is_time:
            return value
        moment = sql.moment
        if isinstance(value.literal, str):
            known = moment(value.literal)
            if known is None:
                raise QueryError(f"{value.literal[:60]!r} is no time such as '2026-01-31 12:00'{self.place(node)}")
            return _Value(lambda row: known, True)
        inner = value.run
        return _Value(lambda row: moment(inner(row)), True)

    def arithmetic(self, node: exp.Expression) -> _Value:
        left, right = self.value(node.this), self.value(node.args["expression"])
        act, one, other = _ARITHMETIC[type(node)], left.run, right.run
        is_time = type(node) in (exp.Add, exp.Sub) and left.is_time != right.is_time
        return _Value(lambda row: act(one(row), other(row)), is_time)

    def negative(self, node: exp.Expression) -> _Value:
        inner, act = self.value(node.this).run, sql.negative
        return _Value(lambda row: act(inner(row)))

    def between(self, node: exp.Expression) -> _Value:
        value = self.value(node.this)
        low, order_low = self.against(value, node.this, node.args["low"])
        high, order_high = self.against(value, node.this, node.args["high"])

        def run(row: Row) -> Scalar:
            known = value.run(row)
            first, second = order_low(known, low.run(row)), order_high(known, high.run(row))
            if (first is not None and first < 0) or (second is not None and second > 0):
                return False
            return None if first is None or second is None else True

        return _Value(run)

    def member(self, node: exp.Expression) -> _Value:
        value = self.value(node.this)
        others = [self.against(value, node.this, one) for one in node.expressions]

        def run(row: Row) -> Scalar:
            known, unknown = value.run(row), False
            for other, order in others:
                place = order(known, other.run(row))
                if place == 0:
                    return True
                unknown = unknown or place is None
            return None if unknown else False

        return _Value(run)

    def identity(self, node: exp.Expression) -> _Value:
        """IS NULL, IS TRUE, IS FALSE; IS NOT … is NOT around it."""
        inner, what = self.value(node.this).run, node.args["expression"]
        if type(what) is exp.Null:
            return _Value(lambda row: inner(row) is None)
        if type(what) is exp.Boolean:
            wanted, truth = bool(what.this), sql.truth
            return _Value(lambda row: truth(inner(row)) is wanted)
        raise self.unsupported("IS with anything but NULL, TRUE and FALSE", node)

    def like(self, node: exp.Expression) -> _Value:
        escape = None
        if type(node) is exp.Escape:
            given = self.value(node.args["expression"]).literal
            if type(node.this) not in (exp.Like, exp.ILike) or not isinstance(given, str) or len(given) != 1:
                raise self.unsupported("ESCAPE with anything but one character after LIKE", node)
            escape, node = given, node.this
            self.check(node, _TWO | {"negate"})
        pattern = self.value(node.args["expression"]).literal
        if not isinstance(pattern, str):
            raise self.unsupported("LIKE with anything but a text in single quotes", node)
        try:
            matches = sql.like(pattern, escape, fold=type(node) is exp.ILike)
        except ValueError as exc:
            raise QueryError(f"LIKE {pattern[:60]!r}: {exc}{self.place(node)}") from None
        inner, text, negate = self.value(node.this).run, sql.text, bool(node.args.get("negate"))

        def run(row: Row) -> Scalar:
            known = text(inner(row))
            return None if known is None else matches(known) is not negate

        return _Value(run)

    def case(self, node: exp.Expression) -> _Value:
        given: exp.Expression | None = node.args.get("this")
        subject = None if given is None else self.value(given)
        tests: list[tuple[Callable[[Scalar, Row], bool | None], Callable[[Row], Scalar]]] = []
        for one in node.args["ifs"]:
            if subject is None or given is None:
                test = _condition(self.value(one.this).run)
            else:
                test = _equality(*self.against(subject, given, one.this))
            tests.append((test, self.value(one.args["true"]).run))
        default = node.args.get("default")
        otherwise = _constant(None).run if default is None else self.value(default).run

        def run(row: Row) -> Scalar:
            known = None if subject is None else subject.run(row)
            for test, result in tests:
                if test(known, row):
                    return result(row)
            return otherwise(row)

        return _Value(run)

    def coalesce(self, node: exp.Expression) -> _Value:
        values = [self.value(one) for one in (node.this, *node.expressions)]
        runs = [value.run for value in values]

        def run(row: Row) -> Scalar:
            for one in runs:
                known = one(row)
                if known is not None:
                    return known
            return None

        return _Value(run, any(value.is_time for value in values))

    def nullif(self, node: exp.Expression) -> _Value:
        value = self.value(node.this)
        other, order = self.against(value, node.this, node.args["expression"])

        def run(row: Row) -> Scalar:
            known = value.run(row)
            return None if order(known, other.run(row)) == 0 else known

        return _Value(run, value.is_time)

    def function(self, node: exp.Expression) -> _Value:
        act, inner = _FUNCTIONS[type(node)], self.value(node.this).run
        return _Value(lambda row: act(inner(row)))

    def round(self, node: exp.Expression) -> _Value:
        digits: Scalar = 0
        if (given := node.args.get("decimals")) is not None:
            digits = self.value(given).literal
        if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= 15:
            raise self.unsupported("ROUND to anything but 0 to 15 digits", node)
        inner, wanted, act = self.value(node.this).run, digits, sql.rounded
        return _Value(lambda row: act(inner(row), wanted))

    def anonymous(self, node: exp.Expression) -> _Value:
        if node.name.lower() == "now" and not node.expressions:
            return self.now(node)
        raise self.unsupported(f"the function {node.name[:60].upper()}()", node)

    def now(self, node: exp.Expression) -> _Value:
        return _Value(lambda row: row[NOW], True)

    def interval(self, node: exp.Expression) -> _Value:
        """INTERVAL '5 minutes': a number of milliseconds."""
        amount = None if node.this is None else sql.number(self.value(node.this).literal)
        unit = node.args.get("unit")
        length = _UNITS.get(unit.name.upper().rstrip("S")) if unit is not None else None
        if amount is None or length is None:
            raise self.unsupported(f"an INTERVAL that is no number of {', '.join(_UNITS).lower()}s", node)
        return _constant(sql.multiply(amount, length))

    def part(self, node: exp.Expression) -> _Value:
        """HOUR(time) and EXTRACT(HOUR FROM time), in UTC."""
        if type(node) is exp.Extract:
            name, inner = node.name.upper(), node.args["expression"]
        else:
            name, inner = _called(node), node.this
        if name not in _PARTS:
            raise self.unsupported(f"EXTRACT of {name}; the parts are {', '.join(_PARTS)};", node)
        attribute, date = name.lower(), sql.date
        moment = self.as_time(self.value(inner), inner).run

        def run(row: Row) -> Scalar:
            known = moment(row)
            when = date(known) if isinstance(known, int) else None
            return None if when is None else int(getattr(when, attribute))

        return _Value(run)

    def cast(self, node: exp.Expression) -> _Value:
        """DATE '2026-01-31' and TIMESTAMP '…', which the parser makes casts of; no other cast."""
        value = self.value(node.this)
        if node.args["to"].sql() in ("DATE", "TIMESTAMP", "TIMESTAMPTZ") and isinstance(value.literal, str):
            return self.as_time(value, node.this)
        raise self.unsupported("CAST", node)


def _called(node: exp.Expression) -> str:
    return type(node).__name__.upper()


def _constant(value: Scalar) -> _Value:
    return _Value(lambda row: value, literal=value)


def _condition(run: Callable[[Row], Scalar]) -> Callable[[Scalar, Row], bool | None]:
    truth = sql.truth
    return lambda subject, row: truth(run(row))


def _equality(other: _Value, order: _Order) -> Callable[[Scalar, Row], bool | None]:
    run = other.run
    return lambda subject, row: order(subject, run(row)) == 0


def _all(terms: Sequence[Callable[[Row], Scalar]]) -> Callable[[Row], Scalar]:
    truth = sql.truth

    def run(row: Row) -> Scalar:
        result: bool | None = True
        for term in terms:
            known = truth(term(row))
            if known is False:
                return False
            result = None if known is None else result
        return result

    return run


def _any(terms: Sequence[Callable[[Row], Scalar]]) -> Callable[[Row], Scalar]:
    truth = sql.truth

    def run(row: Row) -> Scalar:
        result: bool | None = False
        for term in terms:
            known = truth(term(row))
            if known is True:
                return True
            result = None if known is None else result
        return result

    return run


_COMPARISONS: Mapping[type[exp.Expression], Callable[[int], bool]] = {
    exp.EQ: lambda order: order == 0,
    exp.NEQ: lambda order: order != 0,
    exp.LT: lambda order: order < 0,
    exp.LTE: lambda order: order <= 0,
    exp.GT: lambda order: order > 0,
    exp.GTE: lambda order: order >= 0,
}
_ARITHMETIC: Mapping[type[exp.Expression], Callable[[Scalar, Scalar], Scalar]] = {
    exp.Add: sql.add,
    exp.Sub: sql.subtract,
    exp.Mul: sql.multiply,
    exp.Div: sql.divide,
    exp.Mod: sql.modulo,
    exp.DPipe: sql.concatenate,
}


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

_TWO = frozenset({"this", "expression"})
_ONE = frozenset({"this"})

#: Every node that there is: what compiles it, and the arguments that it may have.
_NODES: Mapping[type[exp.Expression], tuple[Callable[[Compiler, Any], _Value], frozenset[str]]] = {
    exp.Column: (Compiler.column, _ONE),
    exp.Literal: (Compiler.literal, frozenset({"this", "is_string"})),
    exp.Boolean: (Compiler.boolean, _ONE),
    exp.Null: (Compiler.null, frozenset()),
    exp.Paren: (Compiler.paren, _ONE),
    exp.And: (Compiler.junction, _TWO),
    exp.Or: (Compiler.junction, _TWO),
    exp.Not: (Compiler.negated, _ONE),
    **dict.fromkeys(_COMPARISONS, (Compiler.comparison, _TWO)),
    **dict.fromkeys(_ARITHMETIC, (Compiler.arithmetic, _TWO | {"typed", "safe"})),
    exp.Neg: (Compiler.negative, _ONE),
    exp.Between: (Compiler.between, frozenset({"this", "low", "high"})),
    exp.In: (Compiler.member, frozenset({"this", "expressions"})),
    exp.Is: (Compiler.identity, _TWO),
    exp.Like: (Compiler.like, _TWO | {"negate"}),
    exp.ILike: (Compiler.like, _TWO | {"negate"}),
    exp.Escape: (Compiler.like, _TWO),
    exp.Case: (Compiler.case, frozenset({"this", "ifs", "default"})),
    exp.Coalesce: (Compiler.coalesce, frozenset({"this", "expressions"})),
    exp.Nullif: (Compiler.nullif, _TWO),
    **dict.fromkeys(_FUNCTIONS, (Compiler.function, _ONE)),
    exp.Round: (Compiler.round, frozenset({"this", "decimals"})),
    exp.Anonymous: (Compiler.anonymous, frozenset({"this", "expressions"})),
    exp.CurrentTimestamp: (Compiler.now, frozenset()),
    exp.Interval: (Compiler.interval, frozenset({"this", "unit"})),
    exp.Extract: (Compiler.part, _TWO),
    **dict.fromkeys((exp.Year, exp.Month, exp.Day, exp.Hour, exp.Minute, exp.Second), (Compiler.part, _ONE)),
    exp.Cast: (Compiler.cast, frozenset({"this", "to", "_type"})),
}
