"""The state of a gateway over a change of the number of its processes, and over a crash in the middle of it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from gateway.file_cache import FOLDER
from gateway.journal import NAMES, Journal, form
from gateway.several.carrying import carry_over, place_of
from gateway.several.owners import owner_of
from gateway.state import CommandState, State, StoredCommand, StoredObservation, StoredRegistration
from gateway.state_file import StateCorrupted
from schemas.avro import serde
from schemas.avro.compiled import update_head
from schemas.avro.records import (
    GenericBody,
    Registration,
    RegistrationUpdate,
    RequestKind,
    Response,
    ResponseCode,
    ResponsePayload,
)

#: A file for devices, by its hash.
IMAGE = "ab" * 32
DEVICES = [f"device-{n}" for n in range(30)] + ["device-3/behind"]


def registration(ep: str) -> StoredRegistration:
    return StoredRegistration(
        ep=ep, reg_id=f"id-{ep}", address="127.0.0.1", port=40_000, lifetime=300, version="1.1", binding="U",
        sms=None, root="/", links_text=b"</3/0>", attributes="{}", queue=False, reg_date_ms=1, last_up_ms=2,
        behind="device-3" if "/" in ep else None, prefix="dev0" if "/" in ep else None,
    )  # fmt: skip


def reply(ep: str) -> bytes:
    body = GenericBody(message="")
    payload = ResponsePayload(code=ResponseCode.CHANGED, kind=RequestKind.WRITE, body=body)
    return serde.encode(Response(ticket="t", server_id="gw", ep=ep, path="/1/0/1", timestamp=1, rep=payload))


def fill(state: Path, eps: list[str], position: int, first_sequence: int) -> None:
    async def work() -> None:
        opened = State.open(state)
        for number, ep in enumerate(eps):
            opened.put_registration(registration(ep))
            opened.put_observation(
                StoredObservation(
                    token=ep.encode(),
                    ep=ep,
                    path="/3303/0/5700",
                    ticket="t",
                    observation_id="o",
                    content_format=None,
                    declared=True,
                    created_ms=1,
                )
            )
            for which in (0, 1):
                opened.put_command(
                    StoredCommand(
                        sequence=first_sequence + 2 * number + which,
                        identity=f"{ep} {which}".encode().ljust(32),
                        occurrence=7,
                        ticket=str(which),
                        ep=ep,
                        request=b"r",
                        state=CommandState.QUEUED,
                        received_ms=1,
                    )
                )
            opened.put_answer(f"answer {ep}".encode().ljust(32), 9, reply(ep), 5)
        opened.put_positions({("topic", 0): position})
        await opened.close()

    asyncio.run(work())
    with closing(Journal(state)) as journal:
        for number, ep in enumerate(eps):
            body = RegistrationUpdate(
                ep=ep, server_id="gw", reg_id=f"id-{ep}", address="127.0.0.1", port=40_000, last_up=0
            )
            journal.write(1_000 + number, [b"\0\1" + form(b"127.0.0.1 40000", b"key", update_head(body))])
    (state / FOLDER).mkdir(exist_ok=True)
    (state / FOLDER / IMAGE).write_bytes(b"an image")


def held(state: Path, processes: int) -> tuple[Counter[str], list[set[str]], list[int]]:
    """What there is of everything, by kind and endpoint; which endpoints each process has; the positions."""

    async def work() -> tuple[Counter[str], list[set[str]], list[int]]:
        found: Counter[str] = Counter()
        owned: list[set[str]] = []
        positions = []
        for number in range(processes):
            place = state if processes == 1 else place_of(state, number)
            assert (place / FOLDER / IMAGE).read_bytes() == b"an image"
            opened = State.open(place)
            stored = opened.load()
            found.update(f"registration {one.ep} {one.behind} {one.prefix}" for one in opened.registrations())
            found.update(f"observation {one.ep}" for one in opened.observations())
            orders: dict[str, list[str]] = {}
            for one in opened.commands():
                found[f"command {one.ep} {one.ticket}"] += 1
                orders.setdefault(one.ep, []).append(one.ticket)
            assert all(order == ["0", "1"] for order in orders.values())
            owned.append({one.ep for one in opened.registrations()} | set(orders))
            answers: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            opened.find_answers([f"answer {ep}".encode().ljust(32) for ep in DEVICES], answers.set_result)
            known = await answers
            assert isinstance(known, object)
            for identity in dict(known):  # type: ignore[call-overload]
                found[identity.decode().strip()] += 1
                assert owner_of(identity.decode().strip().removeprefix("answer "), processes) == number
            positions += [offset for _, offset in sorted(stored.positions.items())]
            await opened.close()
            with closing(Journal(place)) as journal:
                entries = journal.entries()
            assert sorted(entries, key=lambda one: one.at_ms) == entries
            for entry in entries:
                update = serde.decode(entry.value)
                assert isinstance(update, Registration) and isinstance(update.body, RegistrationUpdate)
                assert update.body.last_up == entry.at_ms
                assert owner_of(update.body.ep, processes) == number
                found[f"update {update.body.ep}"] += 1
        return found, owned, positions

    return asyncio.run(work())


def everything() -> Counter[str]:
    behind = {"device-3/behind": "device-3 dev0"}
    kinds = [f"registration {ep} {behind.get(ep, 'None None')}" for ep in DEVICES]
    kinds += [f"{kind} {ep}" for ep in DEVICES for kind in ("observation", "answer", "update")]
    return Counter(kinds + [f"command {ep} {ticket}" for ep in DEVICES for ticket in "01"])


def test_all_is_with_its_owner_after_each_change(tmp_path: Path) -> None:
    state = tmp_path / "state"
    fill(state, DEVICES, 40, first_sequence=100)
    for processes in (2, 5, 3, 1, 2, 1):
        carry_over(state, processes)
        found, owned, positions = held(state, processes)
        assert found == everything()
        assert positions == [40] * processes
        for number, eps in enumerate(owned):
            assert all(owner_of(ep, processes) == number for ep in eps)
    assert sorted(one.name for one in state.iterdir()) == ["files", "gateway.db", "gateway.lock", *NAMES]


def test_it_goes_on_from_the_least_that_all_had_reached_and_keeps_commands_with_the_same_number(tmp_path: Path) -> None:
    state = tmp_path
    carry_over(state, 2)
    for number in (0, 1):
        mine = [ep for ep in DEVICES if owner_of(ep, 2) == number]
        fill(place_of(state, number), mine, 40 + number, first_sequence=100)
    carry_over(state, 1)
    assert held(state, 1) == (everything(), [set(DEVICES)], [40])


def test_one_that_has_read_nothing_begins_at_the_beginning_for_all(tmp_path: Path) -> None:
    state = tmp_path
    carry_over(state, 2)
    fill(place_of(state, 1), ["device-1"], 40, first_sequence=1)
    asyncio.run(State.open(place_of(state, 0)).close())
    carry_over(state, 3)
    assert held(state, 3)[2] == []


def test_a_state_of_an_older_version_beside_that_of_several_is_told_and_none_is_lost(tmp_path: Path) -> None:
    state = tmp_path
    fill(state, DEVICES[:10], 40, first_sequence=1)
    carry_over(state, 2)
    fill(state, DEVICES[10:], 50, first_sequence=1)
    for processes in (2, 1, 3):
        with pytest.raises(StateCorrupted, match="move the one that is not to count away"):
            carry_over(state, processes)
    (state / "gateway.db").unlink()
    carry_over(state, 1)
    assert held(state, 1)[1] == [set(DEVICES[:10])]


def test_journals_are_on_the_disk_before_the_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, DEVICES, 40, first_sequence=100)
    synced: set[Path] = set()
    written: set[Path] = set()
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(number: int) -> None:
        synced.add(Path(f"/proc/self/fd/{number}").readlink())
        real_fsync(number)

    def rename(self: Path, target: Path) -> Path:
        if self.parent == tmp_path:
            written.update(one for one in self.rglob("*.journal") if one.stat().st_size)
            assert written <= synced
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    carry_over(tmp_path, 2)
    assert len(written) >= 2


class _Crash(Exception):
    pass


@pytest.mark.parametrize("before, after", [(1, 2), (2, 3), (2, 1)])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """What changes the directory is counted, and each such step is the last one once."""
    real_rename, real_unlink = Path.rename, Path.unlink
    real_rmdir, real_fsync = os.rmdir, os.fsync
    for last in range(200):
        state = tmp_path / str(last)
        fill(state, DEVICES, 40, first_sequence=100)
        carry_over(state, before)
        left = last

        def step() -> None:
            nonlocal left
            if left == 0:
                raise _Crash
            left -= 1

        def rename(self: Path, target: Path) -> Path:
            step()
            return real_rename(self, target)

        def unlink(self: Path, missing_ok: bool = False) -> None:
            step()
            real_unlink(self, missing_ok=missing_ok)

        def fsync(number: int) -> None:
            step()
            real_fsync(number)

        def rmdir(*arguments: object, **named: object) -> None:
            step()
            real_rmdir(*arguments, **named)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", rename)
            patched.setattr(Path, "unlink", unlink)
            patched.setattr(os, "fsync", fsync)
            patched.setattr(os, "rmdir", rmdir)
            try:
                carry_over(state, after)
            except _Crash:
                crashed = True
            else:
                crashed = False
        carry_over(state, after)
        found, _, positions = held(state, after)
        assert found == everything()
        assert positions == [40] * after
        assert (tmp_path / str(last) / FOLDER).exists() is (after == 1)
        if not crashed:
            assert last > 5
            return
    raise AssertionError("it never came to its end")
