"""The Elasticsearch sink: history and the asset graph as documents, in Elasticsearch 7.17 to 9 and OpenSearch.

Owns what becomes of a batch: history first, then the endpoints. The documents are
`connectors.sinks.elasticsearch_documents`, the requests `connectors.sinks.elasticsearch_bulk`. It deletes nothing and
makes no index by itself, only the templates after which the cluster makes them.

A document of the history is identified by its record's place in Kafka, so a record that comes again writes the same
document. An endpoint's document is read, changed and written on the condition that nobody wrote it in between; which
events it has seen is in it. An event that is older than that changes nothing, whoever delivers it, and when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.sinks.elasticsearch_bulk import Bulk
from connectors.sinks.elasticsearch_documents import (
    Document,
    endpoint_changes,
    endpoint_document,
    endpoint_identity,
    endpoints_index,
    history_documents,
)
from connectors.sinks.elasticsearch_options import ElasticsearchOptions
from connectors.sinks.graph import Event, is_newer
from connectors.sinks.options import object_definitions, parse_options
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkKind, SinkRecord
from schemas.avro.records import Notification, Registration, RegistrationNew, Response
from schemas.avro.topics import TopicKind
from schemas.lwm2m.objects import Definitions

#: How often an endpoint is read again because another instance wrote it, in one attempt.
_ROUNDS = 5
#: Endpoints that are read with one request.
_READ = 200

_Events = list[tuple[SinkRecord, Event]]


class ElasticsearchSink:
    """`connectors.sinks.sink.Sink` on one cluster."""

    def __init__(self, options: ElasticsearchOptions, definitions: Definitions) -> None:
        """Asks nothing of the cluster yet. Raises SinkConfigError as `Bulk`."""
        self._options = options
        self._definitions = definitions
        self._bulk = Bulk(options)
        self._endpoints = endpoints_index(options.prefix)
        #: Indices that were made, or at least written to, after our templates were there.
        self._known: set[str] = set()

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`. Where RetryLater is raised some may have been written: the same again is no change."""
        rejected: dict[tuple[str, int, int], tuple[SinkRecord, str]] = {}
        history: list[Document] = []
        events: dict[str, _Events] = {}
        for record in records:
            match record.record:
                case Notification() | Response() as said:
                    try:
                        history += list(history_documents(self._options.prefix, record, said))
                    except ValueError as exc:
                        _reject(rejected, record, str(exc))
                case Registration(body=body):
                    events.setdefault(endpoint_identity(body.server_id, body.ep), []).append((record, body))
                case other:
                    _reject(rejected, record, f"a {type(other).__name__} is nothing that this store keeps")
        indices = {document.index_name for document in history} | ({self._endpoints} if events else set())
        self._expect(indices)
        for refusal in self._bulk.send(history):
            _reject(rejected, refusal.document.record, refusal.words)
        waiting = list(events)
        for start in range(0, len(waiting), _READ):
            self._register({identity: events[identity] for identity in waiting[start : start + _READ]}, rejected)
        self._known |= indices
        if rejected:
            raise RejectedRecords(list(rejected.values()))

    def close(self) -> None:
        """See `Sink.close`."""
        self._bulk.close()

    def _expect(self, indices: set[str]) -> None:
        """Have the templates there before an index that may still have to be made: a day's first, after all."""
        if indices <= self._known:
            return
        if self._options.templates:
            self._bulk.put_templates()
        if len(self._known) > 10_000:
            self._known.clear()

    def _register(
        self, events: Mapping[str, _Events], rejected: dict[tuple[str, int, int], tuple[SinkRecord, str]]
    ) -> None:
        """Apply the events of some endpoints, each in its order."""
        waiting = dict(events)
        for _ in range(_ROUNDS):
            there = self._bulk.read(self._endpoints, list(waiting), "applied,root")
            documents: dict[str, Document] = {}
            for identity, some in waiting.items():
                found = there.get(identity)
                source = found["_source"] if found else {}
                changes, whole = self._changes(some, source)
                if changes:
                    seen = (found["_seq_no"], found["_primary_term"]) if found else None
                    documents[identity] = endpoint_document(
                        some[-1][0], self._endpoints, identity, changes, seen, whole=whole
                    )
            by_document = {id(document): identity for identity, document in documents.items()}
            again: dict[str, _Events] = {}
            for refusal in self._bulk.send(documents.values()):
                identity = by_document[id(refusal.document)]
                if refusal.conflict:
                    again[identity] = waiting[identity]
                elif len(waiting[identity]) == 1:
                    _reject(rejected, waiting[identity][0][0], refusal.words)
                else:
                    # One of them is guilty; alone, each shows whether it is.
                    for one in waiting[identity]:
                        self._register({identity: [one]}, rejected)
            if not again:
                return
            waiting = again
        raise RetryLater(f"Elasticsearch: {len(waiting)} endpoints are written by another instance just now")

    def _changes(self, events: _Events, source: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """What the events that are news change of the endpoint whose document has ``applied`` and ``root``, and whether
        that is all there is of it: a new registration says everything anew."""
        changes: dict[str, Any] = {}
        whole = False
        applied = source.get("applied")
        root = source.get("root") or "/"
        for record, body in events:
            if applied is not None and not is_newer(
                record,
                same_source=(applied["topic"], applied["partition"]) == (record.topic, record.partition),
                offset=applied["offset"],
                event_time_ms=applied["time"],
            ):
                continue
            applied = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "time": record.timestamp,
            }
            changes |= endpoint_changes(body, root, self._definitions) | {"applied": applied}
            root = changes.get("root") or root
            whole = whole or isinstance(body, RegistrationNew)
        return changes, whole


