"""Selections in SQL: one ``SELECT … FROM … WHERE …`` over records, compiled once and asked of each.

Owns the statement: its limits, its clauses, the names after FROM. sqlglot reads the text, within limits that keep a
hostile one cheap; `analytics.sql_compiler` compiles the expressions. Which topics and records there are is the
job's to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import Parser, Tokenizer, TokenType, exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError

from analytics.sql_compiler import FIELDS, MAX_NESTING, NAMES, NOW, Compiler, Field, QueryError, Row, at, condition
from analytics.sql_expressions import NODES
from analytics.sql_values import Scalar

__all__ = ["FIELDS", "MAX_NESTING", "NOW", "Field", "QueryError", "Row", "Selection", "compile_query"]

#: A query longer or deeper than these is refused before it is read: the reader is recursive.
MAX_LENGTH = 8192
MAX_TOKENS = 1000
MAX_DEPTH = 24
#: NOT NOT …, - - …: nested as well, without parentheses.
MAX_PREFIXES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A compiled query."""

    text: str
    #: As written after FROM: ``*``, the name of a family of topics, or a topic.
    sources: tuple[str, ...]
    #: None is ``SELECT *``: the record as it is.
    fields: tuple[Field, ...] | None
    where: Callable[[Row], bool | None]
    #: The fields that the query names, and `NOW` if it asks for the time.
    used: frozenset[str]

    def takes(self, row: Row) -> bool:
        """Whether the condition is true; unknown is not."""
        return self.where(row) is True

    def project(self, row: Row) -> dict[str, Scalar]:
        """The selected fields of the row, by name and in order; all of them for ``SELECT *``."""
        if self.fields is None:
            return {name: row[name] for name in FIELDS}
        return {field.name: field.run(row) for field in self.fields}


def compile_query(query: str) -> Selection:
    """Read the query.

    Raises:
        QueryError: says what is wrong, or not supported, and where.
    """
    if len(query) > MAX_LENGTH:
        raise QueryError(f"the query is {len(query)} characters long, {MAX_LENGTH} are the most")
    sources, plain = _take_sources(query, _tokens(query))
    try:
        return _compile(query, sources, plain)
    except RecursionError:
        raise QueryError("the query is nested too deeply") from None


def _compile(query: str, sources: tuple[str, ...], plain: str) -> Selection:
    tree = _parse(plain)
    compiler = Compiler(plain, NODES)
    for name, given in tree.args.items():
        if given and name not in ("expressions", "from_", "where"):
            raise compiler.unsupported(_CLAUSES.get(name, name.upper().strip("_")), given)
    if "from_" not in tree.args:
        raise QueryError("the query cannot be read: what stands before FROM takes it for its own")
    table = tree.args["from_"].this
    if type(table) is not exp.Table or any(given for name, given in table.args.items() if name != "this"):
        raise compiler.unsupported("an alias or anything else after the topics", table)
    where = tree.args.get("where")
    test = condition(compiler.value(where.this)) if where is not None else lambda row: True
    fields = None
    if not (len(tree.expressions) == 1 and _is_star(tree.expressions[0])):
        fields = tuple(compiler.field(one) for one in tree.expressions)
        names = [field.name for field in fields]
        for name in names:
            if names.count(name) > 1:
                raise QueryError(f"two fields are named {name!r}: give one another name with AS")
    return Selection(
        text=query,
        sources=sources,
        fields=fields,
        where=test,
        used=frozenset(compiler.used),
    )


def _is_star(node: exp.Expression) -> bool:
    return type(node) is exp.Star and not any(node.args.values())


#: What people would call the parts of a SELECT that there are not.
_CLAUSES = {
    "joins": "JOIN",
    "laterals": "LATERAL",
    "group": "GROUP BY",
    "order": "ORDER BY",
    "with_": "WITH",
    "distinct": "DISTINCT",
    "hint": "a hint",
    "into": "INTO",
    "windows": "WINDOW",
    "locks": "FOR UPDATE",
}


def _read(query: str) -> list[Any]:
    """The query's words and signs. A field is a name, whatever else its word is: ``object < …`` would begin a type."""
    tokens = list(Tokenizer().tokenize(query))
    for token in tokens:
        if _word(token).lower() in NAMES:
            token.token_type = TokenType.VAR
    return tokens


