"""The course of a run, without any device: what is asked, in which order, and what an answer means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.bootstrap.issuing import Material
from gateway.bootstrap.objects import instances
from gateway.bootstrap.plan import PREFERRED, Answered, Plan, holds, own_accounts
from gateway.bootstrap.profile import AccessControl, Account, Mode, Profile, Right
from gateway.exchange import CoapResponse
from schemas.lwm2m import formats
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import ObjectLink, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Credential, Oscore, Psk

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = bytes(range(16))
PSK = Psk(endpoint="ep", created=NOW, identity=b"ep.1", key=KeyBytes(KEY))
OSCORE = Oscore(endpoint="ep", created=NOW, master_secret=KeyBytes(KEY), sender_id=b"\x01", recipient_id=b"\x02\x03")
GOOD = {"discover": 0x45, "read": 0x45, "delete": 0x42, "write": 0x44, "finish": 0x44}


def account(mode: Mode, short_id: int = 1) -> Account:
    return Account(uri="coaps://gw", short_id=short_id, mode=mode)


def plan(
    profile: Profile | None = None, *credentials: Credential | None, wanted: ContentFormat | None = None
) -> tuple[Plan, Profile]:
    profile = profile or Profile(name="p", accounts=(account(Mode.PSK),))
    given = credentials or (PSK,)
    materials = [Material(account=a, credential=c) for a, c in zip(profile.accounts, given, strict=True)]
    return Plan(profile, materials, Definitions.builtin(), wanted), profile


def course(plan: Plan, **instead: CoapResponse) -> tuple[list[str], Answered]:
    """Every step and the last answer."""
    steps, last = [], Answered(words="")
    while (step := plan.next) is not None and not last.failed:
        steps.append(str(step))
        payload = b"</0/0>,</0/1>;ssid=1" if step.kind.value == "discover" else b""
        last = plan.take(instead.get(step.kind.value, CoapResponse(code=GOOD[step.kind.value], payload=payload)))
    return steps, last


def test_the_order_of_the_specification() -> None:
    profile = Profile(
        name="p",
        accounts=(account(Mode.OSCORE), account(Mode.PSK, 2)),
        acls=(AccessControl(object_id=3, instance_id=0, owner=1, rights={0: Right.READ, 1: Right.READ | Right.WRITE}),),
        read=(Path(1),),
        delete=(Path(),),
    )
    steps, last = course(plan(profile, OSCORE, PSK)[0])
    assert steps == [
        *("discover /0", "read /1", "delete /"),
        *("write /0/1", "write /0/2", "write /21/0", "write /1/0", "write /1/1", "write /2/0", "finish"),
    ]
    assert not last.failed


@pytest.mark.parametrize("kind", ["delete", "write", "finish"])
def test_an_error_ends_the_run(kind: str) -> None:
    steps, last = course(plan()[0], **{kind: CoapResponse(code=0x86, payload=b"not like this\n")})
    assert steps[-1].startswith(kind)
    assert last == Answered(words="4.06: not like this", failed=True)


def test_what_is_not_there_need_not_be_deleted() -> None:
    steps, last = course(plan()[0], delete=CoapResponse(code=0x84))
    assert steps[-1] == "finish"
    assert not last.failed


def test_oscore_ids_are_the_device_s_and_linked() -> None:
    material = Material(account=account(Mode.OSCORE), credential=OSCORE)
    made = instances(Profile(name="p", accounts=(material.account,)), [material], {0})
    found = {str(one.path): one.value for instance in made for one in values(instance)}
    assert (found["/0/1/2"], found["/0/1/17"]) == (3, ObjectLink(21, 0))
    assert (found["/21/0/0"], found["/21/0/1"], found["/21/0/2"]) == (KEY, b"\x02\x03", b"\x01")
    assert (found["/21/0/3"], found["/21/0/4"]) == (10, 5)


@pytest.mark.parametrize("wanted", sorted(PREFERRED))
def test_every_format_carries_what_is_written(wanted: ContentFormat) -> None:
    made, _ = plan(wanted=wanted)
    while (step := made.next) is not None and str(step) != "write /0/1":
        made.take(CoapResponse(code=GOOD[step.kind.value], payload=b"</0/0>"))
    assert step is not None
    assert step.request.content_format == wanted
    node = formats.decode(wanted, step.request.payload, Path(0, 1), Definitions.builtin())
    assert {str(one.path): one.value for one in values(node)}["/0/1/5"] == KEY


def test_no_step_and_no_material_shows_a_key() -> None:
    made, profile = plan()
    shown = [repr(Material(account=profile.accounts[0], credential=PSK))]
    while (step := made.next) is not None:
        shown += [repr(step), str(step)]
        made.take(CoapResponse(code=GOOD[step.kind.value]))
    assert not any(holds(one, KEY) for one in shown)


@pytest.mark.parametrize(
    ("links", "kept"),
    [
        ('</>;lwm2m=1.1,</0/0>;uri="coap://a,b",</0/1>;ssid=1;uri="coaps://c"', {0}),
        ('lwm2m="1.0",</0>,</0/0>;ssid=101,</0/3>,</1/0>;ssid=101', {3}),
        ("</0>", set()),
        ("", set()),
        ("\x00<</0/", set()),
    ],
)
def test_account_with_the_bootstrap_server_has_no_short_id(links: str, kept: set[int]) -> None:
    assert own_accounts(links) == kept


@pytest.mark.parametrize(
    "text", [KEY.hex(), KEY.hex(" "), KEY.hex(":").upper(), "key AAECAwQFBgcICQoLDA0ODw!", repr(KEY.hex())]
)
def test_a_key_is_found_however_it_is_said(text: str) -> None:
    assert holds(text, KEY)
    assert not holds("a bad request", KEY)
