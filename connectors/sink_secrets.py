"""Secrets of a sink that do not stand in its configuration: in a file of their own, or in the environment.

``password_file = "/run/secrets/store"`` or ``password_env = "STORE_PASSWORD"`` stand for ``password``, and so for every
name in `SECRETS`. Owns the reading; no text that it raises holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from connectors.sinks.sink import SinkConfigError

#: The options of sinks that are secrets.
SECRETS = ("password", "token", "secret")


def with_secrets(options: Mapping[str, object], environment: Mapping[str, str]) -> dict[str, object]:
    """``options`` with each secret in its place, read from where they say it is.

    Raises:
        SinkConfigError: it is not there, or said twice; the text names the key.
    """
    found = dict(options)
    for name in SECRETS:
        said = [key for key in (name, f"{name}_file", f"{name}_env") if key in found]
        if len(said) > 1:
            raise SinkConfigError(f"{' and '.join(said)} are the same secret: keep one of them")
        if not said or said[0] == name:
            continue
        (key,) = said
        where = found.pop(key)
        if not isinstance(where, str) or not where:
            kind = "a file" if key.endswith("_file") else "an environment variable"
            raise SinkConfigError(f"{key} is the name of {kind} in quotes")
        found[name] = _from_file(key, where) if key.endswith("_file") else _from_environment(key, where, environment)
    return found


def _from_file(key: str, name: str) -> str:
    try:
        # The line end is the editor's; all else may belong to the secret.
        secret = Path(name).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise SinkConfigError(f"{key} = {name!r} cannot be read: {why}") from None
    if not secret:
        raise SinkConfigError(f"{key} = {name!r} is empty")
    return secret


def _from_environment(key: str, name: str, environment: Mapping[str, str]) -> str:
    secret = environment.get(name)
    if not secret:
        raise SinkConfigError(f"{key} = {name!r}: the environment has no such variable, or an empty one")
    return secret
