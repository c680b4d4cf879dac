"""What the Redis sink makes of a Redis that says no: nothing is lost or half written, people are told, no secret is."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from connectors.sinks import RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.redis import open_redis
from tests.ports import held_port
from tests.redis_server import PASSWORD, Brand, RedisServer
from tests.sink_harness import PATIENCE_S, eventually
from tests.sink_samples import at, new, notification, resource
from tests.stores.redis import RedisStore

ROOT = Path(__file__).parents[2]
CERTIFICATE = Path(__file__).parents[1] / "data" / "tls" / "localhost.pem"
HERE = "/3303/0/5700"

ServerFactory = Callable[..., RedisServer]


@pytest.fixture
def redis(tmp_path: Path) -> RedisStore:
    return RedisStore(tmp_path)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts a Redis of the test's own; the arguments are more of its command line."""
    made: list[RedisServer] = []

    def make(*more: str, brand: Brand = Brand.REDIS) -> RedisServer:
        directory = tmp_path / f"redis-{len(made)}"
        server = RedisServer(directory=directory, port=held_port(), brand=brand, more=more)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.remove()


def own_store(server: RedisServer) -> RedisStore:
    store = RedisStore(Path(), server)
    store.database, store.client = 0, server.client()
    return store


def reading(offset: int, value: float = 0.0, *, ep: str = "ep-1") -> SinkRecord:
    return at(offset, notification(resource(HERE, value), ep=ep, timestamp=1_000 + offset))


def takes(write: Callable[[list[SinkRecord]], None], records: list[SinkRecord]) -> bool:
    try:
        write(records)
    except RetryLater:
        return False
    return True


# ---- down, slow, full


@pytest.mark.parametrize("brand", list(Brand), ids=lambda brand: brand.name.lower())
def test_down_at_first_then_killed_and_back_again(own_server: ServerFactory, brand: Brand) -> None:
    server = own_server(brand=brand)
    server.kill()
    sink = open_redis({"port": server.port})
    for _ in range(2):
        with pytest.raises(RetryLater, match="refused"):
            sink.write([reading(0)])
    server.start()
    sink.write([reading(0)])
    server.kill()
    with pytest.raises(RetryLater):
        sink.write([reading(1)])
    server.start()
    sink.write([reading(0), reading(1)])
    sink.close()
    assert own_store(server).statistics()["count"] == 2


def test_killed_in_the_middle_of_batches_it_has_each_record_once(own_server: ServerFactory) -> None:
    server = own_server()
    sink = open_redis({"port": server.port, "timeout_s": 5})
    killer = threading.Event()

    def kill_soon() -> None:
        killer.wait(PATIENCE_S)
        server.kill()

    for start in (0, 10_000):
        killer.clear()
        thread = threading.Thread(target=kill_soon)
        thread.start()
        for number in range(20):
            if number == 2:
                killer.set()
            batch = [reading(start + 500 * number + i, float(i)) for i in range(500)]
            while not takes(sink.write, batch):
                thread.join(PATIENCE_S)
                if server.process is None:
                    server.start()
        thread.join(PATIENCE_S)
        if server.process is None:
            server.start()
    sink.close()
    store = own_store(server)
    assert store.statistics()["count"] == 20_000
    assert store.statistics()["sum"] == 2 * 20 * sum(range(500))


def test_one_that_hangs_is_not_waited_for_longer_than_the_timeout(own_server: ServerFactory) -> None:
    server = own_server()
    sink = open_redis({"port": server.port, "timeout_s": 0.3})
    # A busy machine may be too slow for that timeout also while Redis runs.
    eventually(lambda: takes(sink.write, [reading(0)]), True)
    server.pause()
    with pytest.raises(RetryLater, match=r"[Tt]ime"):
        sink.write([reading(1)])
    server.go_on()
    # What was sent before may have been taken meanwhile: it counts once all the same.
    eventually(lambda: takes(sink.write, [reading(1)]), True)
    sink.close()
    assert own_store(server).statistics()["count"] == 2


