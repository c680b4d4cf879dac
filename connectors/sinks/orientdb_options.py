"""The options of the OrientDB sink."""

from __future__ import annotations

import ssl
from enum import Enum
from pathlib import Path as FilePath

from pydantic import Field, SecretStr, model_validator

from connectors.sinks.options import SinkOptions, read_secret, tls_context


class Protocol(Enum):
    """How to speak with OrientDB."""

    BINARY = "binary"
    HTTP = "http"


class OrientdbOptions(SinkOptions):
    """The options of the sink."""

    host: str = Field("127.0.0.1", min_length=1)
    protocol: Protocol = Protocol.BINARY
    port: int | None = Field(None, ge=1, le=65535)
    database: str = Field("headwater", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    user: str = Field(min_length=1, description="a user of the database, or of the server")
    password: SecretStr | None = None
    password_file: FilePath | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    timeout_s: float = Field(5.0, ge=0.1, le=100.0)
    definitions: FilePath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> OrientdbOptions:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("it needs password or password_file, and not both")
        if self.tls and self.protocol is not Protocol.HTTP:
            raise ValueError('tls goes with protocol = "http": the binary protocol is not encrypted')
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file is for tls = true")
        return self

    def secret(self) -> str:
        """The password, from its file if it is in one.

        Raises:
            SinkConfigError: the file cannot be read.
        """
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else ""
        return read_secret("orientdb", "password_file", self.password_file)

    def ssl_context(self) -> ssl.SSLContext | None:
        """As `tls_context`; None without TLS."""
        return tls_context("orientdb", self.ca_file) if self.tls else None
