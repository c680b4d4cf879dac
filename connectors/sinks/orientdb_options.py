"""The options of the OrientDB sink."""

from __future__ import annotations

from enum import Enum
from pathlib import Path as FilePath

from pydantic import Field, SecretStr, model_validator

from connectors.sinks.options import SinkOptions, read_secret


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
    timeout_s: float = Field(5.0, ge=0.1, le=100.0)
    definitions: FilePath | None = None

    @model_validator(mode="after")
    def _one_password(self) -> OrientdbOptions:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("it needs password or password_file, and not both")
        return self

    def secret(self) -> str:
        """The password, from its file if it is in one.

        Raises:
            SinkConfigError: the file cannot be read.
        """
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else ""
        return read_secret("orientdb", "password_file", self.password_file)
