"""The keys of virtual devices, out of files: a pre-shared key alone, or a list with one, or an OSCORE context, each.

Owns which key an endpoint takes. The forms are those of `headwater credentials`, so that a device is given what a
gateway was told; no message tells a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from security.credentials.encodings import bytes_of
from security.credentials.fields import psk_identity
from security.credentials.importing import read_file
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Oscore, Psk, is_pattern, may_register
from security.errors import InvalidCredential
from security.secrets import read_secret

_T = TypeVar("_T")

#: So many endpoints or lines are named where there are more.
_NAMED: Final = 3


def shared_key(file: Path, endpoints: Sequence[str], identity: str | None, now: datetime) -> dict[str, Psk]:
    """The key that stands alone in ``file`` (hex or ``base64:…``), for each of ``endpoints``.

    ``identity`` is the PSK identity, the endpoint's name if None.

    Raises:
        SecretError, Exposed: the file cannot be read, or others may change it.
        InvalidCredential: it holds no key, or the identity is none.
    """
    text = read_secret(file).reveal()
    try:
        key = KeyBytes(bytes_of("key", text))
        return {one: Psk(endpoint=one, created=now, identity=psk_identity(one, identity), key=key) for one in endpoints}
    except InvalidCredential as exc:
        raise InvalidCredential(f"{file}: {exc}") from None


def listed_keys(file: Path, endpoints: Sequence[str], now: datetime) -> dict[str, Psk]:
    """A key for each of ``endpoints`` from a list as `headwater credentials import` takes it, CSV or JSON.

    The row with an endpoint's very name goes before one with a pattern, and of several the first in the file.

    Raises:
        Exposed: others may read or change the file.
        SecretError: it cannot be read.
        InvalidCredential: it is no such list, or has no pre-shared key for some of the endpoints.
    """
    keys = [one for _, one in read_file(file, now).rows if isinstance(one, Psk)]
    patterns = [one for one in keys if is_pattern(one.endpoint)]
    named: dict[str, Psk] = {}
    for one in keys:
        named.setdefault(one.endpoint, one)
    chosen = {
        endpoint: named.get(endpoint) or next((one for one in patterns if may_register(one, endpoint)), None)
        for endpoint in endpoints
    }
    return _none_missing(
        file, chosen, "pre-shared key (kind psk)", "give each a line, or one to a pattern that they fit"
    )


def listed_contexts(file: Path, endpoints: Sequence[str], now: datetime) -> dict[str, Oscore]:
    """An OSCORE context for each of ``endpoints``, from such a list, as the gateway has it. A context is of one device,
    so a pattern counts for nobody.

    Raises:
        As `listed_keys`; InvalidCredential also for one with an ID Context, as keys are derived anew with others.
    """
    named: dict[str, Oscore] = {}
    for _, one in read_file(file, now).rows:
        if isinstance(one, Oscore):
            named.setdefault(one.endpoint, one)
    chosen = _none_missing(file, {one: named.get(one) for one in endpoints}, "OSCORE context", "give each a line")
    for endpoint, context in chosen.items():
        if context.id_context is not None:
            raise InvalidCredential(
                f"{file}: the context of {endpoint} has an id_context, and a virtual device has its keys derived with "
                "one of its own (RFC 8613 appendix B.2): leave it out, here and at the gateway"
            )
    return chosen


def _none_missing(file: Path, chosen: Mapping[str, _T | None], what: str, do: str) -> dict[str, _T]:
    found = {endpoint: one for endpoint, one in chosen.items() if one is not None}
    missing = [endpoint for endpoint in chosen if endpoint not in found]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise InvalidCredential(f"{file} has no {what} for {', '.join(missing[:_NAMED])}{more}: {do}")
    return found
