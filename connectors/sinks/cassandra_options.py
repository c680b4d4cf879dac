"""The options of the Cassandra sink."""

from __future__ import annotations

import ssl
from enum import Enum
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from connectors.sinks.cassandra_tables import Bucket
from connectors.sinks.options import SinkOptions, read_secret, tls_context

#: Of the native protocol.
PORT = 9042


class Consistency(Enum):
    """How many replicas must have a write before it counts; the names are Cassandra's."""

    ONE = "ONE"
    TWO = "TWO"
    THREE = "THREE"
    QUORUM = "QUORUM"
    ALL = "ALL"
    LOCAL_QUORUM = "LOCAL_QUORUM"
    EACH_QUORUM = "EACH_QUORUM"
    LOCAL_ONE = "LOCAL_ONE"


def contact_point(text: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port`` or ``[2001:db8::1]:port``.

    Raises:
        ValueError: it is neither.
    """
    wrong = f"{text!r} is no contact point such as 10.0.0.1 or cassandra-1:{PORT}"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(wrong) from exc
    if not host or port == 0 or parts.netloc != text or "@" in text or any(c.isspace() for c in text):
        raise ValueError(wrong)
    return host, PORT if port is None else port


def _contact_points(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        contact_point(text)
    return texts


class CassandraOptions(SinkOptions):
    """The options of the sink."""

    contact_points: Annotated[tuple[str, ...], AfterValidator(_contact_points)] = Field(
        ("127.0.0.1",), min_length=1, description="where the first of Cassandra's nodes answer"
    )
    datacenter: str | None = Field(None, min_length=1)
    # Always quoted where it is used; a name in lower case needs no quotes in cqlsh.
    keyspace: str = Field("headwater", pattern=r"^[a-z][a-z0-9_]{0,47}$")
    replication: (
        Annotated[int, Field(ge=1, le=100)]
        | dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], Annotated[int, Field(ge=0, le=100)]]
    ) = 1
    consistency: Consistency = Consistency.LOCAL_QUORUM
    bucket: Bucket = Bucket.DAY
    # Cassandra's own bound is 20 years.
    ttl_days: float | None = Field(None, gt=0, le=7300, allow_inf_nan=False)
    user: str | None = Field(None, min_length=1)
    password: SecretStr | None = None
    password_file: FilePath | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    timeout_s: float = Field(10.0, ge=0.1, le=100.0)
    concurrency: int = Field(32, ge=1, le=1024)
    batch_rows: int = Field(32, ge=1, le=1000)
    definitions: FilePath | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> CassandraOptions:
        if self.password is not None and self.password_file is not None:
            raise ValueError("it is password or password_file, not both")
        if (self.user is None) != (self.password is None and self.password_file is None):
            raise ValueError("user and password (or password_file) belong together")
        if not self.tls and any((self.ca_file, self.cert_file, self.key_file)):
            raise ValueError("ca_file, cert_file and key_file need tls = true")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file")
        return self

    @property
    def ttl_s(self) -> int:
        """How long rows of history live; 0: for ever."""
        return 0 if self.ttl_days is None else max(1, int(self.ttl_days * 86_400))

    def secret(self) -> str:
        """The password, from its file if it is in one; empty where there is none.

        Raises:
            SinkConfigError: the file cannot be read.
        """
        if self.password_file is not None:
            return read_secret("cassandra", "password_file", self.password_file)
        return self.password.get_secret_value() if self.password is not None else ""

    def ssl_context(self) -> ssl.SSLContext | None:
        """How TLS is spoken: the server's certificate and name are checked; None without TLS.

        Raises:
            SinkConfigError: a certificate or key cannot be read.
        """
        if not self.tls:
            return None
        return tls_context("cassandra", self.ca_file, self.cert_file, self.key_file)