def _reject(rejected: dict[tuple[str, int, int], tuple[SinkRecord, str]], record: SinkRecord, reason: str) -> None:
    """Once a record, with the first reason: it may have several documents."""
    rejected.setdefault((record.topic, record.partition, record.offset), (record, reason))


def open_elasticsearch(options: Mapping[str, object]) -> ElasticsearchSink:
    """The sink of `KIND`. It asks nothing of Elasticsearch yet.

    Raises:
        SinkConfigError: wrong options.
    """
    parsed = parse_options("elasticsearch", ElasticsearchOptions, options)
    return ElasticsearchSink(parsed, object_definitions("elasticsearch", parsed.definitions))


KIND = SinkKind(
    name="elasticsearch",
    open=open_elasticsearch,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.JOINED),
    # A document is always written as a whole.
    corrects=True,
    sample_config="""\
# History and the asset graph in Elasticsearch 7.17 to 9, or OpenSearch.
[elasticsearch]
# Where the nodes answer; the next is asked when one does not.
hosts = ["http://127.0.0.1:9200"]
# The user and the password. Default: none, for a cluster that asks for none.
# user = "headwater"
# password = "secret"
# Instead of password: a file that holds it, such as a secret of the stack.
# password_file = "/run/secrets/elasticsearch_password"
# Instead of user and password: an API key, as "encoded" or as "id:api_key".
# api_key = "VnVhQ2ZHY0JDZGJrU..."
# Instead of api_key: a file that holds it.
# api_key_file = "/run/secrets/elasticsearch_api_key"
# A file with the certificates (PEM) of those who may have signed the nodes', for https. Default: the system's.
# ca_file = "ca.pem"
# What the names of all indices and templates begin with; lower case, without a dot.
# prefix = "headwater"
# Whether the index templates are put; false if you look after them (number of shards, life cycle) yourself.
# templates = true
# Of each index, in those templates.
# shards = 1
# replicas = 1
# A bulk request is at most this large before compression, in megabytes; see http.max_content_length of the nodes.
# bulk_mb = 5
# Whether requests are compressed on their way.
# gzip = true
# How long a node may take for an answer, in seconds.
# timeout_s = 30
# A folder of OMA LwM2M XML files, for the names of objects beyond the built-in ones.
# definitions = "objects/"
""",
)
