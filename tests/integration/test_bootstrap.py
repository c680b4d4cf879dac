"""Devices at a bootstrap server that runs as a process: what they get, and what is left of runs that fail."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from prometheus_client.parser import text_string_to_metric_families

from schemas.lwm2m import formats, lwm2m_cbor, senml_cbor
from schemas.lwm2m.nodes import Value, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path as LwM2mPath
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.bootstrap_process import WITH_KEY, Answers, BootstrapProcess
from tests.certificates import issue
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice, new_store
from tests.stacks.metrics_page import page_rows

KEY = b"a factory's key."
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = WITH_KEY.format(port=5684)
Server = Callable[..., BootstrapProcess]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Starts one; over DTLS with a key for each of these endpoints, or in the clear."""
    running: list[BootstrapProcess] = []

    def start(config: str = CONFIG, *more: str, keys: tuple[str, ...] = ()) -> BootstrapProcess:
        store = new_store(tmp_path / "keys.db", dict.fromkeys(keys, KEY)) if keys else None
        running.append(BootstrapProcess(tmp_path, config, *more, credentials=store))
        return running[0]

    yield start
    for one in running:
        if one.process.poll() is None:
            assert one.stop() == 0, one.said()
        assert "Traceback" not in one.said(), one.said()


def ask(device: RawDevice, *more: str) -> Message:
    return device.ask(Code.POST, ("bs",), (f"ep={device.ep}", *more))


def got(answers: Answers, path: str, content_format: int = 11542) -> dict[str, Value]:
    node = formats.decode(content_format, answers.written[path], LwM2mPath.parse(path), Definitions.builtin())
    return {str(one.path): one.value for one in values(node)}


