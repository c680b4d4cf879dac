"""The options of the Prometheus sink: where it writes, as whom, which paths, and how series are named."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from connectors.sinks.options import SinkOptions, read_secret
from connectors.sinks.prometheus_series import LONGEST_LABEL, OWN_LABELS, SampleTime
from connectors.sinks.sink import SinkConfigError
from schemas.lwm2m.path import PathPattern

_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z", re.ASCII)
#: These are the sink's own, or the connection's.
_TAKEN_HEADERS = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "x-prometheus-remote-write-version",
    }
)


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address such as http://127.0.0.1:9090/api/v1/write is needed")
    if parts.username is not None or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it has no name, no password, no fragment and only printable ASCII characters")
    _ = parts.port  # raises ValueError where it is none
    return url


class PrometheusOptions(SinkOptions):
    """The options of the sink."""

    url: Annotated[str, AfterValidator(_address)] = Field(description="where remote-write is taken")
    query_url: str | None = None
    paths: tuple[str, ...] = ()
    time: SampleTime = SampleTime.DEVICE
    prefix: str = Field("lwm2m", pattern=r"^[a-zA-Z][a-zA-Z0-9_]{0,63}\z")
    labels: dict[str, str] = Field(default_factory=dict)
    definitions: FilePath | None = None
    user: str | None = None
    password: SecretStr | None = None
    password_file: FilePath | None = None
    token: SecretStr | None = None
    token_file: FilePath | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    max_samples: int = Field(5_000, ge=1, le=100_000)
    timeout_s: float = Field(10.0, ge=0.1, le=100.0)
    ca_file: FilePath | None = None

    @field_validator("query_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        return _address(url) if url else url

    @field_validator("paths")
    @classmethod
    def _are_patterns(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            PathPattern.parse(path)
        return paths

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, value in labels.items():
            if not _LABEL.match(name) or name in OWN_LABELS:
                raise ValueError(f"{name!r} is no name for a label here")
            if len(value) > LONGEST_LABEL:
                raise ValueError(f"the label {name} is longer than {LONGEST_LABEL} characters")
        return labels

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = value.get_secret_value()
            if not _HEADER.match(name) or name.lower() in _TAKEN_HEADERS:
                raise ValueError(f"{name!r} is no header that can be added")
            if not text.isascii() or not text.isprintable():
                raise ValueError(f"the header {name} has only printable ASCII characters")
        return headers

    @model_validator(mode="after")
    def _one_identity(self) -> PrometheusOptions:
        if self.password is not None and self.password_file is not None:
            raise ValueError("it is password or password_file, not both")
        if self.token is not None and self.token_file is not None:
            raise ValueError("it is token or token_file, not both")
        has_password = self.password is not None or self.password_file is not None
        has_token = self.token is not None or self.token_file is not None
        if has_token and (has_password or self.user is not None):
            raise ValueError("it is a user with a password, or a token, not both")
        if has_password != (self.user is not None):
            raise ValueError("a user needs a password, and a password a user")
        if self.user is not None and (":" in self.user or not self.user.isprintable()):
            raise ValueError("the user has no colon and no control characters")
        return self

    def query_address(self) -> str | None:
        """Where to ask for what is there: `query_url`, or beside a url of Prometheus; None: nowhere."""
        if self.query_url is not None:
            return self.query_url or None
        return f"{self.url[: -len('write')]}query" if self.url.endswith("/api/v1/write") else None

    def authorization(self) -> str | None:
        """The header ``Authorization`` (RFC 7617, RFC 6750), from the files as they are now.

        Raises:
            SinkConfigError: a file cannot be read, or there is nothing in it.
        """
        if self.user is not None:
            password = _secret("password", self.password, self.password_file)
            return "Basic " + b64encode(f"{self.user}:{password}".encode()).decode()
        if self.token is not None or self.token_file is not None:
            token = _secret("token", self.token, self.token_file)
            if not token.isascii() or " " in token:
                raise SinkConfigError("the token of the sink prometheus holds characters that no token has")
            return f"Bearer {token}"
        return None


def _secret(option: str, value: SecretStr | None, file: FilePath | None) -> str:
    if value is not None:
        found = value.get_secret_value()
    else:
        assert file is not None
        found = read_secret("prometheus", f"{option}_file", file)
    if not found:
        raise SinkConfigError(f"the {option} of the sink prometheus is empty")
    if not found.isprintable():
        raise SinkConfigError(f"the {option} of the sink prometheus holds control characters")
    return found


SAMPLE_CONFIG = """\
# Numbers as Prometheus samples.
[prometheus]
# Where remote-write is taken. Mimir has it at /api/v1/push, Thanos at /api/v1/receive.
url = "http://127.0.0.1:9090/api/v1/write"
# Where to ask which samples are there already, before any is refused. Default: beside a url that ends with
# /api/v1/write; "" asks nobody.
# query_url = "http://127.0.0.1:9090/api/v1/query"
# Only the values at or below these paths; * stands for any id. Default: all numbers.
# paths = ["/3303/*/5700", "/3/0/9"]
# The time of a sample: "device" is the device's own time where it gave one, "gateway" when the gateway had the value.
# time = "device"
# How the names of all metrics begin.
# prefix = "lwm2m"
# Labels of every series, beside its own.
# labels = {site = "north"}
# A folder with more object definitions (OMA's XML files), for the names of metrics.
# definitions = "objects"
# For a server that asks who writes: a user with a password, or a token; each secret can be in a file.
# user = "writer"
# password_file = "/run/secrets/prometheus_password"
# token_file = "/run/secrets/prometheus_token"
# Headers of every request.
# headers = {X-Scope-OrgID = "tenant"}
# A request has no more samples than these.
# max_samples = 5000
# How many seconds connecting, and then a request to the end of its answer, may take.
# timeout_s = 10
# Certificates (PEM) of a private certification authority, for https. Default: those of the system.
# ca_file = "/etc/ssl/private-ca.pem"
"""
