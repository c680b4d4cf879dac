"""The pinned schemas in the form of Confluent's Schema Registry REST API, to be read only.

Owns which paths there are and what they answer; https://docs.confluent.io/platform/current/schema-registry/develop/api.html
is the reference for paths, field names and error codes. It registers nothing: ids are pinned in ``ids.json``, so an
edge that never saw this view writes what its readers decode. A program that "registers" what is there already is told
its id, as a registry would; anything else is refused in words. Subjects are those of ``ids.json``, and those of
TopicNameStrategy for every gateway's topics (`schemas.avro.subjects`). Pure: requests to answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from connectors.http_messages import Answer, Refused, Request, wrong_method
from schemas.avro.compatibility import objections
from schemas.avro.registry import SCHEMAS, Schema
from schemas.avro.subjects import SUBJECTS, InvalidSchema, compact, family_of, same_as, subjects_of

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
#: What a body may be sent as; nothing said counts as JSON.
_BODY_TYPES = frozenset(
    {CONTENT_TYPE, "application/vnd.schemaregistry+json", "application/json", "application/octet-stream", ""}
)
#: A new version reads what all older ones wrote; the tests of the pinned ids hold it.
COMPATIBILITY = "BACKWARD_TRANSITIVE"
_LAST_VERSION = 2**31 - 1


class RegistryError(Exception):
    """An error as a registry tells it: a code, whose first three digits are the HTTP status, and words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaView:
    """The view; ``gateways`` are those whose subjects stand in the list of all, beside the families'."""

    gateways: tuple[str, ...] = ()

    def respond(self, request: Request) -> Answer:
        """The answer to a request, errors too."""
        try:
            return as_json(HTTPStatus.OK, self._answer(request), request)
        except RegistryError as exc:
            return error(exc.code, str(exc), request)
        except InvalidSchema as exc:
            return error(42201, f"Invalid schema: {exc}", request)
        except Refused as exc:
            return replace(error(exc.status.value, str(exc), request), fields=exc.fields)

    def _answer(self, request: Request) -> Any:
        # As HEAD is GET without the body.
        method = "GET" if request.method == "HEAD" else request.method
        # A slash at the end is nobody's subject.
        path = request.path[:-1] if len(request.path) > 1 and not request.path[-1] else request.path
        found = False
        allowed: set[str] = set()
        for pattern, methods in _ROUTES:
            given = _fits(pattern, path)
            if given is None:
                continue
            found = True
            if method in methods:
                return methods[method](self, request, *given)
            allowed |= set(methods)
        if found:
            raise wrong_method(*sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
        raise RegistryError(404, "HTTP 404 Not Found")

    # --- what there is -------------------------------------------------------------------------------------------

    def _root(self, _: Request) -> Any:
        return {}

    def _subjects(self, request: Request) -> Any:
        prefix = request.query.get("subjectPrefix", "")
        listed = sorted({*SUBJECTS, *(one for gateway in self.gateways for one in subjects_of(gateway))})
        return _page([subject for subject in listed if subject.startswith(prefix)], request)

    def _versions(self, request: Request, subject: str) -> Any:
        return _page([one.version for one in _known(subject)], request)

    def _version(self, _: Request, subject: str, version: str) -> Any:
        return _described(subject, _of_version(subject, version))

    def _version_schema(self, _: Request, subject: str, version: str) -> Any:
        return _Plain(compact(_of_version(subject, version)))

    def _referenced_by(self, _: Request, subject: str, version: str) -> Any:
        _of_version(subject, version)
        return []

    def _by_id(self, _: Request, number: str) -> Any:
        return {"schema": compact(_of_id(number))}

    def _by_id_schema(self, _: Request, number: str) -> Any:
        return _Plain(compact(_of_id(number)))

    def _by_id_versions(self, _: Request, number: str) -> Any:
        schema = _of_id(number)
        return [{"subject": subject, "version": schema.version} for subject in self._named(schema)]

    def _by_id_subjects(self, _: Request, number: str) -> Any:
        return self._named(_of_id(number))

    def _named(self, schema: Schema) -> list[str]:
        of_gateways = [one for gateway in self.gateways for one in subjects_of(gateway)]
        return [schema.subject, *(one for one in of_gateways if family_of(one) == schema.subject)]

    def _all(self, request: Request) -> Any:
        prefix = request.query.get("subjectPrefix", "")
        latest = request.query.get("latestOnly", "") == "true"
        chosen = [
            schema
            for subject, versions in SUBJECTS.items()
            if subject.startswith(prefix)
            for schema in (versions[-1:] if latest else versions)
        ]
        return _page([_described(schema.subject, schema) for schema in chosen], request)

    def _types(self, _: Request) -> Any:
        return ["AVRO"]

    def _contexts(self, _: Request) -> Any:
        return ["."]

    def _config(self, _: Request) -> Any:
        return {"compatibilityLevel": COMPATIBILITY}

    def _subject_config(self, request: Request, subject: str) -> Any:
        if request.query.get("defaultToGlobal", "") == "true":
            return self._config(request)
        raise RegistryError(40408, f"Subject '{subject}' does not have subject-level compatibility configured")

    def _mode(self, _: Request) -> Any:
        return {"mode": "READONLY"}

    def _subject_mode(self, request: Request, subject: str) -> Any:
        if request.query.get("defaultToGlobal", "") == "true":
            return self._mode(request)
        raise RegistryError(40409, f"Subject '{subject}' does not have subject-level mode configured")

    # --- what is asked with a schema -----------------------------------------------------------------------------

    def _lookup(self, request: Request, subject: str) -> Any:
        versions = _known(subject)
        found = same_as(_schema_given(request), versions)
        if found is None:
            raise RegistryError(
                40403, f"Schema not found: none of the {len(versions)} versions of {subject!r} is this one"
            )
        return _described(subject, found)

    def _register(self, request: Request, subject: str) -> Any:
        given = _schema_given(request)
        family = family_of(subject)
        found = None if family is None else same_as(given, SUBJECTS[family])
        if found is None:
            raise RegistryError(
                42205,
                f"Subject '{subject}' is in read-only mode: this schema is not one of the pinned ones. Their ids are "
                "part of Headwater and never given out at run time; write with the latest version of the subject "
                "(use.latest.version=true, auto.register.schemas=false)",
            )
        return {"id": found.id}

    def _compatible(self, request: Request, subject: str, version: str) -> Any:
        return _verdict(request, [_of_version(subject, version)])

    def _compatible_with_all(self, request: Request, subject: str) -> Any:
        return _verdict(request, list(_known(subject)))

    def _read_only(self, _: Request, *_path: str) -> Any:
        raise RegistryError(42205, "This view is in read-only mode: the schemas, their ids and versions are pinned")


@dataclass(frozen=True, slots=True)
class _Plain:
    """JSON as it is."""

    text: str


def as_json(status: HTTPStatus, content: Any, request: Request) -> Answer:
    """An answer in the registry's own media type, or as plain JSON where that is what the client asks for."""
    asked = request.fields.get("accept", "")
    plain = "application/json" in asked and "schemaregistry" not in asked
    body = content.text if isinstance(content, _Plain) else json.dumps(content, ensure_ascii=False)
    # A name that was asked for comes back in the words; it may hold what UTF-8 cannot.
    return Answer(
        status=status,
        content_type="application/json" if plain else CONTENT_TYPE,
        body=body.encode("utf-8", "replace"),
    )


def error(code: int, message: str, request: Request) -> Answer:
    """An error as clients of a registry expect it."""
    status = HTTPStatus(int(str(code)[:3]))
    return as_json(status, {"error_code": code, "message": message}, request)


def refused(answer: Answer, request: Request) -> Answer:
    """A refusal (401, 403) in the registry's form, so that its clients show the words."""
    words = answer.body.decode("utf-8", "replace").strip()
    return replace(error(answer.status.value * 100 + 1, words, request), fields=answer.fields)


def _known(subject: str) -> tuple[Schema, ...]:
    family = family_of(subject)
    if family is None:
        raise RegistryError(40401, f"Subject '{subject[:300]}' not found.")
    return SUBJECTS[family]


def _of_version(subject: str, version: str) -> Schema:
    versions = _known(subject)
    if version in ("latest", "-1"):
        return versions[-1]
    if not (version.isascii() and version.isdigit() and len(version) <= 10 and 1 <= int(version) <= _LAST_VERSION):
        raise RegistryError(
            42202,
            f"The specified version '{version[:100]}' is not a valid version id. Allowed values are between "
            f'[1, 2^31-1] and the string "latest"',
        )
    found = next((one for one in versions if one.version == int(version)), None)
    if found is None:
        raise RegistryError(40402, f"Version {int(version)} not found.")
    return found


def _of_id(number: str) -> Schema:
    if not (number.isascii() and number.isdigit() and len(number) <= 10):
        raise RegistryError(404, "HTTP 404 Not Found")
    found = SCHEMAS.get(int(number))
    if found is None:
        raise RegistryError(40403, f"Schema {int(number)} not found")
    return found


def _described(subject: str, schema: Schema) -> dict[str, Any]:
    return {"subject": subject, "version": schema.version, "id": schema.id, "schema": compact(schema)}


def _schema_given(request: Request) -> str:
    """The schema in the body ``{"schema": "…", "schemaType": "AVRO"}``."""
    content_type = request.fields.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _BODY_TYPES:
        raise RegistryError(415, f"HTTP 415 Unsupported Media Type: send {CONTENT_TYPE}")
    try:
        content = json.loads(request.body)
    except (ValueError, RecursionError) as exc:
        raise RegistryError(400, "the body is no JSON") from exc
    if not isinstance(content, dict) or not isinstance(content.get("schema"), str):
        raise RegistryError(42201, 'Invalid schema: the body is {"schema": "…"} with the schema as a text')
    if content.get("schemaType") not in (None, "AVRO"):
        raise RegistryError(42201, f"Invalid schema: there are schemas of Avro only, not {content['schemaType']!r:.40}")
    if content.get("references"):
        raise RegistryError(42201, "Invalid schema: each is one text here, without references")
    return str(content["schema"])


def _verdict(request: Request, against: list[Schema]) -> Any:
    given = _schema_given(request)
    found = [
        f"it does not read version {schema.version}: {said}"
        for schema in against
        for said in objections(given, compact(schema))
    ]
    verbose = request.query.get("verbose", "") == "true"
    return {"is_compatible": not found} | ({"messages": found} if verbose else {})


def _page(items: list[Any], request: Request) -> list[Any]:
    """A part of a list, as ``offset`` and ``limit`` ask; -1 is no limit."""
    bounds = []
    for name, otherwise in (("offset", 0), ("limit", -1)):
        text = request.query.get(name, str(otherwise))
        if not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) <= 10):
            raise RegistryError(404, "HTTP 404 Not Found")
        bounds.append(int(text))
    offset, limit = max(0, bounds[0]), bounds[1]
    return items[offset:] if limit < 0 else items[offset : offset + limit]


