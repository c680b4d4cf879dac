"""The InfluxDB sink: history as points of one measurement, in InfluxDB 1.8 and 2.

Owns what is sent and what an answer means; the lines themselves are `connectors.sinks.influxdb_lines`. Both versions
are written through ``POST /api/v2/write`` by influxdb-client; as a user with a password through ``POST /write``, where
InfluxDB 2 takes one. It creates no database or bucket, and deletes nothing.

A point is identified by its tags and its time, and the time follows from the record's own place in Kafka; so a record
that comes again overwrites its own points with the same values. InfluxDB says "partial write" without saying which of
the points it has dropped: the batch is then written again in halves, until those that it refuses stand alone.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from connectors.sinks.influxdb_lines import Formatter, Lines, PointTime
from connectors.sinks.options import SinkOptions, parse_options, read_secret
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.topics import TopicKind

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient
    from influxdb_client.rest import ApiException
    from influxdb_client.service.write_service import WriteService

#: What InfluxDB says about points; any other 400 or 422 may be about the whole request.
_ABOUT_POINTS = re.compile("partial write|parse|type conflict|key length")
#: What it says when it is full: the points are fine, and people must raise a limit. An answer may quote what devices
#: say, so this and the number count only in their places.
_FULL = re.compile(r"(failure writing points to database: )?partial write: max-[a-z-]+ limit exceeded")
_DROPPED = re.compile(r"dropped=(\d+)$")

#: What version 2 says of the organization. What devices say may be anywhere in an answer, but for its beginning.
_NO_ORG = re.compile("Please provide either orgID or org|organization ")

#: After so many answers that are not about points, and not one batch taken, the search for the guilty ends.
_DOUBTS = 40

_ORG_ADVICE = "InfluxDB 2 needs the organization in which the bucket is: set org to its name or ID"
_ADVICE = {
    401: "it refuses the token or the user: check it (for InfluxDB 1.8: user and password)",
    403: "the token or the user may not write there: give it the right to write",
    404: "there is no such bucket: create it (for InfluxDB 1.8: database/retention policy), or name another",
}


def http_url(url: str) -> str:
    """``url`` without a slash at its end.

    Raises:
        ValueError: it is no address of a server, or more than that.
    """
    parts = urlsplit(url)
    # Reading the port is what checks it.
    if parts.port == 0 or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address such as http://127.0.0.1:8086 is needed")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it is only the server's address; name and password belong into the token")
    return url.rstrip("/")


class InfluxdbOptions(SinkOptions):
    """The options of the sink."""

    url: Annotated[str, AfterValidator(http_url)] = Field(description="where InfluxDB answers")
    bucket: str = Field(min_length=1, description="the bucket, or database/retention policy of InfluxDB 1.8")
    org: str = ""
    user: str | None = Field(None, pattern=r"^[^\x00-\x1f\x7f:]+$")
    password: SecretStr | None = None
    password_file: FilePath | None = None
    token: SecretStr | None = None
    token_file: FilePath | None = None
    timeout_s: float = Field(10.0, ge=0.1, le=100.0)
    gzip: bool = False
    ca_file: FilePath | None = None
    time: PointTime = PointTime.GATEWAY

    @model_validator(mode="after")
    def _one_token(self) -> InfluxdbOptions:
        if self.token is not None and self.token_file is not None:
            raise ValueError("it is token or token_file, not both")
        passwords = (self.password is not None) + (self.password_file is not None)
        if passwords != (self.user is not None):
            raise ValueError("user goes with password or password_file, and these with user")
        if self.user is not None and (self.token is not None or self.token_file is not None):
            raise ValueError("it is a user with a password, or a token, not both")
        return self

    def secret(self) -> str:
        """The token, or ``user:password``, from its file if it is in one; empty for a server that asks for none.

        Raises:
            SinkConfigError: the file cannot be read, or holds no token.
        """
        if self.user is not None:
            password = self.password.get_secret_value() if self.password is not None else ""
            if self.password_file is not None:
                password = read_secret("influxdb", "password_file", self.password_file)
            return f"{self.user}:{password}"
        token = self.token.get_secret_value() if self.token is not None else ""
        if self.token_file is not None:
            token = read_secret("influxdb", "token_file", self.token_file).strip()
            if not token:
                raise SinkConfigError(f"token_file of the sink influxdb: {self.token_file} is empty")
        if not token.isprintable():
            raise SinkConfigError("the token of the sink influxdb holds control characters")
        return token


class _Refusal(NamedTuple):
    """Why not all points of a request were taken; ``dropped`` is how many of them, where InfluxDB says so."""

    words: str
    dropped: int | None
    #: It is surely about points and not about the request.
    points: bool


class InfluxdbSink:
    """`connectors.sinks.sink.Sink` on one bucket."""

    def __init__(self, options: InfluxdbOptions) -> None:
        self._options = options
        self._formatter = Formatter(options.time)
        self._connection: tuple[InfluxDBClient, WriteService] | None = None

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: one request for the whole batch, more if InfluxDB refuses some of it."""
        rejected: list[tuple[SinkRecord, str]] = []
        made: list[Lines] = []
        for record in records:
            try:
                made.append(self._formatter.lines(record))
            except ValueError as exc:
                rejected.append((record, str(exc)))
        if made:
            rejected += self._write(made)
        if rejected:
            raise RejectedRecords(rejected)

    def close(self) -> None:
        """See `Sink.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection[0].close()  # type: ignore[no-untyped-call]  # not annotated

    def connect(self) -> tuple[InfluxDBClient, WriteService]:
        """Make the client; it opens no connection yet.

        Raises:
            SinkConfigError: influxdb-client is missing, or there is something wrong with the token or certificate.
        """
        try:
            from influxdb_client.client.influxdb_client import InfluxDBClient
            from influxdb_client.service.write_service import WriteService
        except ImportError as exc:
            raise SinkConfigError("influxdb-client is not installed: pip install 'headwater[influxdb]'") from exc
        options = self._options
        token = options.secret()
        if options.ca_file is not None and not options.ca_file.is_file():
            raise SinkConfigError(f"ca_file of the sink influxdb: there is no file {options.ca_file}")
        client = InfluxDBClient(
            options.url,
            token,
            timeout=int(options.timeout_s * 1000),
            org=options.org,
            ssl_ca_cert=options.ca_file and str(options.ca_file),
            # InfluxDB 1.8 splits "Token user:password" at spaces and takes both for Latin-1; this it reads whole.
            auth_basic=options.user is not None or " " in token or not token.isascii(),
        )
        self._connection = client, WriteService(client.api_client)  # type: ignore[no-untyped-call]  # not annotated
        return self._connection

    def _write(self, made: Sequence[Lines]) -> list[tuple[SinkRecord, str]]:
        """The records that InfluxDB refuses; all others are written. Raises RetryLater."""
        refused: list[tuple[SinkRecord, str]] = []
        taken, doubts = False, 0
        todo = [made]
        while todo:
            some = todo.pop()
            refusal = self._send(some)
            if refusal is None:
                taken = True
                continue
            doubts += not refusal.points
            if len(some) == 1 or refusal.dropped == sum(lines.number for lines in some):
                refused += [(lines.record, f"InfluxDB: {refusal.words}") for lines in some]
            else:
                half = len(some) // 2
                todo += [some[half:], some[:half]]
            if doubts and not taken and (doubts >= _DOUBTS or not todo):
                # It takes nothing at all, for a reason that we do not know: that is hardly the fault of the records.
                raise RetryLater(f"{self._where}: {refusal.words}")
        return refused

    def _send(self, some: Sequence[Lines]) -> _Refusal | None:
        """One request. Raises RetryLater when InfluxDB takes nothing now."""
        from influxdb_client.rest import ApiException
        from urllib3.exceptions import HTTPError

        options = self._options
        body = b"\n".join(lines.text for lines in some)
        encoding = {}
        if options.gzip:
            # The client's own would be of level 9: five times the CPU, to send a seventh less.
            body, encoding = gzip.compress(body, 1, mtime=0), {"content_encoding": "gzip"}
        try:
            client, service = self._connection or self.connect()
        except SinkConfigError as exc:
            # The token's file was there when we began; it is being replaced.
            raise RetryLater(str(exc)) from exc
        try:
            if options.user is not None:
                status = self._write_as_user(client, body, encoding)
            else:
                _, status, _ = service.post_write_with_http_info(  # type: ignore[no-untyped-call]  # not annotated
                    options.org, options.bucket, body, precision="ns", **encoding
                )
        except ApiException as exc:
            return self._refusal(exc)
        except (HTTPError, OSError, ValueError) as exc:
            # Not there, too slow, or no HTTP; the next attempt starts with a fresh connection.
            self.close()
            raise RetryLater(f"{self._where}: {_short(str(exc) or type(exc).__name__)}") from exc
        if status != 204:
            raise RetryLater(f"{self._where}: it answers {status} and not 204: is it InfluxDB?")
        return None

    def _write_as_user(self, client: InfluxDBClient, body: bytes, encoding: Mapping[str, str]) -> int:
        """The same request as clients of 1.x make it; the status of the answer."""
        database, _, policy = self._options.bucket.partition("/")
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if encoding:
            headers["Content-Encoding"] = encoding["content_encoding"]
        _, status, _ = client.api_client.call_api(  # type: ignore[no-untyped-call]  # not annotated
            "/write",
            "POST",
            query_params=[("db", database), ("precision", "ns"), *([("rp", policy)] if policy else [])],
            header_params=headers,
            body=body,
            urlopen_kw=None,
        )
        return int(status)

    def _refusal(self, exc: ApiException) -> _Refusal:
        """What an answer says about points. Raises RetryLater if it is about something else."""
        words = _words(exc.body) or str(exc.reason)
        no_org = exc.status in (400, 404) and _NO_ORG.match(words) is not None
        if exc.status in (400, 413, 422) and not _FULL.match(words) and not no_org:
            dropped = _DROPPED.search(words)
            return _Refusal(
                _short(words),
                int(dropped[1]) if dropped else None,
                exc.status == 413 or _ABOUT_POINTS.search(words) is not None,
            )
        if exc.status in (401, 403):
            # The token may be another one by the next attempt, if it is in a file.
            self.close()
        advice = _ORG_ADVICE if no_org else _ADVICE.get(exc.status or 0)
        raise RetryLater(
            f"{self._where}: {advice + '; it says ' if advice else ''}{exc.status or ''} {_short(words)}",
            _seconds(exc.retry_after),
        ) from exc

    @property
    def _where(self) -> str:
        return f"InfluxDB at {self._options.url}, bucket {self._options.bucket}"


def _words(body: object) -> str:
    """What an answer says: version 1.8 has it in ``error``, version 2 in ``message``, a proxy somewhere in a page."""
    text = str(body or "")
    with suppress(ValueError):
        told = json.loads(text)
        if isinstance(told, dict):
            return str(told.get("error") or told.get("message") or text)
    return text


def _short(words: str) -> str:
    """One line that fits into a log and into a dead letter's header; the end of long words is kept, it has counts."""
    line = " ".join(words.split())
    return line if len(line) <= 400 else f"{line[:300]} … {line[-90:]}"


