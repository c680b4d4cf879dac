"""Which sinks a command is about: those of a configuration file, or one of them, or SQLite by its flags.

Owns the words for what is wrong with the file; what may stand in it is `connectors.sink_settings`.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.exits import Exit, Stop

if TYPE_CHECKING:
    from connectors.kafka import Cluster
    from connectors.sink_settings import SinkSettings
    from connectors.sinks import SinkKind

#: Where the sinks are configured, if nothing else is said.
SINKS_FILE = Path("sinks.toml")


def _sink_names(incomplete: str) -> list[str]:
    from connectors.sinks import SINKS

    return [name for name in sorted(SINKS) if name.startswith(incomplete)]


SinkNameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The sink's name; see `headwater sink list`.", autocompletion=_sink_names)
]


SinkOption = Annotated[
    str | None,
    typer.Option(
        "--sink",
        metavar="NAME",
        autocompletion=_sink_names,
        help="The sink's name, or where the file has two of a kind its group.",
    ),
]


SinksOption = Annotated[
    Path | None,
    typer.Option("--sinks", metavar="FILE", help="The file of `headwater sink run`; else ./sinks.toml."),
]
SqliteFileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Of the sink sqlite, without a file of sinks.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSink:
    """The options of a command that works with one sink: its name in the file of the sinks, or SQLite's own flags."""

    sink: SinkOption = None
    sinks: SinksOption = None
    file: SqliteFileOption = None
    max_size_mb: Annotated[
        float | None, typer.Option("--max-size-mb", min=0.1, help="Of the sink sqlite, with --file.")
    ] = None
    definitions: Annotated[
        Path | None, typer.Option("--definitions", metavar="DIR", help="Of the sink sqlite, with --file.")
    ] = None


def known_sink(name: str) -> SinkKind:
    """The row of `SINKS`.

    Raises:
        Stop: there is no such sink.
    """
    from connectors.sinks import SINKS

    if name in SINKS:
        return SINKS[name]
    near = difflib.get_close_matches(name, SINKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise Stop(Exit.USAGE, f"there is no sink {name!r}; {hint}there are: {', '.join(sorted(SINKS))}")


def sinks_of(file: Path, gateway: str | None, kafka: Cluster) -> list[SinkSettings]:
    """The sinks of a file, at least one.

    Raises:
        Stop: it is not there, or not right; the words name the file, the table and the key.
    """
    from connectors.sink_settings import sinks_from_toml
    from connectors.sinks import SinkConfigError

    try:
        text = file.read_text("utf-8")
    except FileNotFoundError as exc:
        raise Stop(
            Exit.USAGE, f"there is no file {file}; `headwater sink describe NAME > {file}` makes one to begin with"
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise Stop(Exit.USAGE, f"{file} cannot be read: {why}") from exc
    try:
        return sinks_from_toml(text, gateway=gateway, kafka=kafka, environment=os.environ)
    except SinkConfigError as exc:
        raise Stop(Exit.USAGE, f"{file}: {exc}") from exc


def chosen(which: OneSink, gateway: str | None, kafka: Cluster) -> SinkSettings:
    """The one sink that the options name; ``gateway`` goes before that of its table.

    Raises:
        Stop: there is none, or more than one, or what is said of it is wrong.
    """
    if which.file is not None:
        return _sqlite(which, which.file, gateway, kafka)
    if which.max_size_mb is not None or which.definitions is not None:
        raise Stop(
            Exit.USAGE, "--max-size-mb and --definitions go with --file; else they stand in the file of the sinks"
        )
    if which.sinks is None and not SINKS_FILE.exists():
        if which.sink is not None:
            known_sink(which.sink)
        raise Stop(
            Exit.USAGE,
            "where is the store? Give the file of the sinks with --sinks (there is no ./sinks.toml; "
            f"`headwater sink describe {which.sink or 'NAME'} > sinks.toml` makes one), or --file for SQLite",
        )
    file = which.sinks or SINKS_FILE
    every = sinks_of(file, gateway, kafka)
    found = [one for one in every if which.sink in (None, one.sink, one.group)]
    if len(found) != 1:
        has = ", ".join(one.sink + (f" (group {one.group})" if one.group else "") for one in every)
        wanted = (
            "say which sink with --sink" if which.sink is None else f"--sink {which.sink} fits {len(found) or 'none'}"
        )
        more = "; a group tells two of a kind apart" if len(found) > 1 else ""
        raise Stop(Exit.USAGE, f"{file}: {wanted}; it has: {has}{more}")
    return found[0] if gateway is None else replace(found[0], gateway=gateway)


def _sqlite(which: OneSink, file: Path, gateway: str | None, kafka: Cluster) -> SinkSettings:
    from connectors.sink_settings import SinkSettings

    if which.sinks is not None or which.sink not in (None, "sqlite"):
        raise Stop(Exit.USAGE, "--file is the sink sqlite; other sinks are configured in a file of sinks (--sinks)")
    if gateway is None:
        raise Stop(Exit.USAGE, "whose records? Say --gateway")
    options = sqlite_options(file, which.max_size_mb, which.definitions)
    return SinkSettings(sink="sqlite", gateway=gateway, kafka=kafka, options=options)


def sqlite_options(file: Path, max_size_mb: float | None, definitions: Path | None) -> dict[str, object]:
    """The options of the sink sqlite that its flags give.

    Raises:
        Stop: there can be no such file.
    """
    if not file.absolute().parent.is_dir() or file.is_dir():
        why = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise Stop(Exit.CANNOT_START, f"--file {file} cannot be used: {why}")
    told: dict[str, object | None] = {"file": file, "max_size_mb": max_size_mb, "definitions": definitions}
    return {name: value for name, value in told.items() if value is not None}
