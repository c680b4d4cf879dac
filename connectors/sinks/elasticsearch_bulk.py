"""What goes to Elasticsearch's ``_bulk``, and what its answers mean: taken, refused for what it holds, or not now.

Owns the requests and the reading of answers; knows nothing of records beyond which of them a document is of. The API
is that of Elasticsearch 7.17 to 9 and of OpenSearch ("Bulk API", "Optimistic concurrency control").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from connectors.sinks.elasticsearch_documents import Document, templates
from connectors.sinks.elasticsearch_http import Answer, NoAnswer, Nodes
from connectors.sinks.elasticsearch_options import ElasticsearchOptions
from connectors.sinks.sink import RetryLater, SinkConfigError

#: What is surely about the one document.
_OF_THE_DOCUMENT = frozenset(
    ("mapper_parsing_exception", "document_parsing_exception", "strict_dynamic_mapping_exception")
)
#: After so many answers that may be about anything, and nothing taken, the search for the guilty ends.
_DOUBTS = 40
#: Answers to a template that say nothing of it.
_NOT_ABOUT_IT = (401, 429, 502, 503, 504)
#: A request is not made smaller than this because the last one got no answer.
_SMALLEST = 64 * 1024
_CONFLICT = 409

_ADVICE = {
    401: "it refuses user and password or the API key: check them",
    403: "the cluster or the user may not write there now",
    404: "there is no such index, and it makes none by itself: see action.auto_create_index",
}
_BLOCKED = "a disk of the cluster is too full, and its indices are read-only: make room, or give them more nodes"


class Refusal(NamedTuple):
    """A document that was not taken; ``conflict``: because it was changed meanwhile."""

    document: Document
    words: str
    conflict: bool


class Bulk:
    """`Nodes` with the requests that the sink makes of them. All raise RetryLater: it takes nothing now."""

    def __init__(self, options: ElasticsearchOptions) -> None:
        """Asks nothing yet. Raises SinkConfigError as `Nodes`."""
        self._options = options
        self._nodes = Nodes(options)
        self._most = self._bytes = int(options.bulk_mb * 1024 * 1024)

    def close(self) -> None:
        """End the connection; the next request opens another."""
        self._nodes.close()

    def put_templates(self) -> None:
        """So that the next index which is made has our mapping."""
        options = self._options
        for name, body in templates(options.prefix, options.shards, options.replicas).items():
            answer = self._ask("PUT", f"/_index_template/{name}", body)
            if answer.status != 200:
                advice = f"it takes no index template {name}"
                if answer.status == 403:
                    advice += ": give the user the privilege manage_index_templates, or set templates = false"
                _later(answer, None if answer.status in _NOT_ABOUT_IT else advice)

    def read(self, index: str, identities: Sequence[str], fields: str) -> dict[str, dict[str, Any]]:
        """Of the documents that are there, by ``_id``: ``_seq_no``, ``_primary_term`` and ``fields`` of ``_source``."""
        path = f"/{index}/_mget?_source_includes={fields}&filter_path=docs._id,docs.found,docs._seq_no,"
        path += "docs._primary_term,docs._source,docs.error.type,docs.error.reason"
        answer = self._ask("POST", path, json.dumps({"ids": identities}).encode())
        if answer.status == 404 and "index_not_found_exception" in str(answer.told):
            return {}
        told = answer.told.get("docs") if answer.status == 200 and isinstance(answer.told, dict) else None
        if not isinstance(told, list) or len(told) != len(identities):
            _later(answer)
        found: dict[str, dict[str, Any]] = {}
        for one in told:
            error = one.get("error")
            if error and error.get("type") != "index_not_found_exception":
                raise RetryLater(f"Elasticsearch at {answer.node}: {_short(_error_words(error))}")
            if one.get("found"):
                found[one["_id"]] = one
        return found

    def send(self, documents: Iterable[Document]) -> list[Refusal]:
        """Those that were not taken; all others are on the disks."""
        refused: list[Refusal] = []
        #: Refused for what may lie at the index and not at the document: while nothing was taken there, it does.
        doubtful: list[Refusal] = []
        taken: set[str] = set()
        doubts = 0
        todo = [list(some) for some in self._requests(documents)][::-1]
        while todo:
            some = todo.pop()
            answer = self._bulk(some)
            if answer.status in (400, 413):
                # Not one of them was looked at; of one that stands alone we know that it is meant.
                words = f"Elasticsearch: {answer.status} {_said(answer)}"
                doubts += answer.status == 400
                if len(some) > 1:
                    half = len(some) // 2
                    todo += [some[half:], some[:half]]
                elif answer.status == 413:
                    refused.append(Refusal(some[0], f"{words} (see http.max_content_length)", conflict=False))
                else:
                    doubtful.append(Refusal(some[0], words, conflict=False))
                if doubts >= _DOUBTS and not taken:
                    _later(answer)
                continue
            for document, result in zip(some, _results(answer, len(some)), strict=True):
                self._sort(document, result, answer, refused, doubtful, taken)
        for each in doubtful:
            if each.document.index_name not in taken:
                # It takes nothing at all, for a reason that we do not know: that is hardly the fault of the records.
                raise RetryLater(f"{self._where}, index {each.document.index_name}: {each.words}")
        return refused + doubtful

    def _sort(
        self,
        document: Document,
        result: dict[str, Any],
        answer: Answer,
        refused: list[Refusal],
        doubtful: list[Refusal],
        taken: set[str],
    ) -> None:
        status, error = result.get("status"), result.get("error") or {}
        if not isinstance(status, int):
            _later(answer, "it answers otherwise than Elasticsearch does")
        if status < 300:
            taken.add(document.index_name)
            return
        words = _short(f"Elasticsearch: {_error_words(error)}")
        if status == _CONFLICT or (status == 404 and error.get("type") == "document_missing_exception"):
            refused.append(Refusal(document, words, conflict=True))
        elif status == 400 and error.get("type") in _OF_THE_DOCUMENT:
            refused.append(Refusal(document, words, conflict=False))
        elif status in (400, 413):
            doubtful.append(Refusal(document, words, conflict=False))
        else:
            advice = _BLOCKED if "flood-stage" in words else _ADVICE.get(status)
            raise RetryLater(
                f"{self._where}, index {document.index_name}: {advice + '; it says ' if advice else ''}{status} {words}"
            )

    def _requests(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        some: list[Document] = []
        size = 0
        for document in documents:
            if some and size + len(document.body) > self._bytes:
                yield some
                some, size = [], 0
            some.append(document)
            size += len(document.body)
        if some:
            yield some

    def _bulk(self, some: Sequence[Document]) -> Answer:
        body = b"".join(document.body for document in some)
        answer = self._ask(
            "POST", "/_bulk?filter_path=errors,items.*.status,items.*.error", body, "application/x-ndjson"
        )
        if answer.status not in (200, 400, 413):
            _later(answer)
        return answer

    def _ask(self, method: str, path: str, body: bytes, kind: str = "application/json") -> Answer:
        try:
            answer = self._nodes.ask(method, path, body, kind=kind)
        except NoAnswer as exc:
            # Perhaps because it was too much for it: the next attempt is of less.
            self._bytes = max(min(_SMALLEST, self._most), self._bytes // 2)
            raise RetryLater(f"Elasticsearch: {exc}") from exc
        except SinkConfigError as exc:
            # The secret's file was there when we began; it is being replaced.
            raise RetryLater(str(exc)) from exc
        self._bytes = min(self._most, self._bytes * 2)
        return answer

    @property
    def _where(self) -> str:
        return f"Elasticsearch at {', '.join(self._options.hosts)}"


def _results(answer: Answer, number: int) -> list[dict[str, Any]]:
    items = answer.told.get("items") if isinstance(answer.told, dict) else None
    if not isinstance(items, list) or len(items) != number:
        _later(answer, "it answers otherwise than Elasticsearch does")
    return [next(iter(item.values())) for item in items]


def _later(answer: Answer, advice: str | None = None) -> NoReturn:
    advice = advice or _ADVICE.get(answer.status)
    raise RetryLater(
        f"Elasticsearch at {answer.node}: {advice + '; it says ' if advice else ''}{answer.status} {_said(answer)}",
        _seconds(answer.retry_after),
    )


def _said(answer: Answer) -> str:
    error = answer.told.get("error") if isinstance(answer.told, dict) else None
    if isinstance(error, dict):
        return _short(_error_words(error))
    return _short(str(error or answer.words or ""))


def _error_words(error: Any) -> str:
    """``type: reason``, and the innermost cause, which is where it says what is wrong with a value."""
    said = f"{error.get('type')}: {error.get('reason')}"
    cause = error.get("caused_by")
    while isinstance(cause, dict) and isinstance(cause.get("caused_by"), dict):
        cause = cause["caused_by"]
    return f"{said}: {cause.get('reason')}" if isinstance(cause, dict) else said


def _short(words: str) -> str:
    """One line that fits into a log and into a dead letter's header."""
    line = " ".join(words.split())
    return line if len(line) <= 400 else f"{line[:300]} … {line[-90:]}"


def _seconds(retry_after: str | None) -> float | None:
    """The header Retry-After, where it is a number of seconds (RFC 9110, section 10.2.3)."""
    text = retry_after or ""
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else None
