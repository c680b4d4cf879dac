"""Compiling SQL's expressions: what a query sees, the errors, and the walk over sqlglot's tree by a table of its nodes.

sqlglot read the text; here each node that the table knows becomes a closure over a row, once, and everything else is an
error that names it and its place: no text is ever executed. The table is `analytics.sql_expressions.NODES`. Pure:
``now()`` is a field of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

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
NAMES = {name.lower(): name for name in FIELDS} | {"result": "value"}

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


class Compiled(NamedTuple):
    """A compiled expression."""

    run: Callable[[Row], Scalar]
    is_time: bool = False
    #: Told apart from computed values: a literal's value is known now.
    literal: Scalar = None
    #: Whether it is never anything but true, false and unknown.
    is_truth: bool = False


Order = Callable[[Scalar, Scalar], int | None]


class Compiler:
    """Turns one query's nodes into closures."""

    def __init__(self, query: str, nodes: Nodes) -> None:
        self._query, self._nodes = query, nodes
        #: The fields that the query names, and `NOW`.
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
            name = "result" if lower == "result" else NAMES[lower]
        return Field(name, value.run)

    def value(self, node: exp.Expression) -> Compiled:
        """The closure of any expression."""
        known = self._nodes.get(type(node))
        if known is None:
            name = f"the function {node.name.upper()}()" if type(node) is exp.Anonymous else called(node)
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
                raise self.unsupported(f"{name.strip('_').upper()} of {called(node)}", node)

    def against(self, left: Compiled, beside: exp.Expression, node: exp.Expression) -> tuple[Compiled, Order]:
        """What ``left`` is compared with, and how the two are ordered: beside a time, a text is one."""
        right, order, moment = self.value(node), sql.order, sql.moment
        if left.is_time:
            return self.as_time(right, node), order
        if right.is_time:
            self.as_time(left, beside)
            return right, lambda one, other: order(moment(one), other)
        return right, order

    def as_time(self, value: Compiled, node: exp.Expression) -> Compiled:
        if value.is_time:
            return value
        moment = sql.moment
        if isinstance(value.literal, str):
            known = moment(value.literal)
            if known is None:
                raise QueryError(f"{value.literal[:60]!r} is no time such as '2026-01-31 12:00'{self.place(node)}")
            return Compiled(lambda row: known, True)
        inner = value.run
        return Compiled(lambda row: moment(inner(row)), True)


#: What compiles a node, and the arguments that it may have.
Nodes = Mapping[type[exp.Expression], tuple[Callable[[Compiler, Any], Compiled], frozenset[str]]]


def called(node: exp.Expression) -> str:
    return type(node).__name__.upper()


def constant(value: Scalar) -> Compiled:
    return Compiled(lambda row: value, literal=value, is_truth=isinstance(value, bool))


def condition(value: Compiled) -> Callable[[Row], bool | None]:
    """The expression as true, false or unknown."""
    run, truth = value.run, sql.truth
    # What is a truth value already is known by its node.
    return cast(Callable[[Row], bool | None], run) if value.is_truth else lambda row: truth(run(row))
