"""What every command has in common: settings file and environment, expected errors in words, exit codes.

Owns the three options that each command gets (``--config``, ``--debug``, ``--log-level``) and the names of the
environment variables. Knows no command.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from headwater.exits import Exit, Stop, expected
from headwater.log_level import LogLevel
from headwater.settings import GENERAL, NOT_IN_FILE, Form, SettingsError, SettingsFile, as_typed, find, load
from headwater.terminal import printable

#: Where the parsed settings file lies in a click context.
SETTINGS = "headwater.settings"

#: Tables that a command takes from the file beside its options.
TABLES = {"gateway": frozenset({"endpoints"})}

#: Other names under which the general environment variable of an option is found.
ALSO = {
    "gateway id": ("HEADWATER_GATEWAY",),
    "gateway credentials": ("HEADWATER_CREDENTIALS",),
    # The commands of `headwater credentials`; no other one has such an option.
    **{f"{name} store": ("HEADWATER_CREDENTIALS",) for name in ("add", "list", "remove", "import")},
    # A gateway, and the commands of `headwater models`; no other ones of these names have it.
    **{f"{name} definitions": ("HEADWATER_DEFINITIONS",) for name in ("gateway", "list", "show", "import")},
}


def _read_settings(ctx: typer.Context, given: Path | None) -> Path | None:
    """Make the settings file this command's defaults. Runs before any other option is looked at (is_eager)."""
    if ctx.resilient_parsing:
        return given
    root = ctx.find_root()
    given = given or root.meta.get("headwater.config")
    try:
        path = find(given, Path.cwd(), os.environ)
        if path is None:
            return None
        settings = load(path, _commands(root.command), TABLES)
        options = _options(ctx.command)
        ctx.default_map = {
            options[name].name: as_typed(path, name, value, _form(options[name]))
            for name, value in settings.defaults(" ".join(_words(ctx)), frozenset(options)).items()
            if name in options
        }
    except SettingsError as exc:
        hint = " (the file of the sinks is given with --sinks)" if "sinks" in _options(ctx.command) else ""
        raise typer.BadParameter(f"{exc}{hint}") from exc
    ctx.meta[SETTINGS] = settings
    return path


def _words(ctx: Any) -> list[str]:
    return [] if ctx.parent is None else [*_words(ctx.parent), ctx.info_name]


def _commands(command: Any, words: tuple[str, ...] = ()) -> dict[str, frozenset[str]]:
    """The option names of every command below ``command`` by its name: ``{"kafka start": {"name", "port"}}``."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return {" ".join(words): frozenset(_options(command))}
    found: dict[str, frozenset[str]] = {}
    for name, child in inner.items():
        found |= _commands(child, (*words, name))
    return found


def _options(command: Any) -> dict[str, Any]:
    """The options of a command that may stand in a settings file, by their names there."""
    options = {option_name(param.opts, param.name): param for param in command.params if _is_option(param)}
    return {name: param for name, param in options.items() if name not in NOT_IN_FILE}


def _is_option(param: Any) -> bool:
    return bool(param.param_type_name == "option")


def _form(option: Any) -> Form:
    return Form.FLAG if option.is_flag else Form.LIST if option.multiple else Form.TEXT


def option_name(flags: Sequence[object], otherwise: str) -> str:
    """An option's name in environment and file: its long flag's (``--dir``), whatever the code calls it."""
    long = next((flag for flag in flags if isinstance(flag, str) and flag.startswith("--")), otherwise)
    # ``--insecure/--no-insecure`` is one option.
    return long.partition("/")[0].lstrip("-").replace("-", "_")


def settings_file(ctx: typer.Context) -> SettingsFile | None:
    """The settings file of this run, if there is one."""
    found = ctx.meta.get(SETTINGS)
    return found if isinstance(found, SettingsFile) else None


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file (TOML); else ./headwater.toml, else ~/.config/headwater/config.toml.",
        is_eager=True,
        callback=_read_settings,
        rich_help_panel="Everywhere",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Everywhere")
]
LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", help="How much the processes log.", rich_help_panel="Everywhere")
]

_EVERYWHERE = (
    inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, annotation=ConfigOption, default=None),
    inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, annotation=DebugOption, default=False),
    inspect.Parameter("log_level", inspect.Parameter.KEYWORD_ONLY, annotation=LogLevelOption, default=LogLevel.INFO),
)


def command(
    app: typer.Typer, name: str, *, group: str = "", logs: bool = False, panel: str | None = None, dashes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of ``app``: its parameters are options, its docstring is the help.

    A parameter whose type is a dataclass (`headwater.options.Where`) stands for one option a field.

    ``group`` is the name of the group that ``app`` is ("kafka" for ``headwater kafka start``). With ``logs`` the
    process logs (gateway, replicate, ...); other commands speak by their output only. With ``dashes`` an argument may
    begin with one, as negative numbers do.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        together: dict[str, Any] = {
            own.name: own.annotation for own in signature.parameters.values() if is_dataclass(own.annotation)
        }
        parameters = [
            _in_environment(parameter, group, name)
            for own in (*signature.parameters.values(), *_EVERYWHERE)
            for parameter in (_options_of(own.annotation) if own.name in together else [own])
        ]
        # Called by name only; then one without a default may follow one that has it.
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]

        @functools.wraps(function)
        def run(**given: Any) -> None:
            given.pop("config")
            for parameter, kind in together.items():
                given[parameter] = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            debug, level = given.pop("debug"), given.pop("log_level")
            with told(debug=debug or os.environ.get("HEADWATER_DEBUG") in ("1", "true", "yes")):
                if logs:
                    from headwater.logs import set_up

                    set_up(level)
                elif not debug:
                    # Kafka's client complains of every attempt; what it comes to is told once, as an error.
                    logging.getLogger("headwater.kafka").addHandler(logging.NullHandler())
                function(**given)

        del run.__wrapped__  # set by functools.wraps; it would hide the signature below
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        context = {"ignore_unknown_options": True} if dashes else {}
        app.command(name, help=_help(function), rich_help_panel=panel, context_settings=context)(run)
        return function

    return register


def _options_of(kind: type) -> list[inspect.Parameter]:
    """The fields of a dataclass of options, as parameters."""
    return list(inspect.signature(kind, eval_str=True).parameters.values())


def _help(function: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, so that it wraps; examples stay as they are."""
    # Else a table of the settings file is taken for markup, and left out.
    paragraphs = re.sub(r"\[(?=[a-z])", r"\\[", inspect.getdoc(function) or "")
    return "\n\n".join(one if one.startswith("\b") else one.replace("\n", " ") for one in paragraphs.split("\n\n"))