@pytest.mark.parametrize("brand", list(Brand), ids=lambda brand: brand.name.lower())
def test_a_full_redis_takes_all_of_a_batch_or_nothing(own_server: ServerFactory, brand: Brand) -> None:
    server = own_server("--maxmemory-policy", "noeviction", brand=brand)
    store = own_store(server)
    sink = open_redis({"port": server.port})
    sink.write([reading(0), at(0, new())])
    before = store.everything()
    store.client.config_set("maxmemory", "1")
    with pytest.raises(RetryLater, match="it is full: raise maxmemory"):
        sink.write([*(reading(offset, ep=f"ep-{offset}") for offset in range(1, 500)), at(1, new(reg_id="r2"))])
    assert store.everything() == before
    store.client.config_set("maxmemory", "0")
    sink.write([reading(1)])
    sink.close()
    assert store.statistics()["count"] == 2


def test_a_replica_is_told_and_taken_once_it_is_the_primary(own_server: ServerFactory) -> None:
    primary = own_server()
    replica = own_server("--replicaof", "127.0.0.1", str(primary.port))
    sink = open_redis({"port": replica.port})
    with replica.client() as client:
        eventually(lambda: client.info("replication")["master_link_status"], "up")
        with pytest.raises(RetryLater, match="it is a replica: name the primary"):
            sink.write([reading(0)])
        client.replicaof("NO", "ONE")
    sink.write([reading(0)])
    sink.close()
    assert own_store(replica).statistics()["count"] == 1


def test_one_that_reads_its_data_is_waited_for(own_server: ServerFactory) -> None:
    server = own_server()
    store = own_store(server)
    sink = open_redis({"port": server.port, "timeout_s": 5})
    sink.write([reading(offset, ep=f"ep-{offset % 300}") for offset in range(3_000)])
    store.client.bgrewriteaof()
    eventually(lambda: store.client.info("persistence")["aof_rewrite_in_progress"], 0)
    server.kill()
    # Microseconds for each key while it loads; so it is loading for half a minute unless it is told otherwise.
    server.more = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    starts = threading.Thread(target=server.start)
    starts.start()

    def refused() -> bool:
        try:
            sink.write([reading(3_000, ep="ep-1")])
        except RetryLater as exc:
            return "still reading its data" in str(exc)
        raise AssertionError("it was taken by one that was not ready")

    eventually(refused, True)
    client = server.client()
    eventually(lambda: _told_to_hurry(client), True)
    starts.join(PATIENCE_S)
    eventually(lambda: takes(sink.write, [reading(3_000, ep="ep-1")]), True)
    sink.close()
    assert store.statistics()["count"] == 11


def _told_to_hurry(client: Any) -> bool:
    with suppress(RedisError):
        return bool(client.config_set("key-load-delay", "0"))
    return False


def test_it_forgets_the_script_and_gets_it_again(redis: RedisStore) -> None:
    sink = open_redis(redis.options())
    sink.write([reading(0)])
    redis.client.script_flush()
    sink.write([reading(1)])
    sink.close()
    assert redis.statistics()["count"] == 2


# ---- something else under our keys


@pytest.mark.parametrize(
    "kind",
    [("latest", "ep-7"), ("stats", "ep-7", HERE), ("stream",), ("endpoints",), ("online",), ("endpoint", "ep-7")],
)
def test_a_key_that_is_somebody_elses_is_named_and_nothing_is_written(redis: RedisStore, kind: tuple[str, ...]) -> None:
    redis.client.set(redis.key(*kind), b"mine")
    sink = open_redis(redis.options())
    batch = [*(reading(offset, ep=f"ep-{offset}") for offset in range(10)), at(0, new(ep="ep-7"))]
    with pytest.raises(RetryLater, match="somebody else's"):
        sink.write(batch)
    assert list(redis.client.scan_iter()) == [redis.key(*kind)]
    redis.client.delete(redis.key(*kind))
    sink.write(batch)
    sink.close()
    assert redis.statistics(ep="ep-7")["count"] == 1


