"""The options of the Elasticsearch sink."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from connectors.sinks.options import SinkOptions, read_secret
from connectors.sinks.sink import SinkConfigError


def _host(url: str) -> str:
    parts = urlsplit(url)
    # Reading the port is what checks it.
    if parts.port == 0 or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address such as http://127.0.0.1:9200 is needed")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it is only the server's address; name and password have options of their own")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it holds characters that no address has")
    return url.rstrip("/")


class ElasticsearchOptions(SinkOptions):
    """The options of the sink."""

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(("http://127.0.0.1:9200",), min_length=1)
    user: str | None = Field(None, min_length=1)
    password: SecretStr | None = None
    password_file: FilePath | None = None
    api_key: SecretStr | None = None
    api_key_file: FilePath | None = None
    ca_file: FilePath | None = None
    #: What the names of all indices and templates begin with. Lower case, as Elasticsearch wants names of indices; no
    #: dot, so that the pattern of the history never takes in the index of the endpoints.
    prefix: str = Field("headwater", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    templates: bool = True
    shards: int = Field(1, ge=1, le=1024)
    replicas: int = Field(1, ge=0, le=100)
    bulk_mb: float = Field(5.0, ge=0.01, le=100.0)
    gzip: bool = True
    timeout_s: float = Field(30.0, ge=0.1, le=60.0)
    definitions: FilePath | None = None

    @model_validator(mode="after")
    def _one_identity(self) -> ElasticsearchOptions:
        passwords = (self.password is not None) + (self.password_file is not None)
        keys = (self.api_key is not None) + (self.api_key_file is not None)
        if passwords > 1 or keys > 1:
            raise ValueError("a secret is given as itself or in a file, not both")
        if keys and (passwords or self.user is not None):
            raise ValueError("it is user and password, or an API key, not both")
        if passwords != (self.user is not None):
            raise ValueError("user and password (or password_file) belong together")
        if self.user is not None and (":" in self.user or not self.user.isprintable()):
            raise ValueError("a user's name holds no colon and no control characters (RFC 7617, section 2)")
        return self

    def authorization(self) -> str | None:
        """The header ``Authorization``, its secret from a file if it is in one; None for a server that asks for none.

        Raises:
            SinkConfigError: a file cannot be read or is empty, or the secret can be none; nothing of it is told.
        """
        if self.user is not None:
            password = _secret(self.password, "password_file", self.password_file)
            return f"Basic {b64encode(f'{self.user}:{password}'.encode()).decode()}"
        if self.api_key is not None or self.api_key_file is not None:
            key = _secret(self.api_key, "api_key_file", self.api_key_file).strip()
            # As Elasticsearch tells it, ``encoded``; or the two parts that are in there, ``id:api_key``.
            encoded = b64encode(key.encode()).decode() if ":" in key else key
            if not encoded.isascii():
                raise SinkConfigError("the API key of the sink elasticsearch holds characters that no key has")
            return f"ApiKey {encoded}"
        return None


def _secret(given: SecretStr | None, option: str, file: FilePath | None) -> str:
    secret = given.get_secret_value() if given is not None else ""
    if file is not None:
        secret = read_secret("elasticsearch", option, file)
        if not secret.strip():
            raise SinkConfigError(f"{option} of the sink elasticsearch: {file} is empty")
    if not secret.isprintable():
        raise SinkConfigError("a secret of the sink elasticsearch holds control characters")
    return secret