def test_device_gets_its_server_and_a_key_of_its_own_in_order(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        assert ask(device).code == Code.CHANGED
        run = running.ended("press-7")
    assert answers.asked == ["GET /0", "DELETE /0", "DELETE /1", "PUT /0/1", "PUT /1/0", "POST /bs"]
    [(identity, key)] = running.keys("press-7").items()
    security, account = got(answers, "/0/1"), got(answers, "/1/0")
    assert (security["/0/1/0"], security["/0/1/1"], security["/0/1/2"]) == ("coaps://127.0.0.1:5684", False, 0)
    assert (security["/0/1/3"], security["/0/1/5"], security["/0/1/10"]) == (identity.encode(), key, 123)
    assert (account["/1/0/0"], account["/1/0/1"], account["/1/0/7"]) == (123, 300, "U")
    assert (run["outcome"], run["identity"]) == ("done", "press-7")
    assert [one["step"] for one in run["steps"]][:3] == ["discover /0", "delete /0", "delete /1"]
    kept = running.trace.read_bytes() + running.trace.with_name("bootstrap.db-wal").read_bytes()
    assert key not in kept
    assert key.hex().encode() not in kept
    assert key.hex() not in running.said()
    assert stat.S_IMODE(running.trace.stat().st_mode) == 0o600
    assert 'headwater_bootstrap_runs_total{outcome="done"} 1.0' in (running.get("metrics") or "")


def test_security_is_written_beside_the_account_here_wherever_that_is(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers(own=1)
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        running.ended("press-7")
    assert "PUT /0/0" in answers.asked


def test_a_second_run_gives_another_key_and_the_old_one_goes_with_its_end(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        running.ended("press-7")
        first = running.keys("press-7")
        ask(device)
        running.ended("press-7", 2)
    second = running.keys("press-7")
    assert len(first) == len(second) == 1
    assert first.keys().isdisjoint(second)


def test_a_device_that_answers_with_an_error_keeps_its_old_key_and_gets_the_same_new_one_next(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        running.ended("press-7")
        old = running.keys("press-7")
        refusal = Message(code=Code.BAD_REQUEST, payload=b"no room")
        answers.instead = {"PUT /1/0": refusal}
        ask(device)
        run = running.ended("press-7", 2)
        assert (run["outcome"], run["why"]) == ("failed", "write /1/0: the device answered 4.00: no room")
        both = running.keys("press-7")
        assert old.items() < both.items()
        assert len(both) == 2
        answers.instead = {}
        ask(device)
        assert running.ended("press-7", 3)["outcome"] == "done"
    assert dict(both.items() - old.items()) == running.keys("press-7")


def test_words_of_a_device_that_repeat_the_key_are_left_out(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()

    def answer(request: Message) -> Message | None:
        if request.code == Code.PUT:
            key = got_key(request.payload)
            return Message(code=Code.BAD_REQUEST, payload=f"what is {key.hex().upper()}?".encode())
        return answers(request)

    def got_key(payload: bytes) -> bytes:
        node = formats.decode(11542, payload, LwM2mPath.parse("/0/1"), Definitions.builtin())
        return next(bytes(one.value) for one in values(node) if str(one.path) == "/0/1/5" and type(one.value) is bytes)

    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answer
        ask(device)
        run = running.ended("press-7")
    assert "a key is in them" in run["why"]


def test_a_device_that_falls_silent_is_given_up_and_the_trace_says_where(server: Server) -> None:
    running, answers = server(CONFIG, "--step-timeout", "3", keys=("press-7",)), Answers(instead={"DELETE /1": None})
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        run = running.ended("press-7")
    assert run["outcome"] == "failed"
    assert run["why"].startswith("delete /1: the device did not answer")
    assert run["steps"][-1]["step"] == "delete /1"


def test_a_device_that_begins_again_replaces_its_run(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers(instead={"DELETE /0": None})
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        device.until("the second step", lambda: "DELETE /0" in answers.asked)
        answers.instead = {}
        ask(device)
        assert running.ended("press-7", 2)["outcome"] == "done"
    assert running.runs("press-7")[1]["outcome"] == "replaced"


def test_a_key_is_for_its_own_name_alone(server: Server) -> None:
    running = server(keys=("press-7", "press-8"))
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        assert device.ask(Code.POST, ("bs",), ("ep=press-8",)).code == Code.FORBIDDEN
        assert running.ended("press-7")["why"] == "the key of this session is not for this endpoint"
    with pytest.raises(AssertionError, match="no session"):
        SecureDevice(running.coaps, "press-7", b"not the right one", patience=5)
    assert "nobody has this PSK identity, or it came with another key" in running.said()
    assert "not the right one" not in running.said()
    assert running.runs("press-8") == []


def test_whoever_no_profile_fits_is_refused_and_in_the_trace(server: Server) -> None:
    config = CONFIG.replace("default:", "endpoints:\n lamp-1:")
    running = server(config, keys=("press-7",))
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        assert ask(device).code == Code.BAD_REQUEST
        run = running.ended("press-7")
    assert (run["outcome"], run["why"]) == ("refused", "nothing is configured for this endpoint")


def test_preferred_format_is_written_and_others_are_refused(server: Server) -> None:
    running, answers = server(), Answers()
    with RawDevice(running.coap, "press-7", answer=answers) as device:
        assert ask(device, "pct=50").code == Code.UNSUPPORTED_CONTENT_FORMAT
        ask(device, "pct=112")
        assert running.ended("press-7")["outcome"] == "done"
    assert answers.formats == {112}
    assert got(answers, "/0/1", 112)["/0/1/10"] == 123


def test_a_device_that_cannot_discover_and_takes_no_tlv(server: Server) -> None:
    running = server()
    answers = Answers(instead={"GET /0": Message(code=Code.METHOD_NOT_ALLOWED)})

    def answer(request: Message) -> Message | None:
        if request.code == Code.PUT and request.opt.content_format == 11542:
            return Message(code=Code.UNSUPPORTED_CONTENT_FORMAT)
        return answers(request)

    with RawDevice(running.coap, "press-7", answer=answer) as device:
        ask(device)
        assert running.ended("press-7")["outcome"] == "done"
    assert answers.formats == {112}
    assert "PUT /0/1" in answers.asked


def test_a_pack_has_all_in_one_and_the_same_key_each_time(server: Server) -> None:
    running = server(keys=("press-7",))
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        packs = [device.ask(Code.GET, ("bspack",), ("ep=press-7",)) for _ in range(2)]
    assert [int(one.opt.content_format) for one in packs] == [112, 112]
    found: dict[str, Value] = {}
    for node in senml_cbor.decode_series(packs[0].payload, LwM2mPath(), Definitions.builtin()):
        found |= {str(one.path): one.value for one in values(node)}
    [(identity, key)] = running.keys("press-7").items()
    assert (found["/0/1/3"], found["/0/1/5"], found["/1/0/1"]) == (identity.encode(), key, 300)
    assert packs[0].payload == packs[1].payload


def test_a_pack_is_lwm2m_cbor_where_that_is_asked_for(server: Server) -> None:
    running = server(keys=("press-7",))
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        pack = device.ask(Code.GET, ("bspack",), ("ep=press-7",), accept=11544)
        refused = device.ask(Code.GET, ("bspack",), ("ep=press-7",), accept=11542)
    assert int(pack.opt.content_format) == 11544
    found: dict[str, Value] = {}
    for node in lwm2m_cbor.decode_series(pack.payload, LwM2mPath(), Definitions.builtin()):
        found |= {str(one.path): one.value for one in values(node)}
    [(identity, key)] = running.keys("press-7").items()
    assert (found["/0/1/3"], found["/0/1/5"], found["/1/0/1"]) == (identity.encode(), key, 300)
    assert refused.code == Code.NOT_ACCEPTABLE


def test_no_pack_is_given_in_the_clear(server: Server) -> None:
    running = server()
    with RawDevice(running.coap, "press-7") as device:
        assert device.ask(Code.GET, ("bspack",), ("ep=press-7",)).code == Code.UNAUTHORIZED
    assert not running.store.exists()


def test_kill_in_the_middle_leaves_both_keys_and_the_next_run_goes_on(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        running.ended("press-7")
        old = running.keys("press-7")
        answers.instead = {"PUT /1/0": None}
        answers.asked.clear()
        ask(device)
        device.until("the write", lambda: "PUT /1/0" in answers.asked)
        running.kill()
        both = running.keys("press-7")
        assert old.items() < both.items()
        running.start()
        assert running.runs("press-7")[0]["outcome"] == "interrupted"
        answers.instead = {}
        device.connect()
        ask(device)
        assert running.ended("press-7", 3)["outcome"] == "done"
    assert running.keys("press-7") == dict(both.items() - old.items())


def test_a_changed_configuration_holds_for_the_next_run_and_a_wrong_one_changes_nothing(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()
    file = running.folder / "bootstrap.yaml"
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = answers
        ask(device)
        assert running.ended("press-7")["outcome"] == "done"
        assert got(answers, "/1/0")["/1/0/1"] == 300
        file.write_text(CONFIG.replace("lifetime: 300", "lifetime: soon"))
        wrong = "headwater_bootstrap_configuration_wrong"
        device.until("the wrong one is seen", lambda: f"{wrong} 1.0" in (running.get("metrics") or ""))
        assert "line 8, column" in running.said()
        ask(device)
        assert running.ended("press-7", 2)["outcome"] == "done"
        assert got(answers, "/1/0")["/1/0/1"] == 300
        file.write_text(CONFIG.replace("lifetime: 300", "lifetime: 7200"))
        device.until("the new one is served", lambda: f"{wrong} 0.0" in (running.get("metrics") or ""))
        ask(device)
        assert running.ended("press-7", 3)["outcome"] == "done"
    assert got(answers, "/1/0")["/1/0/1"] == 7200


def test_keys_may_come_after_the_start(server: Server, tmp_path: Path) -> None:
    keys = tmp_path / "later" / "keys.db"
    running = server(CONFIG, "--credentials", str(keys), "--make-credentials")
    store = SqliteCredentials(keys)
    store.put([Psk(endpoint="press-7", created=NOW, identity=b"press-7", key=KeyBytes(KEY))], Put.NEW)
    store.close()
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = Answers()
        assert ask(device).code == Code.CHANGED
        assert running.ended("press-7")["outcome"] == "done"


def test_told_to_stop_it_lets_runs_end(server: Server) -> None:
    running, answers = server(keys=("press-7",)), Answers()

    def slowly(request: Message) -> Message | None:
        time.sleep(0.2)
        return answers(request)

    with SecureDevice(running.coaps, "press-7", KEY) as device:
        device.answer = slowly
        ask(device)
        assert running.stop() == 0
        assert answers.finished
    assert running.runs("press-7")[0]["outcome"] == "done"


def test_the_page_of_metrics_has_all_that_it_shows(server: Server, tmp_path: Path) -> None:
    certificate, key = map(str, issue("bootstrap").write(tmp_path, "own"))
    running = server(CONFIG, "--coaps-cert", certificate, "--coaps-key", key, keys=("press-7",))
    found = list(text_string_to_metric_families(running.get("metrics") or ""))
    shown = {
        one.name + ("_total" if one.type == "counter" else ""): one
        for one in found
        if one.name.startswith("headwater_")
    }
    rows = {name: row for name, row in page_rows().items() if "bootstrap" in row.processes}
    assert set(shown) == set(rows)
    for name, family in shown.items():
        assert rows[name].type == family.type, name
        assert {label for sample in family.samples for label in sample.labels} <= rows[name].labels, name


def test_a_device_with_a_key_that_is_refused_is_in_the_trace_under_its_own_name(server: Server) -> None:
    running = server(keys=("press-7",))
    wanted = [
        (("ep=press-7", "pct=9999"), Code.UNSUPPORTED_CONTENT_FORMAT, "pct is no format that is spoken here"),
        (("ep=press-8",), Code.FORBIDDEN, "the key of this session is not for this endpoint"),
        (("ep=press-7", "ep=press-7"), Code.BAD_REQUEST, "ep is given twice"),
    ]
    with SecureDevice(running.coaps, "press-7", KEY) as device:
        for number, (query, code, why) in enumerate(wanted, 1):
            assert device.ask(Code.POST, ("bs",), query).code == code
            run = running.ended("press-7", number)
            assert (run["outcome"], run["why"], run["identity"]) == ("refused", why, "press-7")


def test_a_name_with_a_key_is_told_in_the_clear_why_it_gets_nothing(server: Server) -> None:
    running = server(CONFIG, "--insecure", keys=("press-7",))
    with RawDevice(running.coap, "press-7") as device:
        answer = device.ask(Code.POST, ("bs",), ("ep=press-7",))
    assert answer.code == Code.FORBIDDEN
    assert answer.payload.startswith(b"this endpoint has credentials")
