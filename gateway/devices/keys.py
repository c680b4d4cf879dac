"""The pre-shared keys of virtual devices, out of files: one key alone, or a list with one for each endpoint.

Owns which key an endpoint takes. The forms are those of `headwater credentials`, so that a device is given what a
gateway was told; no message tells a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from security.credentials.encodings import bytes_of
from security.credentials.fields import psk_identity
from security.credentials.importing import read_file
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk, is_pattern, may_register
from security.errors import InvalidCredential
from security.secrets import read_secret

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
    chosen: dict[str, Psk] = {}
    missing: list[str] = []
    for endpoint in endpoints:
        psk = named.get(endpoint) or next((one for one in patterns if may_register(one, endpoint)), None)
        if psk is None:
            missing.append(endpoint)
        else:
            chosen[endpoint] = psk
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise InvalidCredential(
            f"{file} has no pre-shared key (kind psk) for {', '.join(missing[:_NAMED])}{more}: give each a line, or "
            "one to a pattern that they fit"
        )
    return chosen
