"""Who is let in over HTTP: the API key of a request and whether it opens what is asked.

Owns the ``Authorization`` field (RFC 9110, section 11): ``Bearer KEY`` (RFC 6750), or ``Basic`` (RFC 7617) with any
name and the key as the password, which is how Confluent's clients and many others can say it. Keys themselves are
`security.api_keys`. Logs refusals at a bounded rate, by name and peer, never a key nor what was asked.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

import structlog

from connectors.http_messages import Answer, Request, text
from security.api_keys import KeyFile, Scope
from security.errors import ApiKeyError

_log = structlog.get_logger("headwater.http")

#: Seconds between two lines of the log about refusals.
_LOG_EVERY_S = 10.0
_CHALLENGE = 'Bearer realm="headwater", Basic realm="headwater", charset="UTF-8"'


def utc_now() -> datetime:
    return datetime.now(UTC)


class KeyGuard:
    """Lets in whoever has a key for a scope. Asked from any thread."""

    def __init__(
        self,
        keys: KeyFile,
        *,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        log: Callable[..., None] | None = None,
    ) -> None:
        """``log`` takes an event and its keys, as structlog's warning does."""
        self._keys = keys
        self._now = now
        self._monotonic = monotonic
        self._log = log or _log.warning
        self._lock = threading.Lock()
        self._next_line = 0.0
        self._unsaid = 0

    def refusal(self, request: Request, scope: Scope) -> Answer | None:
        """None: the request has a valid key for the scope; else 401 or 403, or 503 where the keys cannot be read."""
        given = credentials(request.fields.get("authorization", ""))
        if given is None:
            # The first request of a client that waits to be asked: no news.
            return self._unauthorized(
                "a key is needed: Authorization: Bearer KEY, or Basic with the key as the password"
            )
        try:
            key = self._keys.find(given)
        except ApiKeyError as exc:
            self._say("the API keys cannot be read", reason=str(exc))
            return text(
                HTTPStatus.SERVICE_UNAVAILABLE, "the API keys cannot be read now; the log of the process says why"
            )
        if key is None:
            self._say("an API key was refused", peer=request.peer, reason="unknown")
        elif key.revoked is not None:
            self._say("an API key was refused", peer=request.peer, name=key.name, reason="revoked")
        elif not key.is_valid(self._now()):
            self._say("an API key was refused", peer=request.peer, name=key.name, reason="expired")
        elif scope not in key.scopes:
            self._say("an API key was refused", peer=request.peer, name=key.name, reason=f"without {scope.value}")
            return text(
                HTTPStatus.FORBIDDEN,
                f"the key is not for this: it lacks {scope.value}",
                {"WWW-Authenticate": f'Bearer realm="headwater", error="insufficient_scope", scope="{scope.value}"'},
            )
        else:
            return None
        # The same words for all of them: whether a key was ever one of ours is nobody's business.
        return self._unauthorized("the key is not valid")

    def _unauthorized(self, words: str) -> Answer:
        return text(HTTPStatus.UNAUTHORIZED, words, {"WWW-Authenticate": _CHALLENGE})

    def _say(self, event: str, **fields: str) -> None:
        with self._lock:
            now = self._monotonic()
            if now < self._next_line:
                self._unsaid += 1
                return
            self._next_line = now + _LOG_EVERY_S
            unsaid, self._unsaid = self._unsaid, 0
        self._log(event, **fields, **({"more_since_the_last_line": unsaid} if unsaid else {}))


def credentials(field: str) -> str | None:
    """The key in an ``Authorization`` field, or None where there is none in a form that we know."""
    scheme, _, rest = field.partition(" ")
    rest = rest.strip()
    match scheme.lower():
        case "bearer":
            return rest or None
        case "basic":
            try:
                pair = base64.b64decode(rest, validate=True).decode("utf-8")
            except (binascii.Error, ValueError):
                return None
            return pair.partition(":")[2] or None
        case _:
            return None
