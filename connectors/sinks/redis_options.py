"""The options of the Redis sink."""

from __future__ import annotations

from pathlib import Path as FilePath

from pydantic import Field, SecretStr, model_validator

from connectors.sinks.options import SinkOptions, read_secret
from connectors.sinks.sink import SinkConfigError


class RedisOptions(SinkOptions):
    """The options of the sink."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(6379, ge=1, le=65535)
    database: int = Field(0, ge=0)
    cluster: bool = False
    user: str | None = Field(None, min_length=1)
    password: SecretStr | None = None
    password_file: FilePath | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    timeout_s: float = Field(5.0, ge=0.1, le=100.0)
    prefix: str = Field("hw", pattern=r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)*$", max_length=100)
    stream_max: int = Field(10_000, ge=0, le=1_000_000_000)
    wait_for_disk: bool = False
    definitions: FilePath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RedisOptions:
        if self.password is not None and self.password_file is not None:
            raise ValueError("it is password or password_file, not both")
        if self.user is not None and self.password is None and self.password_file is None:
            raise ValueError("a user needs password or password_file")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("ca_file, cert_file and key_file are for tls = true")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        if self.cluster and (self.database or self.wait_for_disk):
            raise ValueError("a cluster has only the database 0, and no wait_for_disk")
        return self

    def secret(self) -> str | None:
        """The password, from its file if it is in one; None for a server that asks for none.

        Raises:
            SinkConfigError: the file cannot be read, or holds none.
        """
        if self.password_file is None:
            return None if self.password is None else self.password.get_secret_value()
        secret = read_secret("redis", "password_file", self.password_file)
        if not secret:
            raise SinkConfigError(f"password_file of the sink redis: {self.password_file} is empty")
        return secret

    def check_files(self) -> None:
        """Raises SinkConfigError where a file of the certificates is missing."""
        for name in ("ca_file", "cert_file", "key_file"):
            file: FilePath | None = getattr(self, name)
            if file is not None and not file.is_file():
                raise SinkConfigError(f"{name} of the sink redis: there is no file {file}")
