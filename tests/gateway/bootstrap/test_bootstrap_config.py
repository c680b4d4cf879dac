"""The configuration: what fits which endpoint, and what is wrong is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.bootstrap.config import parse
from gateway.bootstrap.profile import Mode, Right
from gateway.bootstrap.yaml_tree import ConfigError

SERVER = "{uri: 'coaps://gw:5684', short_id: 1, security: psk, store: keys.db}"


def config(text: str) -> object:
    return parse(text, "b.yaml", Path("/etc/headwater"))


def test_name_then_pattern_in_order_then_default() -> None:
    made = parse(
        f"endpoints: {{press-1: {{servers: [{SERVER}]}}}}\n"
        f"patterns:\n  press-*: {{servers: [{SERVER}]}}\n  '*-1': {{servers: [{SERVER}]}}\n"
        f"default: {{servers: [{SERVER}]}}\n",
        "b.yaml",
        Path("/etc/headwater"),
    )
    found = {ep: profile.name for ep in ("press-1", "press-2", "lamp-1", "lamp-2") if (profile := made.of(ep))}
    assert found == {
        "press-1": "endpoints: press-1",
        "press-2": "patterns: press-*",
        "lamp-1": "patterns: *-1",
        "lamp-2": "default",
    }


def test_without_a_default_who_fits_nothing_gets_nothing() -> None:
    made = parse(f"endpoints: {{press-1: {{servers: [{SERVER}]}}}}", "b.yaml", Path("/etc"))
    assert made.of("press-2") is None


def test_everything_that_may_be_said() -> None:
    made = parse(
        """
default:
  servers:
    - uri: coaps://gw:5684
      short_id: 7
      security: psk
      store: keys.db
      lifetime: 300
      binding: UQ
      store_notifications: false
      min_period: 1
      max_period: 60
      disable_timeout: 600
      hold_off: 3
    - {uri: 'coap://other', short_id: 8, security: none}
  acl:
    - {object: 3, instance: 0, owner: 7, rights: {7: [read, write, execute], 0: [read]}}
  delete: [/]
  read: [/1]
  discover: false
""",
        "b.yaml",
        Path("/etc/headwater"),
    )
    profile = made.of("x")
    assert profile is not None
    first, second = profile.accounts
    assert (first.store, first.lifetime, first.binding) == (Path("/etc/headwater/keys.db"), 300, "UQ")
    assert (first.min_period, first.max_period, first.disable_timeout, first.hold_off) == (1, 60, 600, 3)
    assert not first.store_notifications
    assert second.mode is Mode.NONE
    assert profile.acls[0].rights == {7: Right.READ | Right.WRITE | Right.EXECUTE, 0: Right.READ}
    assert [str(path) for path in (*profile.delete, *profile.read)] == ["/", "/1"]
    assert not profile.discover


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "b.yaml", "is empty"),
        ("default: [", "b.yaml, line 1", "no YAML"),
        ("defaults: {}", "line 1, column 1", "'defaults' is not known here; there are: endpoints, patterns, default"),
        ("default:\n  servers: []", "line 2, column 12", "a server at least"),
        ("default: {}", "line 1, column 10", "servers is missing"),
        (f"patterns: {{press-1: {{servers: [{SERVER}]}}}}", "line 1", "stands under `endpoints:`"),
        (f"endpoints: {{press-*: {{servers: [{SERVER}]}}}}", "line 1", "stands under `patterns:`"),
        (f"default: {{servers: [{SERVER}, {SERVER}]}}", "line 1", "that of another server"),
        ("default: {servers: [{uri: 'coap://gw', short_id: 1, security: psk, store: k}]}", "line 1", "coaps://HOST"),
        ("default: {servers: [{uri: 'coaps://gw', short_id: 1, security: psk}]}", "line 1", "store is missing"),
        (
            "default: {servers: [{uri: 'coaps://gw', short_id: 1, security: psk, store: 'redis://:pw@h/0'}]}",
            "line 1",
            "password_file=FILE",
        ),
        (
            "default: {servers: [{uri: 'coaps://gw', short_id: 1, security: psk, store: 'http://h'}]}",
            "line 1",
            "redis://",
        ),
        (
            "default: {servers: [{uri: 'coaps://gw', short_id: 0, security: psk, store: k}]}",
            "line 1",
            "from 1 to 65534",
        ),
        (
            "default: {servers: [{uri: 'coap://gw', short_id: 1, security: ssl}]}",
            "line 1",
            "psk, x509, oscore and none",
        ),
        (f"default: {{servers: [{SERVER}], read: [/0]}}", "line 1", "objects 1 and 2 alone"),
        (f"default: {{servers: [{SERVER}], delete: [/1/0/1]}}", "line 1", "an object such as /1"),
        (f"default: {{servers: [{SERVER}], acl: [{{object: 3, instance: 0, owner: 9}}]}}", "line 1", "no server here"),
        (f"default: &a {{servers: [{SERVER}]}}\nendpoints: {{x: *a}}", "line 2, column 16", "write it out"),
        (
            f"default: {{servers: [{SERVER}]}}\ndefault: {{servers: [{SERVER}]}}",
            "line 2, column 1",
            "stands there twice",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        config(text)
    assert place in str(told.value)
    assert words in str(told.value)


def test_a_store_may_be_a_redis() -> None:
    text = SERVER.replace("keys.db", "'rediss://keys@redis/0?password_file=/run/secrets/redis'")
    config = parse(f"default: {{servers: [{text}]}}", "b.yaml", Path("/etc"))
    assert config.default is not None
    assert str(config.default.accounts[0].store) == "rediss://keys@redis/0?password_file=/run/secrets/redis"
