"""The text form of identities: one way to write each, and none that is another's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.identities import MAX_PRINCIPAL, OF_GATEWAY, Identity, InvalidIdentity, Role

names = st.from_regex(re.compile(r"[A-Za-z0-9_-]{1,12}(?:\.[A-Za-z0-9_-]{1,8}){0,2}", re.ASCII), fullmatch=True).filter(
    lambda name: name not in ("cloud", "_all")
)
identities = st.builds(Identity, st.sampled_from(Role), names, st.integers(1, 999_999))


@given(identities)
def test_an_identity_is_read_back_from_its_principal(identity: Identity) -> None:
    assert Identity.parse(identity.principal) == identity
    assert str(identity) == identity.principal
    assert identity.kafka_principal == f"User:{identity.principal}"
    assert len(identity.principal) <= MAX_PRINCIPAL


@given(identities, identities)
def test_two_identities_share_neither_principal_nor_folder(one: Identity, other: Identity) -> None:
    assert (one.principal == other.principal) == (one == other)
    assert (one.folder == other.folder) == (one == other)


@given(st.text(max_size=80))
def test_any_text_is_an_identity_written_its_one_way_or_is_refused(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except InvalidIdentity:
        return
    assert identity.principal == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gateway",
        "gateway:",
        ":rock64",
        "Gateway:rock64",
        "gateway:rock64:",
        "gateway:rock64:0",
        "gateway:rock64:1",
        "gateway:rock64:02",
        "gateway:rock64:-2",
        "gateway:rock64:٢",
        "gateway:rock64:2:3",
        "gateway:rock64:1000000",
        "gateway:rock 64",
        "gateway:rock64,O=x",
        "gateway:../../etc",
        "gateway:.",
        "gateway:a..b",
        "gateway:*",
        "gateway:_all",
        "gateway:cloud",
        "replicator:cloud",
        "sink:cloud",
        "broker:_all",
        "user:*",
        "user:anna\n",
        "user:ann\x00a",
        "user:ännchen",
        "root:anna",
        "gateway:" + "g" * 57,
        "User:gateway:rock64",
    ],
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentity):
        Identity.parse(text)


def test_a_sink_of_all_gateways_is_written_without_a_star() -> None:
    assert Identity.parse("sink:*") == Identity.parse("sink:_all") == Identity(Role.SINK, "_all")
    assert Identity.parse("sink:*").principal == "sink:_all"
    assert Identity.parse("analytics:*").is_of_all_gateways
    assert not Identity.parse("user:_all").is_of_all_gateways


def test_the_cloud_is_a_broker_and_no_gateway() -> None:
    assert Identity.parse("broker:cloud").principal == "broker:cloud"
    for role in OF_GATEWAY - {Role.BROKER}:
        with pytest.raises(InvalidIdentity, match="cloud"):
            Identity(role, "cloud")


def test_the_generation_after_a_revocation_is_another_principal() -> None:
    first = Identity(Role.GATEWAY, "rock64")
    assert [first.principal, first.following.principal, first.following.following.principal] == [
        "gateway:rock64",
        "gateway:rock64:2",
        "gateway:rock64:3",
    ]
    assert first.following.folder == "gateway+rock64+2"
    assert first.following.at(1) == first


def test_what_is_refused_is_told_in_words() -> None:
    with pytest.raises(InvalidIdentity, match="the roles are broker, admin, gateway"):
        Identity.parse("sensor:x")
    with pytest.raises(InvalidIdentity, match="holds 64"):
        Identity.parse("replicator:" + "g" * 60)
