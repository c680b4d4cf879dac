"""SQL's operators as closures over a row: logic, comparison, arithmetic, LIKE, CASE; and the table of every node.

What the operators do with values is in `analytics.sql_values`, functions are in `analytics.sql_functions`. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlglot import exp

from analytics import sql_values as sql
from analytics.sql_compiler import (
    FIELDS,
    NAMES,
    Compiled,
    Compiler,
    Nodes,
    Order,
    QueryError,
    Row,
    condition,
    constant,
)
from analytics.sql_functions import FUNCTIONS
from analytics.sql_values import Scalar

_Condition = Callable[[Row], bool | None]
_Holds = Callable[[Any, Any], bool]


def _column(compiler: Compiler, node: exp.Expression) -> Compiled:
    name = NAMES.get(node.name.lower())
    if name is None:
        hint = " (text is written in single quotes)" if node.this.args.get("quoted") else ""
        raise QueryError(
            f"there is no field {node.name[:60]!r}{compiler.place(node)}{hint}; the fields are "
            + ", ".join([*FIELDS, "result"])
        )
    compiler.used.add(name)
    return Compiled(operator.itemgetter(name), FIELDS[name])


def _literal(compiler: Compiler, node: exp.Expression) -> Compiled:
    text = str(node.this)
    value: Scalar = text
    if not node.args["is_string"]:
        value = sql.number(text)
        if value is None:
            raise compiler.unsupported(f"the number {text[:40]}", node)
    return constant(value)


def _boolean(compiler: Compiler, node: exp.Expression) -> Compiled:
    return constant(bool(node.this))


def _null(compiler: Compiler, node: exp.Expression) -> Compiled:
    return constant(None)


def _paren(compiler: Compiler, node: exp.Expression) -> Compiled:
    return compiler.value(node.this)


def _junction(compiler: Compiler, node: exp.Expression) -> Compiled:
    """AND and OR: a chain of them is one closure, however long."""
    kind = type(node)
    terms: list[_Condition] = []
    todo: list[exp.Expression] = [node]
    while todo:
        one = todo.pop()
        if type(one) is kind:
            todo += [one.args["expression"], one.this]
        else:
            terms.append(condition(compiler.value(one)))
    return Compiled(_all(terms) if kind is exp.And else _any(terms), is_truth=True)


def _negated(compiler: Compiler, node: exp.Expression) -> Compiled:
    inner, negation = compiler.value(node.this).run, sql.negation
    return Compiled(lambda row: negation(inner(row)), is_truth=True)


def _comparison(compiler: Compiler, node: exp.Expression) -> Compiled:
    left = compiler.value(node.this)
    right, order = compiler.against(left, node.this, node.args["expression"])
    holds, one, other, literal = _COMPARISONS[type(node)], left.run, right.run, right.literal
    if order is sql.order and type(literal) in _LIKE_KINDS:
        return Compiled(_beside_literal(one, holds, literal), is_truth=True)

    def run(row: Row) -> Scalar:
        known = order(one(row), other(row))
        return None if known is None else holds(known, 0)

    return Compiled(run, is_truth=True)


def _beside_literal(one: Callable[[Row], Scalar], holds: _Holds, literal: Scalar) -> Callable[[Row], Scalar]:
    """The same as `sql_values.order` says, straight where both are numbers or both are texts: so are nearly all."""
    kinds, order = _LIKE_KINDS[type(literal)], sql.order

    def run(row: Row) -> Scalar:
        known = one(row)
        if type(known) in kinds:
            # Only NaN is not itself.
            return holds(known, literal) if known == known else None
        place = order(known, literal)
        return None if place is None else holds(place, 0)

    return run


def _arithmetic(compiler: Compiler, node: exp.Expression) -> Compiled:
    left, right = compiler.value(node.this), compiler.value(node.args["expression"])
    act, one, other = _ARITHMETIC[type(node)], left.run, right.run
    is_time = type(node) in (exp.Add, exp.Sub) and left.is_time != right.is_time
    return Compiled(lambda row: act(one(row), other(row)), is_time)


def _negative(compiler: Compiler, node: exp.Expression) -> Compiled:
    inner, act = compiler.value(node.this).run, sql.negative
    return Compiled(lambda row: act(inner(row)))


def _between(compiler: Compiler, node: exp.Expression) -> Compiled:
    value = compiler.value(node.this)
    low, order_low = compiler.against(value, node.this, node.args["low"])
    high, order_high = compiler.against(value, node.this, node.args["high"])

    def run(row: Row) -> Scalar:
        known = value.run(row)
        first, second = order_low(known, low.run(row)), order_high(known, high.run(row))
        if (first is not None and first < 0) or (second is not None and second > 0):
            return False
        return None if first is None or second is None else True

    return Compiled(run, is_truth=True)


def _member(compiler: Compiler, node: exp.Expression) -> Compiled:
    value = compiler.value(node.this)
    others = [compiler.against(value, node.this, one) for one in node.expressions]

    def run(row: Row) -> Scalar:
        known, unknown = value.run(row), False
        for other, order in others:
            place = order(known, other.run(row))
            if place == 0:
                return True
            unknown = unknown or place is None
        return None if unknown else False

    return Compiled(run, is_truth=True)


def _identity(compiler: Compiler, node: exp.Expression) -> Compiled:
    """IS NULL, IS TRUE, IS FALSE; IS NOT … is NOT around it."""
    inner, what = compiler.value(node.this).run, node.args["expression"]
    if type(what) is exp.Null:
        return Compiled(lambda row: inner(row) is None, is_truth=True)
    if type(what) is exp.Boolean:
        wanted, truth = bool(what.this), sql.truth
        return Compiled(lambda row: truth(inner(row)) is wanted, is_truth=True)
    raise compiler.unsupported("IS with anything but NULL, TRUE and FALSE", node)


def _like(compiler: Compiler, node: exp.Expression) -> Compiled:
    escape = None
    if type(node) is exp.Escape:
        given = compiler.value(node.args["expression"]).literal
        if type(node.this) not in (exp.Like, exp.ILike) or not isinstance(given, str) or len(given) != 1:
            raise compiler.unsupported("ESCAPE with anything but one character after LIKE", node)
        escape, node = given, node.this
        compiler.check(node, _TWO | {"negate"})
    pattern = compiler.value(node.args["expression"]).literal
    if not isinstance(pattern, str):
        raise compiler.unsupported("LIKE with anything but a text in single quotes", node)
    try:
        matches = sql.like(pattern, escape, fold=type(node) is exp.ILike)
    except ValueError as exc:
        raise QueryError(f"LIKE {pattern[:60]!r}: {exc}{compiler.place(node)}") from None
    inner, text, negate = compiler.value(node.this).run, sql.text, bool(node.args.get("negate"))

    def run(row: Row) -> Scalar:
        known = text(inner(row))
        return None if known is None else matches(known) is not negate

    return Compiled(run, is_truth=True)


def _case(compiler: Compiler, node: exp.Expression) -> Compiled:
    given: exp.Expression | None = node.args.get("this")
    subject = None if given is None else compiler.value(given)
    tests: list[tuple[Callable[[Scalar, Row], bool | None], Callable[[Row], Scalar]]] = []
    for one in node.args["ifs"]:
        if subject is None or given is None:
            test = _tested(condition(compiler.value(one.this)))
        else:
            test = _equality(*compiler.against(subject, given, one.this))
        tests.append((test, compiler.value(one.args["true"]).run))
    default = node.args.get("default")
    otherwise = constant(None).run if default is None else compiler.value(default).run

    def run(row: Row) -> Scalar:
        known = None if subject is None else subject.run(row)
        for test, result in tests:
            if test(known, row):
                return result(row)
        return otherwise(row)

    return Compiled(run)


def _tested(test: _Condition) -> Callable[[Scalar, Row], bool | None]:
    return lambda subject, row: test(row)


def _equality(other: Compiled, order: Order) -> Callable[[Scalar, Row], bool | None]:
    run = other.run
    return lambda subject, row: order(subject, run(row)) == 0


def _all(terms: Sequence[_Condition]) -> Callable[[Row], Scalar]:
    def run(row: Row) -> Scalar:
        result: bool | None = True
        for term in terms:
            known = term(row)
            if known is False:
                return False
            result = None if known is None else result
        return result

    return run


def _any(terms: Sequence[_Condition]) -> Callable[[Row], Scalar]:
    def run(row: Row) -> Scalar:
        result: bool | None = False
        for term in terms:
            known = term(row)
            if known is True:
                return True
            result = None if known is None else result
        return result

    return run


#: Between two values that are alike, or between what `Order` says and 0.
_COMPARISONS: Mapping[type[exp.Expression], _Holds] = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}
#: By the type of a literal: the types that compare with it as they are. A bool is neither.
_LIKE_KINDS: Mapping[type, frozenset[type]] = {
    int: frozenset({int, float}),
    float: frozenset({int, float}),
    str: frozenset({str}),
}
_ARITHMETIC: Mapping[type[exp.Expression], Callable[[Scalar, Scalar], Scalar]] = {
    exp.Add: sql.add,
    exp.Sub: sql.subtract,
    exp.Mul: sql.multiply,
    exp.Div: sql.divide,
    exp.Mod: sql.modulo,
    exp.DPipe: sql.concatenate,
}

_TWO = frozenset({"this", "expression"})
_ONE = frozenset({"this"})

#: Every node that there is: what compiles it, and the arguments that it may have.
NODES: Nodes = {
    exp.Column: (_column, _ONE),
    exp.Literal: (_literal, frozenset({"this", "is_string"})),
    exp.Boolean: (_boolean, _ONE),
    exp.Null: (_null, frozenset()),
    exp.Paren: (_paren, _ONE),
    exp.And: (_junction, _TWO),
    exp.Or: (_junction, _TWO),
    exp.Not: (_negated, _ONE),
    **dict.fromkeys(_COMPARISONS, (_comparison, _TWO)),
    **dict.fromkeys(_ARITHMETIC, (_arithmetic, _TWO | {"typed", "safe"})),
    exp.Neg: (_negative, _ONE),
    exp.Between: (_between, frozenset({"this", "low", "high"})),
    exp.In: (_member, frozenset({"this", "expressions"})),
    exp.Is: (_identity, _TWO),
    **dict.fromkeys((exp.Like, exp.ILike), (_like, _TWO | {"negate"})),
    exp.Escape: (_like, _TWO),
    exp.Case: (_case, frozenset({"this", "ifs", "default"})),
    **FUNCTIONS,
}