def _fits(pattern: tuple[str, ...], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """What stands in the places ``*`` of a pattern, or None where the path is another one."""
    if len(pattern) != len(path) or any(
        wanted not in ("*", given) for wanted, given in zip(pattern, path, strict=True)
    ):
        return None
    return tuple(given for wanted, given in zip(pattern, path, strict=True) if wanted == "*")


_Handler = Callable[..., Any]
_View = SchemaView

_PATHS: Mapping[str, Mapping[str, _Handler]] = {
    "/": {"GET": _View._root, "POST": _View._root},
    "/subjects": {"GET": _View._subjects},
    "/subjects/*": {"POST": _View._lookup, "DELETE": _View._read_only},
    "/subjects/*/versions": {"GET": _View._versions, "POST": _View._register},
    "/subjects/*/versions/*": {"GET": _View._version, "DELETE": _View._read_only},
    "/subjects/*/versions/*/schema": {"GET": _View._version_schema},
    "/subjects/*/versions/*/referencedby": {"GET": _View._referenced_by},
    "/schemas": {"GET": _View._all},
    "/schemas/types": {"GET": _View._types},
    "/schemas/ids/*": {"GET": _View._by_id},
    "/schemas/ids/*/schema": {"GET": _View._by_id_schema},
    "/schemas/ids/*/versions": {"GET": _View._by_id_versions},
    "/schemas/ids/*/subjects": {"GET": _View._by_id_subjects},
    "/contexts": {"GET": _View._contexts},
    "/config": {"GET": _View._config, "PUT": _View._read_only},
    "/config/*": {"GET": _View._subject_config, "PUT": _View._read_only, "DELETE": _View._read_only},
    "/mode": {"GET": _View._mode, "PUT": _View._read_only},
    "/mode/*": {"GET": _View._subject_mode, "PUT": _View._read_only, "DELETE": _View._read_only},
    "/compatibility/subjects/*/versions": {"POST": _View._compatible_with_all},
    "/compatibility/subjects/*/versions/*": {"POST": _View._compatible},
}

_ROUTES = tuple((tuple(path[1:].split("/")), methods) for path, methods in _PATHS.items())
