"""The options of a sink: a pydantic model a sink, and one way to tell people what is wrong with theirs."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import security.secrets
from connectors.sinks.sink import SinkConfigError
from schemas.lwm2m.objects import DefinitionError, Definitions
from security.errors import SecurityError


class SinkOptions(BaseModel):
    """What every sink's options have in common: nothing unknown is let through, and no secret is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


OptionsT = TypeVar("OptionsT", bound=SinkOptions)


def parse_options(sink: str, model: type[OptionsT], options: Mapping[str, object]) -> OptionsT:
    """``options`` as ``model`` has them.

    Raises:
        SinkConfigError: an option is unknown, missing or not what it should be; the text names it.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as exc:
        raise SinkConfigError("; ".join(_words(sink, model, error) for error in exc.errors())) from exc


def read_secret(sink: str, option: str, file: FilePath) -> str:
    """The secret that stands alone in a file, without the end of its line; see `security.secrets.read_secret`.

    Raises:
        SinkConfigError: it cannot be read, is empty, or may be changed by everybody; nothing of what is in it is told.
    """
    try:
        return security.secrets.read_secret(file).reveal()
    except SecurityError as exc:
        raise SinkConfigError(f"{option} of the sink {sink}, {exc}") from None


def object_definitions(sink: str, folder: FilePath | None) -> Definitions:
    """The built-in ones, and those of a folder of OMA's XML files.

    Raises:
        SinkConfigError: the folder cannot be read, or holds something else.
    """
    builtin = Definitions.builtin()
    try:
        return builtin if folder is None else builtin.load_folder(folder)
    except (DefinitionError, OSError) as exc:
        raise SinkConfigError(f"definitions of the sink {sink}: {exc}") from exc


def tls_context(
    sink: str, ca_file: FilePath | None, cert_file: FilePath | None = None, key_file: FilePath | None = None
) -> ssl.SSLContext:
    """How TLS is spoken: the server's certificate and name are checked, by the system's authorities or ``ca_file``'s;
    with a certificate of our own and its key where the server asks for one. All are PEM.

    Raises:
        SinkConfigError: a certificate or key cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            # A key with a passphrase would ask for it on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        named = ", ".join(str(file) for file in (ca_file, cert_file, key_file) if file is not None)
        raise SinkConfigError(f"the certificates of the sink {sink} ({named}): {exc}") from exc
    return context


def _words(sink: str, model: type[SinkOptions], error: Mapping[str, object]) -> str:
    where = error["loc"]
    name = ".".join(map(str, where)) if isinstance(where, tuple) else str(where)
    match error["type"]:
        case "extra_forbidden":
            return f"the sink {sink} has no option {name!r}; it has {', '.join(model.model_fields)}"
        case "missing":
            described = model.model_fields[name].description if name in model.model_fields else None
            return f"the sink {sink} needs the option {name}" + (f": {described}" if described else "")
    # Of a ValueError of ours its own words; and what is a tuple here is a list to people.
    said = re.sub(r"\b([Tt])uple\b", lambda found: f"{'L' if found[1] == 'T' else 'l'}ist", str(error["msg"]))
    said = said.removeprefix("Value error, ")
    return f"{f'{name} of ' if name else ''}the sink {sink}: {said[0].lower()}{said[1:]}"
