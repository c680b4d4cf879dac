"""A user's own Python file: ``on_join(a, b)`` and ``ingest(record)``, loaded, called, and what they give back.

Owns the errors: a file that cannot be used is told with its line before anything is read from Kafka, and what a
function raises while the job runs is a `UserCodeError`, which costs the record and not the job. The code runs in the
job's own process with its rights: whoever may name the file may do what the job may.
"""

from __future__ import annotations

import inspect
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any, NamedTuple

from analytics.job import JobConfigError, PartlyDone
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.path import Path, PathError

#: Observations that one call may make.
MOST_RESULTS = 100
#: Characters of the texts of a reading that ``ingest`` makes, its names and its value: many are kept in one state.
MOST_TEXT = 10_000
_INT64 = range(-(2**63), 2**63)


class UserCodeError(PartlyDone):
    """A function of the user's raised, or gave back what cannot be used; names the function and the line."""


class Reading(NamedTuple):
    """What the functions get: one value of one series; ``time`` is its event time in epoch milliseconds."""

    ep: str
    path: str
    value: float | int | bool | str
    time: int
    server_id: str


class Derived(NamedTuple):
    """What ``on_join`` made: a value and the path where it is observed."""

    path: Path
    type: ResourceType
    value: float | int | bool | str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCode:
    """The functions of one file; make it with `load`."""

    file: str
    on_join: Callable[..., Any]
    ingest: Callable[[Reading], Any] | None

    def taken(self, reading: Reading) -> Sequence[Reading]:
        """What ``ingest`` makes of a reading: nothing for None, itself with the value of a number, or other readings.

        Raises:
            UserCodeError: it raised, or gave something else.
        """
        if self.ingest is None:
            return (reading,)
        given = self._call("ingest", self.ingest, reading)
        return list(self._readings(reading, given if isinstance(given, list) else [given]))

    def _readings(self, reading: Reading, given: Sequence[Any]) -> Iterator[Reading]:
        if len(given) > MOST_RESULTS:
            raise self._error("ingest", f"gave {len(given)} readings, {MOST_RESULTS} are the most")
        for one in given:
            if one is None:
                continue
            if isinstance(one, Reading):
                time = _plain(one.time)
                if not (type(time) is int and time in _INT64 and isinstance(one.ep, str) and one.ep):
                    raise self._error("ingest", f"gave a reading without an endpoint or a time: {_short(one)}")
                if not isinstance(one.server_id, str) or _problem(one.server_id):
                    raise self._error("ingest", f"gave a reading of no server: {_short(one.server_id)}")
                try:
                    path = str(Path.parse(one.path))
                except (PathError, AttributeError) as exc:
                    raise self._error("ingest", f"gave a reading of no path: {exc}") from exc
                one = one._replace(path=path, value=_plain(one.value), time=time)
            elif isinstance(plain := _plain(one), float | int | str):
                one = reading._replace(value=plain)
            else:
                raise self._error("ingest", f"gave {_short(one)}; None, a number, a text or readings are expected")
            if type(one.value) not in _KEPT:
                raise self._error("ingest", f"gave {_short(one.value)}; a number, a text or a boolean is expected")
            if problem := _problem(one.value):
                raise self._error("ingest", f"gave {problem}")
            texts = (one.ep, one.path, one.server_id, one.value)
            if (length := sum(len(text) for text in texts if isinstance(text, str))) > MOST_TEXT:
                raise self._error("ingest", f"gave a reading of {length} characters, {MOST_TEXT} are the most")
            yield one

    def joined(self, readings: Sequence[Reading | None], default: Path) -> Sequence[Derived]:
        """What ``on_join`` makes of readings that belong together: a value is observed at ``default``.

        A dict has a value by path: of a resource (``"/3303/100/5700"``), or by resource id (``5700``) of ``default``'s
        object instance. A list has any of these; None is nothing.

        Raises:
            UserCodeError: it raised, or gave something else.
        """
        given = self._call("on_join", self.on_join, *readings)
        if type(given) is float and math.isfinite(given):
            # By far the most common: what is below says the same.
            return (Derived(default, ResourceType.FLOAT, given),)
        out = list(self._derived(given, default))
        if len(out) > MOST_RESULTS:
            raise self._error("on_join", f"gave {len(out)} values, {MOST_RESULTS} are the most")
        return out

    def _derived(self, given: Any, default: Path) -> Iterator[Derived]:
        match given:
            case None:
                return
            case list():
                for one in given[: MOST_RESULTS + 1]:
                    if isinstance(one, list):
                        raise self._error("on_join", "gave a list within a list")
                    yield from self._derived(one, default)
            case Mapping():
                for where, value in given.items():
                    if value is not None:
                        yield self._value(value, self._path(where, default))
            case _:
                yield self._value(given, default)

    def _path(self, where: Any, default: Path) -> Path:
        try:
            path = Path.parse(str(where))
            if path.depth == 1:
                path = default.parent.child(*path.ids) if default.depth == 3 else default
        except PathError as exc:
            raise self._error("on_join", f"gave a value by no path: {exc}") from exc
        if path.depth not in (3, 4):
            raise self._error("on_join", f"gave a value for {str(where)[:60]!r}: that is no resource's path")
        return path

    def _value(self, value: Any, path: Path) -> Derived:
        value = _plain(value)
        kind = _TYPES.get(type(value))
        problem = f"{_short(value)}, of no type that a resource has" if kind is None else _problem(value)
        if kind is None or problem:
            raise self._error("on_join", f"gave {problem}")
        return Derived(path, kind, value)

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (Exception, SystemExit) as exc:
            lines = [one.lineno for one in traceback.extract_tb(exc.__traceback__) if one.filename == self.file]
            where = f", line {lines[-1]}" if lines else ""
            raise UserCodeError(f"{name}() in {self.file}{where}: {type(exc).__name__}: {exc!s:.300}") from exc

    def _error(self, name: str, words: str) -> UserCodeError:
        return UserCodeError(f"{name}() in {self.file} {words}")


