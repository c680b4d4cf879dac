"""``headwater analytics``: run the jobs on the stream, and say which there are.

The jobs' own options become flags here, one a field of their model; what they mean is the job's.
"""

from __future__ import annotations

import errno
import inspect
import socket
import sys
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperGroup

from headwater import reach
from headwater.commands.base import command
from headwater.exits import Exit, Stop
from headwater.options import (
    CLOUD,
    GatewayOption,
    KafkaOption,
    KafkaTlsOption,
    MetricsHostOption,
    MetricsKeysOption,
    MetricsOption,
    Output,
    OutputOption,
)

if TYPE_CHECKING:
    from analytics.job import JobKind

PANEL = "Processes"

_NO_SUCH_PORT = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(help="Windows, statistics, alerts, joins and filters on the stream.", no_args_is_help=True)
    command(group, "list", group="analytics")(list_)
    command(group, "describe", group="analytics")(describe)
    group.add_typer(
        typer.Typer(help="Run a job until it is told to stop; NAME --help shows its options.", no_args_is_help=True),
        name="run",
        cls=_Jobs,
    )
    app.add_typer(group, name="analytics", rich_help_panel=PANEL)


def list_(output: OutputOption = Output.TABLE) -> None:
    """Show which jobs there are, what they do and where their results go.

    \b
    Examples:
    headwater analytics list
    headwater analytics list --output json | jq -r '.[].name'
    """
    from headwater.output import console, print_json, table

    kinds = _jobs().values()
    if output is Output.JSON:
        print_json(
            [
                {
                    "name": kind.name,
                    "does": kind.summary,
                    "output": kind.output,
                    "options": [field.alias or name for name, field in kind.options.model_fields.items()],
                }
                for kind in kinds
            ]
        )
        return
    console().print(table(("job", "does", "writes"), [(kind.name, kind.summary, kind.output) for kind in kinds]))


def _names(incomplete: str) -> list[str]:
    return [name for name in _jobs() if name.startswith(incomplete)]


def describe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The job; see `headwater analytics list`.", autocompletion=_names)
    ],
) -> None:
    """Show a job's options as the file that `headwater analytics run NAME --options FILE` takes.

    \b
    Examples:
    headwater analytics describe max-temperature
    headwater analytics describe max-temperature > windows.toml
    """
    import difflib

    jobs = _jobs()
    if name not in jobs:
        near = difflib.get_close_matches(name, jobs, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise Stop(Exit.USAGE, f"there is no job {name!r}; {hint}there are: {', '.join(jobs)}")
    kind = jobs[name]
    typer.echo(
        f"# The job {name}, for: headwater analytics run {name} --gateway GW --kafka HOST:PORT --options FILE\n"
        f"# {kind.summary} It writes {kind.output}.\n"
        "# Each option is a flag as well, which beats the file. The page docs/analytics.md says more.\n\n"
        f"{kind.sample}",
        nl=False,
    )


# ---- run


class _Jobs(TyperGroup):
    """The jobs as commands. They are looked up when one is asked for: their libraries take a moment to load."""

    _made: dict[str, Any] | None = None

    @property
    def commands(self) -> dict[str, Any]:
        if self._made is None:
            app = typer.Typer(no_args_is_help=True)
            for kind in _jobs().values():
                command(app, kind.name, group="analytics run", logs=True)(_runner(kind))
            self._made = dict(getattr(typer.main.get_group(app), "commands", {}))
        return self._made

    @commands.setter
    def commands(self, _given: Mapping[str, Any]) -> None:
        """There are no others."""


def _jobs() -> Mapping[str, JobKind]:
    from analytics.jobs import JOBS

    return JOBS


def _common(
    gateway: GatewayOption,
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Consumer group; a new name begins at the earliest record. Default: one for each gateway, job, and "
            "options that make it another one.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Where its state is; .headwater/GW/analytics/GROUP when left out."),
    ] = None,
    options: Annotated[
        Path | None,
        typer.Option("--options", metavar="FILE", help="The job's options as TOML; `headwater analytics describe`."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Do not show the results, which also go to the topic.")
    ] = False,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """The parameters that all jobs have."""


def _runner(kind: JobKind) -> Callable[..., None]:
    """The command of a job: the parameters of all jobs, then its own."""
    own = [_flag(name, field) for name, field in kind.options.model_fields.items()]
    common = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(_common, eval_str=True).parameters.values()
    ]

    def run(**given: Any) -> None:
        # By the name that it has in a file, so that the flag beats it.
        mine = {field.alias or name: given.pop(f"job_{name}") for name, field in kind.options.model_fields.items()}
        _run(kind, {name: value for name, value in mine.items() if value not in (None, [], False)}, **given)

    run.__doc__ = _help(kind)
    run.__signature__ = inspect.Signature([*common, *own])  # type: ignore[attr-defined]  # read by inspect
    return run


