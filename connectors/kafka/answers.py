"""What Kafka's answers mean, and its silence: one of three errors, in words that say what to do.

Owns which codes are a refusal and which a broker that is away. It asks nothing but what is wrong with TLS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from connectors.kafka.cluster import Cluster
from connectors.kafka.tls_trouble import trouble

#: Kafka's refusals, and what is lacking.
REFUSALS: Mapping[int, str] = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a right to the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the right to the consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "a right to the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the right to the transactional id",
}


#: What a broker says that is not settled yet. It was reached, so there is nothing wrong with TLS.
_UNSETTLED = (KafkaError._NOENT, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION)


#: Errors of a broker that is away, or not settled yet: asking again later will do.
SILENCE = (
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.REQUEST_TIMED_OUT,
    *_UNSETTLED,
)


class Unreachable(Exception):
    """No broker of the cluster answered in time."""


class TopicMissing(Exception):
    """A topic that is needed does not exist."""


class NotAllowed(KafkaException):  # type: ignore[misc]  # confluent_kafka has no types
    """Kafka's access control refuses us. A `KafkaException`: who waits for Kafka waits for the right as well."""

    def __init__(self, error: KafkaError, words: str) -> None:
        super().__init__(error)
        self.words = words

    def __str__(self) -> str:
        return self.words


@contextmanager
def answering(what: str, cluster: Cluster | None) -> Iterator[None]:
    """Within it a broker is asked for ``what``.

    Raises:
        Unreachable: it did not answer. NotAllowed: it refuses us. KafkaException: anything else that it says.
    """
    try:
        yield
    except KafkaException as exc:
        code = exc.args[0].code()
        if code in SILENCE:
            why = None
            if cluster is not None and code not in _UNSETTLED:
                why = trouble(cluster.bootstrap, cluster.tls)
            raise Unreachable(f"{_who(cluster)} did not tell {what}: {why or exc.args[0].str()}") from exc
        if code in REFUSALS and not isinstance(exc, NotAllowed):
            raise NotAllowed(exc.args[0], in_words(exc.args[0], cluster, f"asked {what}")) from exc
        raise
    except TimeoutError as exc:
        raise Unreachable(f"{_who(cluster)} did not tell {what} in time") from exc


def _who(cluster: Cluster | None) -> str:
    return "Kafka" if cluster is None else f"Kafka at {cluster.bootstrap}"


def refusal_of(error: KafkaError) -> int | None:
    """The code of the refusal behind ``error``, or None if it is not by Kafka's access control.

    A gapless producer that is refused fails for good, and says only in its text why.
    """
    if error.code() in REFUSALS:
        return int(error.code())
    if error.code() in (KafkaError._GAPLESS_GUARANTEE, KafkaError._FATAL):
        return next((code for code in REFUSALS if KafkaError(code).str() in error.str()), None)
    return None


def silence(cluster: Cluster) -> str:
    """Why no broker answers, for people: what is wrong with TLS if it is that, else that none does."""
    return trouble(cluster.bootstrap, cluster.tls) or f"no broker answers at {cluster.bootstrap}"


def in_words(error: KafkaError, cluster: Cluster | None, when: str = "") -> str:
    """An error of Kafka for people: who was refused what, if it is a refusal. ``when``: what was being done."""
    refused = refusal_of(error)
    if refused is None:
        return f"Kafka: {error.str()}"
    lacks = REFUSALS[refused]
    who, at = ("this client", "") if cluster is None else (cluster.speaker, f" at {cluster.bootstrap}")
    asked = f" when it {when}" if when else ""
    named = cluster is not None and cluster.tls is not None
    shown = f"headwater acl rights {who if named else 'ROLE:NAME'} --side edge|cloud"
    # Some brokers tell the whole request.
    said = error.str() if len(error.str()) < 200 else error.name()
    return f"Kafka{at} refuses {who}{asked}: it lacks {lacks} ({said}). `{shown}` says which rights it should have"
