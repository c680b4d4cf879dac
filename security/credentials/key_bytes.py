"""Keys in memory: bytes that are shown to nobody by mistake. `security.secrets.Secret` is the same for texts."""

from __future__ import annotations

import hmac


class KeyBytes:
    """A key.

    >>> KeyBytes(bytes(16))
    KeyBytes('******')
    >>> f"{KeyBytes(bytes(16))}"
    '******'
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = bytes(key)

    def reveal(self) -> bytes:
        """The key itself, for the one place that needs it."""
        return self._key

    def __len__(self) -> int:
        return len(self._key)

    def __repr__(self) -> str:
        return "KeyBytes('******')"

    def __str__(self) -> str:
        return "******"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyBytes) and hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash((KeyBytes, self._key))

    def __reduce__(self) -> str | tuple[object, ...]:
        # A pickle, or a copy of one in a log, would hold it in the clear.
        raise TypeError("a key is not pickled")
