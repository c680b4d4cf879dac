"""The course of one run: what the device is asked next, and what its answer means (OMA LwM2M Core 1.1, section 6.1.7).

Discover, Read, Delete, Write, Finish, in this order. Pure: no I/O, no clock. What it says of a step is for the trace
and holds no key: no payload that was sent, and no word of an answer in which a key is repeated.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from gateway.bootstrap.issuing import Material
from gateway.bootstrap.objects import SECURITY, instances
from gateway.bootstrap.profile import Profile
from gateway.coap.message import Code, name
from gateway.exchange import CoapRequest, CoapResponse, Method
from schemas.lwm2m import formats
from schemas.lwm2m.formats import CodecError, ContentFormat
from schemas.lwm2m.nodes import Instance, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: What a device may ask for with ``pct``, and what is tried for one that asked for nothing and says 4.15.
PREFERRED = frozenset(
    {
        ContentFormat.TLV,
        ContentFormat.TLV_OLD,
        ContentFormat.JSON,
        ContentFormat.JSON_OLD,
        ContentFormat.SENML_JSON,
        ContentFormat.SENML_CBOR,
        ContentFormat.LWM2M_CBOR,
    }
)
_TRIED = (ContentFormat.TLV, ContentFormat.SENML_CBOR, ContentFormat.SENML_JSON)
#: Where a device keeps its account with us, if it does not say.
_USUAL = frozenset({0})
_INSTANCE = re.compile(r"</0/(\d{1,5})>((?:;[^,\"]*(?:\"[^\"]*\")?)*)")


class Kind(Enum):
    """The operations of the interface."""

    DISCOVER = "discover"
    READ = "read"
    DELETE = "delete"
    WRITE = "write"
    FINISH = "finish"


_METHODS = {Kind.DISCOVER: Method.GET, Kind.READ: Method.GET, Kind.DELETE: Method.DELETE, Kind.WRITE: Method.PUT}
_EXPECTED = {
    Kind.DISCOVER: Code.CONTENT,
    Kind.READ: Code.CONTENT,
    Kind.DELETE: Code.DELETED,
    Kind.WRITE: Code.CHANGED,
    Kind.FINISH: Code.CHANGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request. Its payload may have keys in it, so it is in no repr."""

    kind: Kind
    path: Path
    request: CoapRequest

    def __str__(self) -> str:
        return "finish" if self.kind is Kind.FINISH else f"{self.kind.value} {self.path}"

    __repr__ = __str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What an answer means; ``words`` for the trace. With ``failed`` the run is over."""

    words: str
    failed: bool = False


class Plan:
    """One run, from its first step to Finish."""

    def __init__(
        self,
        profile: Profile,
        materials: Sequence[Material],
        definitions: Definitions,
        content_format: ContentFormat | None,
    ) -> None:
        """``content_format``: what the device prefers (``pct``), None if it did not say."""
        self._profile = profile
        self._materials = materials
        self._definitions = definitions
        self._format = content_format or _TRIED[0]
        self._tried = None if content_format else deque(_TRIED[1:])
        self._writing: dict[Path, Instance] = {}
        self._steps: deque[Step] = deque()
        if profile.discover:
            self._steps.append(_step(Kind.DISCOVER, Path(SECURITY), accept=ContentFormat.LINK))
        self._steps.extend(_step(Kind.READ, path) for path in profile.read)
        self._steps.extend(_step(Kind.DELETE, path) for path in profile.delete)
        if not profile.discover:
            self._write(_USUAL)

    @property
    def next(self) -> Step | None:
        """What to ask now; None when all is done."""
        return self._steps[0] if self._steps else None

    def _write(self, kept: frozenset[int]) -> None:
        for instance in instances(self._profile, self._materials, kept):
            self._writing[instance.path] = instance
            self._steps.append(self._written(instance))
        request = CoapRequest(method=Method.POST, uri_path=("bs",), repeatable=False)
        self._steps.append(Step(kind=Kind.FINISH, path=Path(), request=request))

    def _written(self, instance: Instance) -> Step:
        payload = formats.encode(self._format, instance, self._definitions)
        return _step(Kind.WRITE, instance.path, content_format=self._format, payload=payload)

    def take(self, response: CoapResponse) -> Answered:
        """The device's answer to `next`, which is another step then."""
        step = self._steps[0]
        code = name(response.code)
        good = response.code == _EXPECTED[step.kind]
        if step.kind is Kind.WRITE and response.code == Code.UNSUPPORTED_CONTENT_FORMAT and self._tried:
            before, self._format = self._format, self._tried.popleft()
            again = [self._written(self._writing[one.path]) if one.kind is Kind.WRITE else one for one in self._steps]
            self._steps = deque(again)
            return Answered(words=f"{code}: it does not take {before.name}; again in {self._format.name}")
        self._steps.popleft()
        if step.kind is Kind.DISCOVER:
            return self._discovered(response, code)
        if step.kind is Kind.READ:
            # It is for people; that a device cannot do it keeps it from nothing.
            return Answered(words=f"{code} {self._read(step.path, response)}" if good else code + self._said(response))
        if good:
            return Answered(words=code)
        if step.kind is Kind.DELETE and response.code == Code.NOT_FOUND:
            return Answered(words=f"{code}: there was none")
        return Answered(words=code + self._said(response), failed=True)

    def _discovered(self, response: CoapResponse, code: str) -> Answered:
        if response.code != Code.CONTENT:
            self._write(_USUAL)
            return Answered(words=f"{code}{self._said(response)}; its account here is taken to be /0/0")
        kept = own_accounts(response.payload.decode("utf-8", "replace"))
        self._write(kept)
        places = ", ".join(f"/0/{one}" for one in sorted(kept)) or "nowhere"
        return Answered(words=f"{code}: its account here is {places}")

    def _read(self, path: Path, response: CoapResponse) -> str:
        try:
            node = formats.decode(response.content_format or 0, response.payload, path, self._definitions)
        except CodecError as exc:
            return f"which cannot be read: {exc}"
        return ", ".join(f"{one.path} = {one.value!r}" for one in values(node)) or "nothing"

    def _said(self, response: CoapResponse) -> str:
        """The words of an error (RFC 7252 section 5.5.2)."""
        text = " ".join(response.payload.decode("utf-8", "replace").split())
        text = "".join(sign if sign.isprintable() else "?" for sign in text)
        if not text:
            return ""
        if any(holds(text, secret) for one in self._materials for secret in one.secrets):
            return ": its words are left out, as a key is in them"
        return f": {text:.200}"


def own_accounts(links: str) -> frozenset[int]:
    """The instances of object 0 that are accounts with a bootstrap server: those without a short server id (OMA LwM2M
    Core 1.1, section 6.1.7.2). Also of a 1.0 device, whose answer begins with no link (``lwm2m="1.0",</0/0>``)."""
    found = _INSTANCE.findall(links)
    return frozenset(int(number) for number, attributes in found if "ssid=" not in attributes)


def holds(text: str, secret: bytes) -> bool:
    """True if a text repeats a secret, as it is, in hex or in base64."""
    plain = re.sub(r"[\s:,\-x]", "", text).lower()
    coded = base64.b64encode(secret).decode().rstrip("=")
    return (
        secret.hex() in plain
        or coded in text
        or coded.replace("+", "-").replace("/", "_") in text
        or secret in text.encode("utf-8", "replace")
    )


def _step(kind: Kind, path: Path, **more: object) -> Step:
    request = CoapRequest(method=_METHODS[kind], uri_path=tuple(map(str, path.ids)))
    return Step(kind=kind, path=path, request=replace(request, **more))  # type: ignore[arg-type]  # named as its fields