@pytest.mark.parametrize(
    ("kind", "field"),
    [(("applied",), b"iot.gw1.observations:0"), (("stats", "ep-1", HERE), b"count"), (("endpoint", "ep-1"), b"at")],
)
def test_fields_that_hold_something_else_are_told(redis: RedisStore, kind: tuple[str, ...], field: bytes) -> None:
    redis.client.hset(redis.key(*kind), field, b"many\xff")
    sink = open_redis(redis.options())
    with pytest.raises(RetryLater, match="somebody else's"):
        sink.write([reading(0), at(0, new())])
    redis.client.hdel(redis.key(*kind), field)
    sink.write([reading(0), at(0, new())])
    sink.close()
    assert redis.statistics()["count"] == 1


@pytest.mark.parametrize("junk", [b"", b"{", b"null", b"[]", b'{"order":1}', b'{"order":[1]}', b"\xff"])
def test_a_latest_value_that_is_none_is_replaced(redis: RedisStore, junk: bytes) -> None:
    redis.client.hset(redis.key("latest", "ep-1"), HERE, junk)
    sink = open_redis(redis.options())
    sink.write([reading(0, 4.0)])
    sink.close()
    assert redis.latest()[HERE]["value"] == 4.0


# ---- who may


def test_a_wrong_password_is_told_and_a_mended_file_goes_on(redis: RedisStore, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("not the password\n")
    options = {**redis.options(), "password_file": str(file)}
    del options["password"]
    sink = open_redis(options)
    with pytest.raises(RetryLater, match="refuses the user or the password") as refused:
        sink.write([reading(0)])
    assert "not the password" not in str(refused.value)
    file.write_text("")
    with pytest.raises(RetryLater, match="empty"):
        sink.write([reading(0)])
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    sink.write([reading(0)])
    sink.close()
    assert redis.statistics()["count"] == 1


def test_a_missing_password_is_told(redis: RedisStore) -> None:
    sink = open_redis({"port": redis.server.port, "database": redis.database})
    with pytest.raises(RetryLater, match="asks for a password"):
        sink.write([reading(0)])
    sink.close()


@pytest.mark.parametrize("brand", list(Brand), ids=lambda brand: brand.name.lower())
def test_a_user_with_the_rights_of_the_page_can_do_all_and_others_are_told(
    own_server: ServerFactory, brand: Brand
) -> None:
    store = own_store(own_server(brand=brand))
    page = (ROOT / "docs" / "sinks" / "redis.md").read_text("utf-8")
    (rights,) = re.findall(r"^ACL SETUSER headwater on >secret (.*)$", page, re.MULTILINE)
    store.client.execute_command("ACL", "SETUSER", "headwater", "on", ">s p: é", *rights.split())
    batch = [reading(0), at(0, new())]
    weak = open_redis({"port": store.server.port, "user": "headwater", "password": "s p: é"})
    for right in ("hget", "hmget", "hset", "xlen", "sadd", "scard", "xadd", "evalsha"):
        store.client.execute_command("ACL", "SETUSER", "headwater", f"-{right}")
        for _ in range(2):
            with pytest.raises(RetryLater, match="the user may not do that"):
                weak.write(batch)
        assert store.stream() == []
        assert store.hash("stats", "ep-1", HERE) == {}
        store.client.execute_command("ACL", "SETUSER", "headwater", f"+{right}")
    weak.close()
    sink = open_redis({"port": store.server.port, "user": "headwater", "password": "s p: é"})
    sink.write(batch)
    sink.write([reading(1), at(1, new(reg_id="r2"))])
    sink.close()
    assert store.statistics()["count"] == 2


@contextmanager
def tls_front(server: RedisServer) -> Iterator[int]:
    """A port that speaks TLS for a server that was built without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as theirs,
            socket.create_connection(("127.0.0.1", server.port)) as ours,
        ):
            back = threading.Thread(target=pump, args=(ours, theirs), daemon=True)
            back.start()
            pump(theirs, ours)
            back.join(PATIENCE_S)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_over_tls_the_certificate_must_be_of_the_named_authority(redis: RedisStore) -> None:
    with tls_front(redis.server) as port:
        options = {**redis.options(), "host": "localhost", "port": port, "tls": True}
        stranger = open_redis(options)
        with pytest.raises(RetryLater, match="certificate"):
            stranger.write([reading(0)])
        stranger.close()
        sink = open_redis({**options, "ca_file": str(CERTIFICATE)})
        sink.write([reading(0)])
        sink.close()
    assert redis.statistics()["count"] == 1


# ---- kinds of Redis


@pytest.mark.parametrize("brand", list(Brand), ids=lambda brand: brand.name.lower())
def test_a_cluster_takes_what_a_single_one_takes(own_server: ServerFactory, brand: Brand) -> None:
    server = own_server("--cluster-enabled", "yes", brand=brand)
    store = own_store(server)
    sink = open_redis({"port": server.port, "cluster": True})
    with pytest.raises(RetryLater):
        sink.write([reading(0)])
    store.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    eventually(lambda: b"cluster_state:ok" in store.client.execute_command("CLUSTER", "INFO"), True)
    batch = [reading(0), reading(1, ep="}{"), at(0, new())]
    sink.write(batch)
    sink.write(batch)
    sink.close()
    assert store.statistics()["count"] == 1
    slots = {store.client.execute_command("CLUSTER", "KEYSLOT", key) for key in store.everything()}
    assert len(slots) == 1


def test_a_single_redis_is_no_cluster(redis: RedisStore) -> None:
    options = redis.options()
    del options["database"]
    sink = open_redis({**options, "cluster": True})
    with pytest.raises(RetryLater, match="set cluster = false"):
        sink.write([reading(0)])
    sink.close()


def test_it_waits_for_the_disk_if_it_is_told_to(own_server: ServerFactory) -> None:
    server = own_server()
    store = own_store(server)
    sink = open_redis({"port": server.port, "wait_for_disk": True})
    sink.write([reading(0)])
    store.client.config_set("appendonly", "no")
    for _ in range(2):
        with pytest.raises(RetryLater, match="wait_for_disk needs"):
            sink.write([reading(1)])
    store.client.config_set("appendonly", "yes")
    eventually(lambda: takes(sink.write, [reading(1)]), True)
    sink.close()
    assert store.statistics()["count"] == 2


def test_settings_that_lose_data_are_told_once(own_server: ServerFactory, capsys: pytest.CaptureFixture[str]) -> None:
    server = own_server("--maxmemory-policy", "allkeys-lru", "--appendonly", "no")
    sink = open_redis({"port": server.port})
    sink.write([reading(0)])
    sink.close()
    sink.write([reading(1)])
    sink.close()
    told = capsys.readouterr().out
    assert told.count("throw keys away") == 1
    assert told.count("appendonly yes") == 1


# ---- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"port": 0},
        {"port": 70_000},
        {"database": -1},
        {"password": "pa55word", "password_file": "/run/secrets/redis"},
        {"password_file": "/nowhere/password"},
        {"user": "someone"},
        {"user": "", "password": "pa55word"},
        {"ca_file": "/nowhere/ca.pem"},
        {"tls": True, "ca_file": "/nowhere/ca.pem"},
        {"tls": True, "cert_file": "/nowhere/cert.pem"},
        {"timeout_s": 0},
        {"timeout_s": "pa55word"},
        {"prefix": ""},
        {"prefix": "{hw}"},
        {"prefix": "hw:"},
        {"stream_max": -1},
        {"cluster": True, "database": 1},
        {"cluster": True, "wait_for_disk": True},
        {"definitions": "/nowhere/objects"},
    ],
)
def test_wrong_options_are_told_before_anything_is_opened(wrong: dict[str, object]) -> None:
    with pytest.raises(SinkConfigError) as told:
        open_redis(wrong)
    assert "pa55word" not in str(told.value)


def test_an_empty_password_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")
    with pytest.raises(SinkConfigError, match="empty"):
        open_redis({"password_file": str(file)})


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SinkConfigError, match=r"pip install 'headwater\[redis\]'"):
        open_redis({})


def test_a_process_needs_the_library_only_when_it_writes_there() -> None:
    look = "import sys, connectors.sinks; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 0