def _help(kind: JobKind) -> str:
    start = f"headwater analytics run {kind.name} --gateway rock64"
    examples = "\n".join(f"{start} {more}".rstrip() for more in kind.examples)
    return (
        f"{kind.summary}\n\nResults go to {kind.output}, and are shown here: lines on a terminal, JSON when piped. "
        "Start the same command again, here or elsewhere, and the instances share the work.\n\n"
        f"\b\nExamples:\n{examples}"
    )


def _flag(name: str, field: Any) -> inspect.Parameter:
    """A field of a job's options as a flag; its value is looked at with those of the file."""
    kinds = {field.annotation, *get_args(field.annotation)}
    flag = f"--{(field.alias or name).replace('_', '-')}"
    several = list in kinds or tuple in kinds or any(get_origin(kind) in (list, tuple) for kind in kinds)
    annotation: Any = bool if bool in kinds else list[str] | None if several else str | None
    info = typer.Option(flag, help=field.description, rich_help_panel="Of the job")
    return inspect.Parameter(
        f"job_{name}",
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[annotation, info],
        default=False if bool in kinds else None,
    )


def _run(
    kind: JobKind,
    flags: Mapping[str, Any],
    *,
    gateway: str,
    kafka: str,
    kafka_tls: Path | None,
    group: str | None,
    state: Path | None,
    options: Path | None,
    quiet: bool,
    metrics: int | None,
    metrics_host: str,
    metrics_keys: Path | None,
) -> None:
    try:
        # Libraries of Quix tell one another what is deprecated, whatever the filters of warnings say.
        with warnings.catch_warnings(record=True):
            from analytics.app import run_job
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        raise Stop(Exit.CANNOT_START, f"{missing} is not installed: pip install 'headwater[analytics]'") from exc
    from analytics.job import JobConfigError, JobSettings, parse_options
    from headwater.running import run_thread_until_stopped

    where = f"{options}: " if options is not None and not flags else ""
    try:
        settings = JobSettings(
            kind=kind,
            options=parse_options(kind, {**_from_file(options), **flags}),
            gateway=gateway,
            bootstrap=kafka,
            tls=reach.cluster(kafka, kafka_tls).tls,
            group=group,
            state=state,
            metrics_port=metrics,
            metrics_host=metrics_host,
            metrics_keys=metrics_keys,
            show=None if quiet else _shower(),
        )
        run_thread_until_stopped(lambda stop: run_job(settings, stop))
    except JobConfigError as exc:
        raise Stop(Exit.USAGE, f"{where}{exc}") from exc
    except OSError as exc:
        if metrics is not None and (isinstance(exc, socket.gaierror) or exc.errno in _NO_SUCH_PORT):
            raise Stop(
                Exit.CANNOT_START,
                f"the metrics cannot be served at {metrics_host}:{metrics}: {exc.strerror}; "
                "choose another port with --metrics",
            ) from exc
        raise


def _from_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise Stop(Exit.USAGE, f"--options {file}: {why}") from exc


def _shower() -> Callable[[Any], None]:
    """Lines for people, or JSON where the output is piped."""
    from headwater.output import console, print_line
    from headwater.terminal import printable

    if not sys.stdout.isatty():
        from schemas.avro.serde import to_json

        # The fields that a query selects are JSON already.
        return lambda record: print_line(record if isinstance(record, dict) else to_json(record))
    from rich.text import Text

    from headwater.commands.tail import summary

    screen = console()
    return lambda record: screen.print(
        Text(printable(_fields(record) if isinstance(record, dict) else summary(record)))
    )


def _fields(chosen: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={'NULL' if value is None else value}" for name, value in chosen.items())
