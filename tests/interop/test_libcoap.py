"""libcoap's command line client against the registration interface: another implementation's options and blocks."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.avro.records import (
    ReadBody,
    Registration,
    RegistrationDelete,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.interop.gateway_process import GatewayProcess
from tests.ports import held_port

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

LINKS = '</>;rt="oma.lwm2m";ct="110 112",</1/0>,</3/0>,</3303/0>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response as coap-client prints it: ``2.01``, the Location-Path, the diagnostic text."""

    code: str
    location: str
    text: str


Send = Callable[..., Answer]


@pytest.fixture
def send(coap_client: str, gateway: GatewayProcess, tmp_path: Path) -> Send:
    """``send(method, "rd?ep=x", payload, *options)`` runs coap-client once."""

    def run(method: str, target: str, payload: str = "", *options: str, content_format: int = 40) -> Answer:
        body: list[str] = []
        if payload:
            (tmp_path / "payload").write_text(payload)
            body = ["-t", str(content_format), "-f", str(tmp_path / "payload")]
        command = [coap_client, "-v", "6", "-B", "20", "-m", method, *body, *options, f"coap://{gateway.coap}/{target}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        answers = [line for line in said.splitlines() if re.search(r" c:[245]\.\d\d ", line)]
        assert answers, f"no answer came: {said}\n{gateway.said()}"
        code = re.search(r" c:(\d\.\d\d) ", answers[-1])
        assert code is not None
        location = "/".join(re.findall(r"Location-Path:([^,\] ]+)", answers[-1]))
        return Answer(code=code.group(1), location=location, text=said)

    return run


@pytest.fixture
def ep() -> str:
    return f"libcoap-{secrets.token_hex(4)}"


def test_a_registration_is_made_updated_and_ended(send: Send, gateway: GatewayProcess, ep: str) -> None:
    made = send("post", f"rd?ep={ep}&lt=60&lwm2m=1.1&b=U", LINKS)
    assert made.code == "2.01", made.text
    assert made.location.startswith("rd/")
    new = gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == ep)
    assert isinstance(new.body, RegistrationNew)
    assert (new.body.lt, new.body.ver, new.body.reg_id) == (
        60,
        "1.1",
        made.location.removeprefix("rd/"),
    )
    assert [link.url for link in new.body.links] == ["/", "/1/0", "/3/0", "/3303/0"]

    assert send("post", f"{made.location}?lt=120").code == "2.04"
    update = gateway.registration(lambda one: isinstance(one.body, RegistrationUpdate) and one.body.ep == ep)
    assert isinstance(update.body, RegistrationUpdate)
    assert update.body.lt == 120

    assert send("delete", made.location).code == "2.02"
    gateway.registration(lambda one: isinstance(one.body, RegistrationDelete) and one.body.ep == ep)
    assert send("post", f"{made.location}?lt=120").code == "4.04"
    assert send("delete", made.location).code == "4.04"


def test_queue_mode_of_version_1_0_is_understood(send: Send, gateway: GatewayProcess, ep: str) -> None:
    assert send("post", f"rd?ep={ep}&lt=60&lwm2m=1.0&b=UQ", LINKS).code == "2.01"
    new = gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == ep)
    assert isinstance(new.body, RegistrationNew)
    assert (new.body.ver, new.body.bnd.value) == ("1.0", "UQ")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "lt=60",
        "ep=",
        "ep={ep}&lt=soon",
        "ep={ep}&lt=-5",
        "ep={ep}&lt=60&lwm2m=1.1&b=X",
    ],
)
def test_a_malformed_query_is_a_bad_request(send: Send, ep: str, query: str) -> None:
    target = f"rd?{query.format(ep=ep)}" if query else "rd"
    answer = send("post", target, LINKS)
    assert answer.code == "4.00", answer.text


def test_a_version_that_is_not_spoken_is_a_failed_precondition(send: Send, ep: str) -> None:
    # Transport 1.1, section 6.4.3, table of response codes of Register.
    answer = send("post", f"rd?ep={ep}&lt=60&lwm2m=2.0", LINKS)
    assert answer.code == "4.12", answer.text


