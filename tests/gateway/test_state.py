"""The durable state: what was reported durable is there after anything; what cannot be used is refused in words."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.state import (
    Answer,
    CommandState,
    State,
    StateCorrupted,
    StateLocked,
    StateOverloaded,
    StateUnavailable,
    StoredCommand,
    StoredObservation,
    StoredRegistration,
    StoredState,
)

REGISTRATION = StoredRegistration(
    ep="lamp-é",
    reg_id="r1",
    address="127.0.0.1",
    port=40000,
    lifetime=300,
    version="1.1",
    binding="UQ",
    sms=None,
    root="/",
    links_text=b'</>;rt="oma.lwm2m",</3/0>',
    attributes='{"site":"attic"}',
    queue=True,
    reg_date_ms=1_000,
    last_up_ms=1_000,
)
OBSERVATION = StoredObservation(
    token=b"\x01\x02",
    ep="lamp-é",
    path="/3303/0/5700",
    ticket="ticket#1",
    observation_id="o1",
    content_format=11542,
    declared=False,
    created_ms=2_000,
)
#: One with attributes of its own.
OF_ITS_OWN = OBSERVATION._replace(token=b"\x03", path="/3303/1/5700", attributes="pmin=5&pmax=60")


def command(number: int, *, state: CommandState = CommandState.QUEUED) -> StoredCommand:
    return StoredCommand(
        sequence=number,
        identity=number.to_bytes(16, "big"),
        occurrence=number << 24,
        ticket=f"t{number}",
        ep="lamp-é",
        request=b"request",
        state=state,
        received_ms=3_000,
        expires_ms=None,
    )


async def answers(state: State, *commands: StoredCommand) -> Mapping[bytes, Answer]:
    """What the state file knows of their identities, and it does not deny any of it beforehand."""
    future: asyncio.Future[Mapping[bytes, Answer]] = asyncio.get_running_loop().create_future()

    def found(outcome: Mapping[bytes, Answer] | StateUnavailable) -> None:
        if isinstance(outcome, StateUnavailable):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    state.find_answers([one.identity for one in commands], found)
    known = await asyncio.wait_for(future, 10)
    assert all(state.may_know(identity) for identity in known)
    return known


def answer(state: State, one: StoredCommand, reply: bytes, answered_ms: int) -> None:
    state.put_answer(one.identity, one.occurrence, reply, answered_ms)


@asynccontextmanager
async def opened(directory: Path, *, max_pending: int = 50_000, keep_answered: int = 1_000) -> AsyncIterator[State]:
    state = State.open(directory, max_pending=max_pending, keep_answered=keep_answered)
    try:
        yield state
    finally:
        await state.close()


def stored(directory: Path) -> StoredState:
    async def read() -> StoredState:
        async with opened(directory) as state:
            return state.load()

    return asyncio.run(read())


def registrations_of(directory: Path) -> list[StoredRegistration]:
    async def read() -> list[StoredRegistration]:
        async with opened(directory) as state:
            return list(state.registrations())

    return asyncio.run(read())


def observations_of(directory: Path) -> list[StoredObservation]:
    async def read() -> list[StoredObservation]:
        async with opened(directory) as state:
            return list(state.observations())

    return asyncio.run(read())


def commands_of(directory: Path) -> tuple[StoredCommand, ...]:
    async def read() -> tuple[StoredCommand, ...]:
        async with opened(directory) as state:
            return tuple(state.commands())

    return asyncio.run(read())


def test_what_was_put_is_loaded_again(tmp_path: Path) -> None:
    async def write() -> None:
        async with opened(tmp_path) as state:
            state.put_registration(REGISTRATION)
            state.put_observation(OBSERVATION)
            state.put_observation(OF_ITS_OWN)
            for one in (command(2), command(1)):
                state.put_command(one)
            state.put_command(command(2, state=CommandState.SENT))
            state.put_positions({("old", 0): 900})
            state.put_positions({("topic", 0): 7, ("topic", 1): 3})
            state.put_positions({("topic", 0): 8})
            await state.durable()

    asyncio.run(write())
    assert registrations_of(tmp_path) == [REGISTRATION]
    assert observations_of(tmp_path) == [OBSERVATION, OF_ITS_OWN]
    assert stored(tmp_path) == StoredState(
        positions={("topic", 0): 8, ("topic", 1): 3},
        answered=0,
        last_sequence=2,
    )
    assert commands_of(tmp_path) == (command(1), command(2, state=CommandState.SENT))


@pytest.mark.parametrize("count", [1, 3, 4, 20, 21, 64, 85, 150])
def test_groups_of_all_sizes_are_written_whole(tmp_path: Path, count: int) -> None:
    names = [f"ep-{number:03}" for number in range(count)]
    tokens = [number.to_bytes(8, "big") for number in range(count)]

    async def write() -> None:
        async with opened(tmp_path) as state:
            for ep, token in zip(names, tokens, strict=True):
                state.put_registration(REGISTRATION._replace(ep=ep, behind="gw", prefix=ep))
                state.put_observation(OBSERVATION._replace(token=token, ep=ep))
            await state.durable()
            for number, ep in enumerate(names):
                state.touch_registration(ep, number, "127.0.0.9", number)
            # It is written with the next group.
            state.put_observation(OBSERVATION._replace(token=b"other"))
            await state.durable()
            for ep, token in zip(names[1:], tokens[1:], strict=True):
                state.delete_observation(token)
                if ep != names[-1]:
                    state.delete_registration(ep)
            await state.durable()

    asyncio.run(write())
    assert [(row.ep, row.last_up_ms, row.address, row.port, row.prefix) for row in registrations_of(tmp_path)] == [
        (ep, names.index(ep), "127.0.0.9", names.index(ep), ep) for ep in sorted({names[0], names[-1]})
    ]
    assert [row.token for row in observations_of(tmp_path)] == [tokens[0], b"other"]


def test_last_word_of_a_group_counts(tmp_path: Path) -> None:
    async def write() -> int:
        async with opened(tmp_path) as state:
            for port in range(1, 200):
                state.put_registration(REGISTRATION._replace(port=port))
            state.touch_registration("lamp-é", 9_000, "127.0.0.9", 9)
            state.put_observation(OBSERVATION)
            state.delete_observation(OBSERVATION.token)
            state.put_registration(REGISTRATION._replace(ep="gone"))
            state.delete_registration("gone")
            await state.durable()
            return state.groups_written

    assert asyncio.run(write()) == 1
    assert registrations_of(tmp_path) == [REGISTRATION._replace(port=9, address="127.0.0.9", last_up_ms=9_000)]
    assert observations_of(tmp_path) == []


def test_touch_alone_is_written_by_itself(tmp_path: Path) -> None:
    async def write() -> None:
        async with opened(tmp_path) as state:
            state.put_registration(REGISTRATION)
            await state.durable()
            state.touch_registration("lamp-é", 7_000, "127.0.0.7", 7)
            # Closing writes what is pending; the timer that would have done it is part of the same path.

    asyncio.run(write())
    assert registrations_of(tmp_path)[0].last_up_ms == 7_000


def test_deleted_registration_is_not_revived_by_a_touch(tmp_path: Path) -> None:
    async def write() -> None:
        async with opened(tmp_path) as state:
            state.put_registration(REGISTRATION)
            await state.durable()
            state.delete_registration("lamp-é")
            state.touch_registration("lamp-é", 7_000, "127.0.0.7", 7)

    asyncio.run(write())
    assert registrations_of(tmp_path) == []


def test_answer_is_known_and_its_command_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as state:
            assert not state.may_know(command(1).identity)
            state.put_command(command(1))
            state.put_command(command(2))
            await state.durable()
            state.forget_command(1)
            answer(state, command(1), b"reply", 5_000)
            answer(state, command(3), b"of one that was never stored", 5_000)
            # In the same group as the answers: it must already see them.
            again = await answers(state, command(1), command(2))
        async with opened(tmp_path) as state:
            later = await answers(state, command(1), command(3), command(4))
        reply = Answer(occurrence=command(1).occurrence, reply=b"reply")
        assert again == {command(1).identity: reply}
        assert later == {
            command(1).identity: reply,
            command(3).identity: Answer(occurrence=command(3).occurrence, reply=b"of one that was never stored"),
        }

    asyncio.run(scenario())
    loaded = stored(tmp_path)
    assert commands_of(tmp_path) == (command(2),)
    assert loaded.answered == 2


def test_forgotten_command_is_neither_kept_nor_known(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as state:
            state.put_command(command(1))
            await state.durable()
            state.forget_command(1)
            state.put_command(command(2))
            state.forget_command(2)
            assert await answers(state, command(1), command(2)) == {}

    asyncio.run(scenario())
    assert commands_of(tmp_path) == ()


def test_the_request_of_a_command_is_read_back_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as state:
            state.put_command(command(1))
            # Also what is not on the disk yet.
            assert await state.request_of(1) == command(1).request
            assert await state.request_of(2) is None
            state.forget_command(1)
            assert await state.request_of(1) is None

    asyncio.run(scenario())


def test_forgetting_late_leaves_the_same_request_that_came_again(tmp_path: Path) -> None:
    again = replace(command(2), identity=command(1).identity)

    async def scenario() -> None:
        async with opened(tmp_path) as state:
            state.put_command(command(1))
            await state.durable()
            state.put_command(again)
            await state.durable()
            state.forget_command(1)

    asyncio.run(scenario())
    assert commands_of(tmp_path) == (again,)


def test_first_answer_of_a_request_stays(tmp_path: Path) -> None:
    async def scenario() -> list[bytes]:
        async with opened(tmp_path) as state:
            answer(state, command(1), b"first", 5_000)
            answer(state, command(1), b"second, at once", 5_000)
            await state.durable()
            answer(state, command(1), b"third", 6_000)
            return [one.reply for one in (await answers(state, command(1))).values()]

    assert asyncio.run(scenario()) == [b"first"]


def test_answers_beyond_the_bound_are_forgotten_oldest_first(tmp_path: Path) -> None:
    async def scenario() -> Mapping[bytes, Answer]:
        async with opened(tmp_path, keep_answered=10) as state:
            for number in range(1, 31):
                answer(state, command(number), b"r", number)
                await state.durable()
            assert state.load().answered <= 11
            return await answers(state, *(command(number) for number in range(1, 31)))

    known = {int.from_bytes(identity, "big") for identity in asyncio.run(scenario())}
    assert known == set(range(31 - len(known), 31))
    assert 10 <= len(known) <= 11


def test_answers_older_than_asked_are_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as state:
            answer(state, command(1), b"old", 1_000)
            answer(state, command(2), b"new", 2_000)
            await state.durable()
            state.forget_answered(2_000)
            await state.durable()
            assert state.load().answered == 1
            assert [one.reply for one in (await answers(state, command(1), command(2))).values()] == [b"new"]
            state.forget_answered(3_000)
            assert await answers(state, command(1), command(2)) == {}

    asyncio.run(scenario())


def test_a_device_behind_a_gateway_is_known_as_such_until_it_registers_itself(tmp_path: Path) -> None:
    behind = REGISTRATION._replace(ep="gw/a", behind="gw", prefix="dev0")
    other = REGISTRATION._replace(ep="gw/b", behind="gw", prefix="dev1")

    async def write(*rows: StoredRegistration) -> None:
        async with opened(tmp_path) as state:
            for row in rows:
                state.put_registration(row)
            await state.durable()

    asyncio.run(write(behind, other, REGISTRATION))
    assert set(registrations_of(tmp_path)) == {behind, other, REGISTRATION}
    own = behind._replace(behind=None, prefix=None)
    asyncio.run(write(own))
    assert set(registrations_of(tmp_path)) == {own, other, REGISTRATION}

    async def end() -> None:
        async with opened(tmp_path) as state:
            state.delete_registration("gw/b")
            await state.durable()

    asyncio.run(end())
    assert set(registrations_of(tmp_path)) == {own, REGISTRATION}
    with sqlite3.connect(tmp_path / "gateway.db") as db:
        assert db.execute("SELECT count(*) FROM behind").fetchone() == (0,)


def test_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.executescript(
        """
        CREATE TABLE registrations (
            ep TEXT PRIMARY KEY, reg_id TEXT NOT NULL, address TEXT NOT NULL, port INTEGER NOT NULL,
            lifetime INTEGER NOT NULL, version TEXT NOT NULL, binding TEXT NOT NULL, sms TEXT, root TEXT NOT NULL,
            links_text BLOB NOT NULL, attributes TEXT NOT NULL, queue INTEGER NOT NULL, reg_date_ms INTEGER NOT NULL,
            last_up_ms INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE observations (
            token BLOB PRIMARY KEY, ep TEXT NOT NULL, path TEXT NOT NULL, ticket TEXT NOT NULL,
            observation_id TEXT NOT NULL, content_format INTEGER, declared INTEGER NOT NULL,
            created_ms INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE commands (
            sequence INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE, ticket TEXT NOT NULL, ep TEXT NOT NULL,
            request BLOB NOT NULL, state INTEGER NOT NULL, received_ms INTEGER NOT NULL, expires_ms INTEGER, reply BLOB,
            answered_ms INTEGER);
        CREATE TABLE positions (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL);
        CREATE INDEX commands_unanswered ON commands (sequence) WHERE state < 2;
        CREATE INDEX commands_answered ON commands (answered_ms) WHERE state = 2;
        INSERT INTO positions VALUES (0, 9);
        INSERT INTO observations VALUES (x'01', 'lamp-é', '/3/0', 't1', '01', NULL, 0, 3000);
        INSERT INTO commands VALUES (5, x'00000000000000000000000000000005', 't5', 'lamp-é', x'01', 1, 3000, NULL,
            NULL, NULL);
        INSERT INTO commands VALUES (6, x'00000000000000000000000000000006', 't6', 'lamp-é', x'', 2, 3000, NULL, x'02',
            7000);
        PRAGMA application_id = 1214535540;
        PRAGMA user_version = 1;
        """
    )
    db.close()

    async def scenario() -> None:
        for _ in range(2):
            async with opened(tmp_path) as state:
                assert [(c.sequence, c.state, c.ticket) for c in state.commands()] == [(5, CommandState.SENT, "t5")]
                assert state.load().positions == {}
                assert all(one.behind is None for one in state.registrations())
                assert [(one.path, one.attributes) for one in state.observations()] == [("/3/0", None)]
                assert [one.reply for one in (await answers(state, command(6))).values()] == [b"\x02"]

    asyncio.run(scenario())


def test_one_callback_speaks_for_a_whole_batch(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[object], int]:
        async with opened(tmp_path) as state:
            heard: list[object] = []
            ready = asyncio.Event()

            def hear(error: StateUnavailable | None) -> None:
                heard.append(error)
                ready.set()

            for number in range(1_000):
                state.put_registration(REGISTRATION._replace(ep=f"ep-{number}"))
            state.on_durable(hear)
            await asyncio.wait_for(ready.wait(), 10)
            return heard, state.groups_written

    assert asyncio.run(scenario()) == ([None], 1)
    assert len(registrations_of(tmp_path)) == 1_000


def test_backlog_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, max_pending=10) as state:
            for number in range(10):
                state.put_registration(REGISTRATION._replace(ep=f"ep-{number}"))
            with pytest.raises(StateOverloaded, match="disk does not keep up"):
                state.put_registration(REGISTRATION._replace(ep="one-too-many"))
            for number in range(100):
                state.touch_registration(f"ep-{number}", 1, "127.0.0.1", 1)
            assert state.backlog == 10
            await state.durable()
            state.put_registration(REGISTRATION._replace(ep="fits-again"))

    asyncio.run(scenario())
    assert len(registrations_of(tmp_path)) == 11


def test_value_that_does_not_fit_fails_its_caller_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as state:
            with pytest.raises(ValueError, match="64 bits"):
                state.put_registration(REGISTRATION._replace(lifetime=2**63))
            with pytest.raises(ValueError, match="surrogates"):
                state.put_registration(REGISTRATION._replace(ep="\ud800"))
            state.put_registration(REGISTRATION)
            await state.durable()

    asyncio.run(scenario())
    assert registrations_of(tmp_path) == [REGISTRATION]


def test_caller_whose_callback_fails_does_not_silence_the_others(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        async with opened(tmp_path) as state:
            state.put_registration(REGISTRATION)

            def broken(_: StateUnavailable | None) -> None:
                raise LookupError

            state.on_durable(broken)
            await asyncio.wait_for(state.durable(), 10)
        return complaints

    assert asyncio.run(scenario()) == ["a state callback failed"]


def test_second_gateway_on_the_directory_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path):
            with pytest.raises(StateLocked, match=rf"process {os.getpid()}.*{tmp_path}"):
                State.open(tmp_path)
        async with opened(tmp_path):
            pass

    asyncio.run(scenario())


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "state"

    async def scenario() -> None:
        async with opened(directory) as state:
            state.put_registration(REGISTRATION)
            await state.durable()
            for file in directory.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            (directory / "gateway.db").chmod(0o644)

    asyncio.run(scenario())
    stored(directory)
    assert stat.S_IMODE((directory / "gateway.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "middle", "foreign", "lost"])
def test_damaged_file_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    async def fill() -> None:
        async with opened(tmp_path) as state:
            for number in range(2_000):
                state.put_registration(REGISTRATION._replace(ep=f"ep-{number}"))
            await state.durable()

    asyncio.run(fill())
    file = tmp_path / "gateway.db"
    whole = file.read_bytes()
    match damage:
        case "empty":
            file.write_bytes(b"")
        case "half":
            file.write_bytes(whole[: len(whole) // 2])
        case "noise":
            file.write_bytes(b"\xa5" * len(whole))
        case "middle":
            file.write_bytes(whole[:20_000] + b"\xff" * 50_000 + whole[70_000:])
        case "foreign":
            file.unlink()
            other = sqlite3.connect(file)
            other.execute("CREATE TABLE notes (text)")
            other.close()
        case "lost":
            file.rename(tmp_path / "gateway.db-wal")
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(StateCorrupted, match=r"gateway\.db.*mv "):
        State.open(tmp_path)
    assert (file.read_bytes() if file.exists() else None) == before


def test_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    stored(tmp_path)
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateCorrupted, match="later version"):
        State.open(tmp_path)


def test_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateUnavailable, match="cannot be used"):
        State.open(tmp_path / "file")


WRITER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {path!r}
from test_state import REGISTRATION, command
from gateway.state import State

async def main():
    state = State.open(Path({directory!r}))
    state.load()
    number = 0
    while True:
        for _ in range(100):
            number += 1
            state.put_registration(REGISTRATION._replace(ep=f"ep-{{number}}"))
        state.put_command(command(number))
        await state.durable()
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("groups", [1, 7, 23])
def test_what_was_durable_survives_kill(tmp_path: Path, groups: int) -> None:
    here = Path(__file__).resolve().parent
    source = WRITER.format(path=[str(here), str(here.parents[1])], directory=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(groups):
            durable = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        durable = max([durable, *(int(line) for line in process.stdout.read().splitlines())])
    registered = {int(r.ep.removeprefix("ep-")) for r in registrations_of(tmp_path)}
    assert set(range(1, durable + 1)) <= registered
    # A group is whole or not there: the registrations and the command of a group came together.
    assert len(registered) == len(commands_of(tmp_path)) * 100


FULL_DISK = """
import asyncio, resource, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {path!r}
from test_state import REGISTRATION, command, answers
from gateway.state import State, StateUnavailable

async def main():
    state = State.open(Path({directory!r}))
    state.put_registration(REGISTRATION._replace(ep="before"))
    await state.durable()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    for number in range(3):
        state.put_registration(REGISTRATION._replace(ep=f"refused-{{number}}", links_text=bytes(500_000)))
        try:
            await state.durable()
        except StateUnavailable as exc:
            print("refused", "gateway.db" in str(exc))
        try:
            await answers(state, command(number))
        except StateUnavailable as exc:
            print("refused", "gateway.db" in str(exc))
        else:
            print("small one accepted", number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    state.put_registration(REGISTRATION._replace(ep="after", links_text=bytes(500_000)))
    await state.durable()
    print("written", state.groups_failed >= 3)
    await state.close()

asyncio.run(main())
"""


def test_full_disk_fails_its_group_and_later_writes_go_on(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    source = FULL_DISK.format(path=[str(here), str(here.parents[1])], directory=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines.count("refused True") >= 3
    assert "refused False" not in lines
    assert lines[-1] == "written True"
    assert [r.ep for r in registrations_of(tmp_path)] == ["after", "before"]
