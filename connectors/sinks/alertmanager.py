"""The sink of alerts into Prometheus Alertmanager (API version 2, ``POST /api/v2/alerts``).

Owns which answer means what, and that Alertmanager is told of what fires again and again: it keeps alerts in its memory
only, and ends each that it hears no more of. What fires is what the topic says, so each instance reads its partitions
from their beginning; a restart here or there loses nothing. An alert is known there by its labels: told again, it
changes nothing. The job that raises alerts waits for none of it.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter
from pydantic import AfterValidator, Field, SecretStr, model_validator

from connectors.sinks.alertmanager_alerts import AlertKey, AlertTable, Place
from connectors.sinks.options import SinkOptions, parse_options, read_secret
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord, Start
from connectors.sinks.webhook_client import NoAnswer, Poster, seconds
from schemas.avro.analytics_records import Alert
from schemas.avro.topics import TopicKind

_log = structlog.get_logger("headwater.sink")

#: Alerts a request.
_MOST = 1000
#: Answers that are about what the alerts hold, or how many they are.
_REFUSALS = (400, 413, 422)
#: A server may ask for patience, but not for long: alerts would end meanwhile.
_LONGEST_S = 60.0

_FAILURES = Counter("headwater_alertmanager_resend_failures", "Times that what fires could not be told of again.")


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("an address such as http://127.0.0.1:9093 is needed")
    if parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it has no name, no password and only printable ASCII characters")
    _ = parts.port  # raises ValueError where it is none
    return url


class AlertmanagerOptions(SinkOptions):
    """The options of the sink."""

    url: Annotated[str, AfterValidator(_address)] = Field(description="where Alertmanager is")
    user: str | None = Field(None, min_length=1)
    password: SecretStr | None = None
    password_file: FilePath | None = None
    ca_file: FilePath | None = None
    resend_s: float = Field(60.0, ge=0.1, le=3600.0)
    timeout_s: float = Field(5.0, ge=0.1, le=60.0)

    @model_validator(mode="after")
    def _one_password(self) -> AlertmanagerOptions:
        given = [one for one in (self.password, self.password_file) if one is not None]
        if len(given) != (self.user is not None):
            raise ValueError("a user goes with a password, either as password or as password_file")
        return self

    def headers(self) -> dict[str, str]:
        """Those of every request. Raises SinkConfigError: the file of the password cannot be read."""
        made = {"Content-Type": "application/json", "User-Agent": "headwater"}
        if self.user is not None:
            if self.password is not None:
                password = self.password.get_secret_value()
            else:
                assert self.password_file is not None
                password = read_secret("alertmanager", "password_file", self.password_file)
            made["Authorization"] = f"Basic {b64encode(f'{self.user}:{password}'.encode()).decode()}"
        return made


class AlertmanagerSink:
    """`connectors.sinks.sink.Sink` on one Alertmanager; ``clock`` is epoch seconds.

    A thread of its own tells again what fires, also while no record comes.
    """

    def __init__(self, options: AlertmanagerOptions, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._resend_s = options.resend_s
        self._headers = options.headers()
        address = urlsplit(options.url)
        try:
            self._poster = Poster(
                address._replace(path=address.path.rstrip("/") + "/api/v2/alerts"), options.timeout_s, options.ca_file
            )
        except OSError as exc:
            raise SinkConfigError(
                f"ca_file of the sink alertmanager, {options.ca_file}: {exc.strerror or exc}"
            ) from exc
        self._table = AlertTable(options.resend_s)
        #: Held while posting, too: what was built before an alert ended must not arrive after its end.
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._not_before = 0.0
        self._thread = threading.Thread(target=self._tell_again, name="alertmanager", daemon=True)
        self._thread.start()

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`. Of an alert that began and ended within ``records`` only the end is told."""
        rejected: list[tuple[SinkRecord, str]] = []
        with self._lock:
            latest: dict[AlertKey, SinkRecord] = {}
            for record in records:
                alert = record.record
                if not isinstance(alert, Alert):
                    rejected.append((record, f"a {type(alert).__name__} is no alert"))
                    continue
                place = (record.topic, record.partition)
                key = self._table.apply(record.gateway, alert, place, record.timestamp / 1000, self._clock())
                latest[key] = record
            for key, why in self._tell(self._table.changed()).items():
                if key in latest:
                    rejected.append((latest[key], why))
        if rejected:
            raise RejectedRecords(rejected)

    def lost(self, partitions: Collection[Place]) -> None:
        """See `connectors.sinks.sink.Remembers`."""
        with self._lock:
            self._table.lost(partitions)

    def close(self) -> None:
        """See `Sink.close`."""
        self._closed.set()
        self._poster.close()

    def _tell_again(self) -> None:
        while not self._closed.wait(self._resend_s):
            try:
                with self._lock:
                    keys = self._table.everything()
                for first in range(0, len(keys), _MOST):
                    with self._lock:
                        still = set(self._table.everything())
                        self._tell([key for key in keys[first : first + _MOST] if key in still])
            except RetryLater as exc:
                _FAILURES.inc()
                _log.warning("alerts could not be told again", sink="alertmanager", reason=exc.reason)

    def _tell(self, keys: Sequence[AlertKey]) -> dict[AlertKey, str]:
        """Post ``keys``; those that are refused for what they hold, and why. Raises RetryLater."""
        refused: dict[AlertKey, str] = {}
        todo = [list(keys[first : first + _MOST]) for first in range(0, len(keys), _MOST)]
        while todo:
            some = todo.pop()
            why = self._post(some)
            if why is not None and len(some) > 1:
                half = len(some) // 2
                todo += [some[half:], some[:half]]
                continue
            if why is not None:
                refused[some[0]] = why
            self._table.told(some)
        return refused

    def _post(self, keys: Sequence[AlertKey]) -> str | None:
        """None if they were taken, or why not for what they hold. Raises RetryLater."""
        now = self._clock()
        if now < self._not_before:
            raise RetryLater(f"{self._where}: it asked to wait", self._not_before - now)
        body = json.dumps(self._table.posted(keys, now), ensure_ascii=False)
        try:
            answer = self._poster.post(body.encode("utf-8", "replace"), self._headers)
        except NoAnswer as exc:
            raise RetryLater(f"{self._where}: {exc}") from exc
        if 200 <= answer.status < 300:
            return None
        said = f"{answer.status} {answer.words}".rstrip()
        if answer.status in _REFUSALS:
            return f"Alertmanager answers {said}"
        if 300 <= answer.status < 400:
            raise RetryLater(f"{self._where}: it redirects to {answer.location}, which is not followed: change the url")
        after = seconds(answer.retry_after, datetime.fromtimestamp(now, UTC))
        if after is not None:
            after = min(after, _LONGEST_S)
            self._not_before = now + after
        raise RetryLater(f"{self._where}: {said}", after)

    @property
    def _where(self) -> str:
        return f"Alertmanager at {self._poster.server}"


def open_alertmanager(options: Mapping[str, object]) -> AlertmanagerSink:
    """The sink of `KIND`; it connects when it writes.

    Raises:
        SinkConfigError: wrong options, or a file that they name cannot be read.
    """
    return AlertmanagerSink(parse_options("alertmanager", AlertmanagerOptions, options))


KIND = SinkKind(
    name="alertmanager",
    open=open_alertmanager,
    topics=(TopicKind.ALERTS,),
    start=Start.BEGINNING,
    sample_config="""\
# Alerts of the job `outliers`, told to Prometheus Alertmanager as long as they fire.
[alertmanager]
# Where it is, without the path of its API.
url = "http://127.0.0.1:9093"
# Where it asks for a name: that, and a file that holds the password; or password = "...".
# user = "headwater"
# password_file = "/run/secrets/alertmanager_password"
# Certificates (PEM) of a private certification authority. Default: those of the system.
# ca_file = "/etc/ssl/private-ca.pem"
# What fires is told again after so many seconds; Alertmanager ends what it has not heard of for four times as long.
# resend_s = 60
# How many seconds connecting, and then a request to the end of its answer, may take.
# timeout_s = 5
""",
)