#: By exact type: bool is an int as well.
_TYPES: Mapping[type, ResourceType] = {
    bool: ResourceType.BOOLEAN,
    int: ResourceType.INTEGER,
    float: ResourceType.FLOAT,
    str: ResourceType.STRING,
    bytes: ResourceType.OPAQUE,
}


#: What a reading may hold on its way through the join.
_KEPT = frozenset({bool, int, float, str})


def _plain(value: Any) -> Any:
    """``value`` as Python's own number where it is another kind of one: numpy's, a Fraction, a Decimal.

    What only can be made a number (a list of one, numpy's truth values) is none, and stays what it is.
    """
    if type(value) in _TYPES:
        return value
    try:
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real | Decimal):
            return float(value)
    except OverflowError:
        return math.inf
    except (ArithmeticError, TypeError, ValueError):
        return math.nan
    return value


def _problem(value: Any) -> str | None:
    """Why a value of a good type cannot be carried."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is no finite number"
    if isinstance(value, int) and value not in _INT64:
        return "an integer beyond 64 bits"
    if isinstance(value, str) and not value.isprintable():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "a text with half a character"
    return None


def _short(value: Any) -> str:
    try:
        return f"{type(value).__name__} {value!r:.80}"
    except Exception:  # noqa: BLE001 - a repr of the user's
        return type(value).__name__


def load(file: FilePath, series: int) -> UserCode:
    """The functions in ``file``; ``on_join`` must take ``series`` readings, ``ingest`` may be missing.

    Raises:
        JobConfigError: it cannot be read, is no Python (with the line), raises while it is loaded, or a function is
            missing or takes something else.
    """
    name = str(file)
    try:
        code = compile(file.read_bytes(), name, "exec")
    except OSError as exc:
        raise JobConfigError(f"{name} cannot be read: {exc.strerror or exc}") from exc
    except SyntaxError as exc:
        raise JobConfigError(f"{name}, line {exc.lineno}: {exc.msg}: {(exc.text or '').strip()[:80]}") from exc
    except ValueError as exc:
        raise JobConfigError(f"{name} is no Python file: {exc}") from exc
    module = ModuleType(f"headwater_user_{abs(hash(name))}")
    module.__file__ = name
    # Dataclasses and the like look their own module up.
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as exc:
        lines = [one.lineno for one in traceback.extract_tb(exc.__traceback__) if one.filename == name]
        where = f", line {lines[-1]}" if lines else ""
        raise JobConfigError(f"{name}{where}: {type(exc).__name__}: {exc}") from exc
    on_join = _function(module, name, "on_join", series)
    if on_join is None:
        raise JobConfigError(f"{name} has no function on_join: write def on_join(a, b): return a.value - b.value")
    return UserCode(file=name, on_join=on_join, ingest=_function(module, name, "ingest", 1))


def _function(module: ModuleType, file: str, name: str, arguments: int) -> Callable[..., Any] | None:
    found: Callable[..., Any] | None = getattr(module, name, None)
    if found is None:
        return None
    if not callable(found):
        raise JobConfigError(f"{file}: {name} is no function")
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        raise JobConfigError(f"{file}: {name} must be a plain function, neither async nor with yield")
    try:
        inspect.signature(found).bind(*[None] * arguments)
    except TypeError as exc:
        raise JobConfigError(
            f"{file}: {name}{inspect.signature(found)} must take {arguments} arguments: {exc}"
        ) from exc
    except ValueError:
        pass  # a function in C does not tell what it takes
    return found