def _in_environment(parameter: inspect.Parameter, group: str, name: str) -> inspect.Parameter:
    """The parameter with its environment variables.

    HEADWATER_<COMMAND>_<OPTION>, and after it HEADWATER_<OPTION> for general ones, which alone is in the help.
    """
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, info = get_args(parameter.annotation)
    if not isinstance(info, typer.models.OptionInfo):
        return parameter
    info = copy.copy(info)
    # In an Annotated the first flag is where a default would stand.
    option_key = option_name((info.default, *(info.param_decls or ())), parameter.name)
    option = option_key.upper()
    command_name = "_".join(word for word in (group, name) if word).upper().replace("-", "_")
    names = [f"HEADWATER_{command_name}_{option}"]
    if option_key in GENERAL or option_key in ("config", "debug"):
        names.append(f"HEADWATER_{option}")
        info.help = f"{info.help} (HEADWATER_{option})"
    names.extend(ALSO.get(f"{name} {option_key}", ()))
    info.envvar = names
    info.show_envvar = False
    return parameter.replace(annotation=Annotated[kind, info])


@contextlib.contextmanager
def told(*, debug: bool) -> Iterator[None]:
    """Tell an expected error in words and end with its exit code; a bug too, with the way to its traceback."""
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read us (head, less) has had enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.OK) from None
    except Exception as exc:
        if debug:
            raise
        if isinstance(exc, typer.TyperException):
            raise
        known = expected(exc)
        if known is None:
            complain(f"{type(exc).__name__}: {exc}\nThis is a bug in headwater; --debug shows where.")
            raise typer.Exit(Exit.BUG) from exc
        code, words = known
        complain(words)
        raise typer.Exit(code) from exc


def complain(words: str) -> None:
    """An error in words, on stderr."""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(printable(words, keep="\n\t"), err=True)


def ask(yes: bool, what: str) -> None:
    """Go on only if somebody at the terminal says so, or has said ``--yes``.

    Raises:
        Stop: nobody can be asked, or the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Stop(Exit.USAGE, f"{what}: nobody can be asked here; say --yes to do it")
    if not typer.confirm(f"{what}. Do it?"):
        raise Stop(Exit.REFUSED, "nothing was changed")


class Patience:
    """What somebody who follows is told of a Kafka that is away: once that it is, and once that it is over."""

    def __init__(self) -> None:
        self._said: str | None = None

    def with_kafka(self, silence: str | None) -> None:
        """``silence`` is why it does not answer now, or None."""
        if silence is not None and self._said is None:
            typer.echo(printable(f"waiting for Kafka: {silence}"), err=True)
        elif silence is None and self._said is not None:
            typer.echo("Kafka answers again", err=True)
        self._said = silence
