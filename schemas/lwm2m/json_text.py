"""How any JSON from a device is read (RFC 8259): UTF-8, no name twice, no NaN or Infinity, bounded depth, numbers."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from schemas.lwm2m.errors import MalformedPayload


def read(payload: bytes) -> Any:
    """The JSON value in ``payload``.

    Raises:
        MalformedPayload: it is none, or one that the formats do not allow.
    """
    try:
        # Decoded here, because json.loads of bytes would also guess UTF-16 and UTF-32.
        return json.loads(
            payload.decode(), object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except UnicodeDecodeError as exc:
        raise MalformedPayload("the JSON is no valid UTF-8") from exc
    except RecursionError as exc:
        raise MalformedPayload("the JSON is nested too deeply") from exc
    except json.JSONDecodeError as exc:
        raise MalformedPayload(f"the payload is no valid JSON: {exc}") from exc


def write(value: Any) -> bytes:
    """Compact JSON; the caller has no NaN or Infinity in it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedPayload("a JSON object has the same name twice")
    return found


def _constant(text: str) -> NoReturn:
    raise MalformedPayload(f"{text} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MalformedPayload(f"the number {text[:20]} is too large")
    return value


def _int(text: str) -> int:
    # 308 digits are the largest double; int() of more would cost the square of their number.
    if len(text) > 310:
        raise MalformedPayload(f"the number {text[:20]}... is too large")
    return int(text)
