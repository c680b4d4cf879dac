"""Which key a virtual device takes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.devices.keys import listed_contexts, listed_keys, shared_key
from security.errors import Exposed, InvalidCredential

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEYS = [f"{number:02x}" * 16 for number in range(4)]


def _file(folder: Path, text: str) -> Path:
    file = folder / "keys"
    file.touch(0o600)
    file.write_text(text)
    return file


def test_identity_is_the_endpoint_where_none_is_given(tmp_path: Path) -> None:
    file = _file(tmp_path, KEYS[1] + "\n")
    (psk,) = shared_key(file, ["sensor"], None, NOW).values()
    assert (psk.identity, psk.key.reveal()) == (b"sensor", bytes([1]) * 16)
    shared = shared_key(file, ["s-1", "s-2"], "batch-7", NOW)
    assert {name: one.identity for name, one in shared.items()} == {"s-1": b"batch-7", "s-2": b"batch-7"}
    assert KEYS[1] not in repr(shared)


def test_own_name_goes_before_a_pattern(tmp_path: Path) -> None:
    rows = [f"s-*,psk,any,{KEYS[0]}", f"s-1,psk,one,{KEYS[1]}", f"s-1,psk,other,{KEYS[2]}", f"t,psk,,{KEYS[3]}"]
    file = _file(tmp_path, "\n".join(["endpoint,kind,identity,key", *rows]))
    found = listed_keys(file, ["s-1", "s-2", "t"], NOW)
    assert {name: one.identity for name, one in found.items()} == {"s-1": b"one", "s-2": b"any", "t": b"t"}
    assert found["t"].key.reveal() == bytes([3]) * 16


def test_json_is_taken_too(tmp_path: Path) -> None:
    file = _file(tmp_path, f'[{{"endpoint": "s", "kind": "psk", "key": "{KEYS[1]}"}}]')
    assert listed_keys(file, ["s"], NOW)["s"].identity == b"s"


def test_who_has_no_key_is_named_and_no_key_is_told(tmp_path: Path) -> None:
    file = _file(tmp_path, f"endpoint,kind,identity,key\ns-1,psk,,{KEYS[1]}\n")
    with pytest.raises(InvalidCredential, match="for s-2: give each a line") as caught:
        listed_keys(file, ["s-1", "s-2"], NOW)
    assert KEYS[1] not in str(caught.value)


def test_list_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, f"endpoint,kind,identity,key\ns-1,psk,,{KEYS[1]}\n")
    file.chmod(0o644)
    with pytest.raises(Exposed, match="chmod 600"):
        listed_keys(file, ["s-1"], NOW)


def test_context_is_of_one_name_and_has_no_id_context(tmp_path: Path) -> None:
    head = "endpoint,kind,master_secret,sender_id,recipient_id,id_context"
    rows = [f"s-1,oscore,{KEYS[1]},01,02,", f"s-*,oscore,{KEYS[2]},03,04,", f"t,oscore,{KEYS[3]},05,06,77"]
    file = _file(tmp_path, "\n".join([head, *rows]))
    (found,) = listed_contexts(file, ["s-1"], NOW).values()
    assert (found.sender_id, found.recipient_id) == (b"\1", b"\2")
    with pytest.raises(InvalidCredential, match="no OSCORE context for s-2: give each a line"):
        listed_contexts(file, ["s-1", "s-2"], NOW)
    with pytest.raises(InvalidCredential, match="leave it out, here and at the gateway"):
        listed_contexts(file, ["t"], NOW)