def _seconds(retry_after: object) -> float | None:
    """The header Retry-After, where it is a number of seconds (RFC 9110, section 10.2.3)."""
    text = str(retry_after or "")
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def open_influxdb(options: Mapping[str, object]) -> InfluxdbSink:
    """The sink of `KIND`. It asks nothing of InfluxDB yet.

    Raises:
        SinkConfigError: wrong options, or influxdb-client is not installed.
    """
    sink = InfluxdbSink(parse_options("influxdb", InfluxdbOptions, options))
    sink.connect()
    return sink


KIND = SinkKind(
    name="influxdb",
    open=open_influxdb,
    topics=(TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.JOINED),
    corrects=True,
    library="influxdb_client",
    sample_config="""\
# History in InfluxDB 1.8 or 2.
[influxdb]
# Where InfluxDB answers.
url = "http://127.0.0.1:8086"
# The bucket, which must exist; for InfluxDB 1.8 a database, or database/retention policy.
bucket = "headwater/autogen"
# The organization of the bucket, its name or ID: InfluxDB 2 needs it, 1.8 has none.
# org = "home"
# Who writes: a user of InfluxDB 1.8, or in InfluxDB 2 one for clients of 1.x ("v1 auth"), with its password in a file
# or here as: password = "..."
# user = "headwater-sink"
# password_file = "/run/secrets/influxdb_sink_password"
# Or a token; for InfluxDB 1.8 it is user:password. Default: none, for a server that asks for none.
# token = "writer:secret"
# Instead of token: a file that holds it, such as a secret of the stack.
# token_file = "/run/secrets/influxdb_token"
# How long InfluxDB may take for an answer, in seconds.
# timeout_s = 10
# Whether batches are compressed on their way: a sixth of the bytes, for a third more of the sink's time.
# gzip = false
# A file with the certificates (PEM) of those who may have signed the server's, for https. Default: the system's.
# ca_file = "ca.pem"
# The time of a point: "gateway" is when the gateway had the value, "device" the device's own time where it gave one.
# time = "gateway"
""",
)