def test_links_that_are_none_are_a_bad_request(send: Send, ep: str) -> None:
    answer = send("post", f"rd?ep={ep}&lt=60&lwm2m=1.1", "no links at all <")
    assert answer.code == "4.00", answer.text


@pytest.mark.parametrize(
    ("method", "target", "codes"),
    [
        ("get", "nothing/here", {"4.04"}),
        ("post", "nothing", {"4.04"}),
        ("post", "rd/no-such-registration", {"4.04"}),
        ("delete", "rd/no-such-registration", {"4.04"}),
        ("put", "rd", {"4.05"}),
    ],
)
def test_an_unknown_path_or_method_is_refused(send: Send, method: str, target: str, codes: set[str]) -> None:
    answer = send(method, target)
    assert answer.code in codes, answer.text


def test_the_registration_interface_is_discovered_without_being_registered(send: Send) -> None:
    answer = send("get", ".well-known/core")
    assert answer.code == "2.05", answer.text
    assert "</rd>" in answer.text and 'rt="core.rd"' in answer.text, answer.text


def test_a_critical_option_that_nobody_knows_is_a_bad_option(send: Send, ep: str) -> None:
    answer = send("post", f"rd?ep={ep}&lt=60&lwm2m=1.1", LINKS, "-O", "65001,x")
    assert answer.code == "4.02", answer.text


@pytest.mark.parametrize("block_size", [64, 256, 1024])
def test_a_registration_with_many_links_comes_in_blocks(
    send: Send, gateway: GatewayProcess, ep: str, block_size: int
) -> None:
    many = ",".join(f"</3303/{instance}>" for instance in range(400))
    made = send("post", f"rd?ep={ep}&lt=60&lwm2m=1.1", many, "-b", str(block_size))
    assert made.code == "2.01", made.text[-2000:]
    new = gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == ep)
    assert isinstance(new.body, RegistrationNew)
    assert [link.url for link in new.body.links] == [f"/3303/{instance}" for instance in range(400)]


@pytest.mark.parametrize("block_size", [256, 1024])
def test_a_send_of_hundreds_of_values_comes_in_blocks(
    send: Send, gateway: GatewayProcess, ep: str, block_size: int
) -> None:
    # The device is known by its address, so it keeps its port.
    port = ("-p", str(held_port()))
    assert send("post", f"rd?ep={ep}&lt=60&lwm2m=1.1", LINKS, *port).code == "2.01"
    pack = [{"bn": "/3303/0/5700", "bt": 1_600_000_000, "v": 0.5}, *({"t": n, "v": n + 0.5} for n in range(1, 300))]
    answer = send("post", "dp", json.dumps(pack), *port, "-b", str(block_size), content_format=110)
    assert answer.code == "2.04", answer.text[-2000:]
    found = gateway.notifications(lambda one: one.ep == ep and one.rep.body == _value(299))
    mine = [one for one in found if one.ep == ep]
    assert [one.rep.body for one in mine] == [_value(number) for number in range(300)]
    assert {one.rep.kind for one in mine} == {RequestKind.SEND}
    assert send("post", "dp", "[", *port, content_format=110).code == "4.00"


def _value(number: int) -> ReadBody:
    path = Lwm2mPath(3303, 0, 5700)
    timestamp = 1_600_000_000_000 + 1000 * number
    return ReadBody(content=Resource(path=path, type=ResourceType.FLOAT, value=number + 0.5, timestamp=timestamp))


def test_a_datagram_that_is_lost_is_sent_again_and_registers_once(send: Send, gateway: GatewayProcess, ep: str) -> None:
    assert send("post", f"rd?ep={ep}&lt=60&lwm2m=1.1", LINKS, "-l", "1").code == "2.01"
    marker = f"{ep}-after"
    assert send("post", f"rd?ep={marker}&lt=60&lwm2m=1.1", LINKS).code == "2.01"
    seen: list[str] = []

    def is_marker(one: Registration) -> bool:
        if isinstance(one.body, RegistrationNew):
            seen.append(one.body.ep)
        return seen[-1:] == [marker]

    # Other partitions may come later; within one, the topic keeps the order.
    gateway.registration(is_marker)
    assert seen.count(ep) <= 1