def _tokens(query: str) -> list[Any]:
    try:
        tokens = _read(query)
    except TokenError as exc:
        raise QueryError(f"the query cannot be read: {exc}") from None
    if not tokens or tokens[0].text.upper() != "SELECT":
        raise QueryError("a query is SELECT … FROM … WHERE …, such as SELECT * FROM * WHERE value < 4")
    if len(tokens) > MAX_TOKENS:
        raise QueryError(f"the query has {len(tokens)} words and signs, {MAX_TOKENS} are the most")
    depth = prefixes = 0
    for token in tokens:
        word = _word(token)
        depth += (word in ("(", "[", "{", "CASE")) - (word in (")", "]", "}", "END"))
        prefixes = prefixes + 1 if word in ("NOT", "-", "+", "~") else 0
        if depth > MAX_DEPTH or prefixes > MAX_PREFIXES:
            raise QueryError(f"the query is nested too deeply at {at(token.line, token.col)}; {MAX_DEPTH} is the most")
        if word in ("UNION", "INTERSECT"):
            raise QueryError(f"{word} is not supported at {at(token.line, token.col)}")
        if word == ";" and token is not tokens[-1]:
            raise QueryError(f"there is more than one statement: ';' at {at(token.line, token.col)}")
    return tokens


def _word(token: Any) -> str:
    """What the token says, if it is no quoted text or name, which may say anything."""
    return "" if token.token_type in (TokenType.STRING, TokenType.IDENTIFIER) else token.text.upper()


_SOURCE = re.compile(r"""\s*(?:(\*)|"([^"]+)"|`([^`]+)`|([A-Za-z0-9._-]+))""", re.ASCII)


def _take_sources(query: str, tokens: Sequence[Any]) -> tuple[tuple[str, ...], str]:
    """The names after FROM, and the query with one plain name for them, everything else in its place.

    Topics have dots and hyphens in their names, and ``*`` is none of SQL's: the parser would not read them.
    """
    depth = 0
    for token in tokens:
        word = _word(token)
        depth += (word == "(") - (word == ")")
        if depth == 0 and word == "FROM":
            break
    else:
        raise QueryError("there is no FROM: say SELECT … FROM *, or the name of a topic")
    sources: list[str] = []
    start = at = token.end + 1
    while True:
        found = _SOURCE.match(query, at)
        if found is None:
            raise QueryError(
                f"after FROM come * or names of topics, not {query[at : at + 20].strip()!r}"
                " (subqueries are not supported)"
            )
        sources.append(next(group for group in found.groups() if group is not None))
        at = found.end()
        comma = re.compile(r"\s*,").match(query, at)
        if comma is None:
            break
        at = comma.end()
    # Lines and columns stay what they were, but for FROM*WHERE, where there is no room.
    blank = re.sub(r"[^\n]", " ", query[start:at])
    room = re.search("  ", blank)
    blank = f" t {blank}" if room is None else f"{blank[: room.start()]} t{blank[room.end() :]}"
    return tuple(sources), f"{query[:start]}{blank}{'' if query[at : at + 1].isspace() else ' '}{query[at:]}"


def _parse(query: str) -> exp.Select:
    try:
        trees = Parser(error_level=ErrorLevel.IMMEDIATE).parse(_read(query), query)
    except ParseError as exc:
        told = exc.errors[0] if exc.errors else {}
        words = re.sub(r"<class '[\w.]*\.(\w+)'>", r"\1", str(told.get("description") or "it is incomplete"))
        words = words.partition(" but got <Token")[0]
        near = f", near {told['highlight']!r}" if told.get("highlight") else ""
        place = at(told.get("line"), told.get("col"))
        raise QueryError(f"the query cannot be read at {place}{near}: {words}") from None
    except RecursionError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a parser of others trips over is the query's fault
        raise QueryError(f"the query cannot be read: {type(exc).__name__}: {exc}") from None
    if len(trees) != 1 or type(trees[0]) is not exp.Select:
        raise QueryError("only one SELECT is supported: no UNION, and nothing that is no SELECT")
    return trees[0]
