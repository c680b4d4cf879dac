"""The Redis sink's conversation with Redis: one client, its settings, and what its errors mean to people.

Owns the connection. It knows no record; what is asked and written is the business of `connectors.sinks.redis`.
redis-py is imported when the first connection is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import structlog

from connectors.sinks.redis_changes import Changes
from connectors.sinks.redis_options import RedisOptions
from connectors.sinks.redis_script import SCRIPT
from connectors.sinks.sink import RetryLater, SinkConfigError

_log = structlog.get_logger()

#: Redis knows a script by its hash.
_SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

OTHERS_KEY: Final = "a key of that name is somebody else's: give this sink another prefix or database"
_RIGHTS: Final = "the user may not do that: see the page of this sink for the rights that it needs"

#: By what the error says: what redis-py makes a class of its own loses its first word, and to Redis 6 all that fails in
#: a script is the script's failure.
_BY_WORDS: Final[Mapping[str, str]] = {
    "OOM command": "it is full: raise maxmemory, or make room",
    "read only replica": "it is a replica: name the primary",
    "MISCONF": "it cannot save its data and takes nothing: see its log and its disk",
    "Authentication required": "it asks for a password: set password or password_file",
    "luster mode is not enabled": "it is no Redis Cluster: set cluster = false",
    "cluster support disabled": "it is no Redis Cluster: set cluster = false",
    "max number of clients": "it has too many clients: raise maxclients",
    "DB index": "it has no such database",
    "WAITAOF": "wait_for_disk needs Redis 7.2 or Valkey, with appendonly yes",
    "ACL failure": _RIGHTS,
    "can't run this command": _RIGHTS,
    "WRONGTYPE": OTHERS_KEY,
    "is no statistics": OTHERS_KEY,
}
#: By the class of redis-py.
_BY_CLASS: Final[Mapping[str, str]] = {
    "OutOfMemoryError": "it is full: raise maxmemory, or make room",
    "ReadOnlyError": "it is a replica: name the primary",
    "BusyLoadingError": "it is still reading its data from the disk",
    "NoPermissionError": _RIGHTS,
    "MovedError": "it is a Redis Cluster: set cluster = true",
    "ClusterDownError": "the cluster is not complete",
    "AuthenticationError": "it refuses the user or the password: check them",
    "AuthenticationWrongNumberOfArgsError": "it knows no users: leave user out",
}


class RedisSession:
    """One Redis, Valkey, or Redis Cluster. Where it cannot be spoken with, the next attempt has a new connection."""

    def __init__(self, options: RedisOptions) -> None:
        """Nothing is connected yet."""
        self._options = options
        #: Untyped: one of a single server and one of a cluster have only their methods in common.
        self._client: Any = None
        self._looked = False

    @property
    def where(self) -> str:
        """The server, for people."""
        return f"Redis at {self._options.host}:{self._options.port}"

    def close(self) -> None:
        """Let go of the connection; never raises for a server that is down."""
        from redis.exceptions import RedisError

        client, self._client = self._client, None
        if client is not None:
            with suppress(RedisError, OSError):
                client.close()

    def ask(self, asked: Iterable[tuple[str, Sequence[str]]]) -> list[list[str]]:
        """HMGET of each key, in one round trip; what is not there is empty. Raises RetryLater."""
        with self._conversation() as client:
            pipeline = client.pipeline(transaction=False)
            for key, fields in asked:
                pipeline.hmget(key.encode(), [name.encode() for name in fields])
            return [[(value or b"").decode("utf-8", "replace") for value in answer] for answer in pipeline.execute()]

    def run(self, changes: Changes) -> bool:
        """Run the script; False if the store was not in the state that it was folded against. Raises RetryLater."""
        from redis.exceptions import NoScriptError

        keys = [key.encode() for key in changes.keys]
        with self._conversation() as client:
            try:
                answer = client.evalsha(_SHA, len(keys), *keys, changes.payload)
            except NoScriptError:
                answer = client.eval(SCRIPT, len(keys), *keys, changes.payload)
            if answer == 1 and self._options.wait_for_disk:
                synced, _ = client.execute_command("WAITAOF", 1, 0, int(self._options.timeout_s * 900))
                if not synced:
                    raise RetryLater(f"{self.where}: what it took is not on its disk yet")
        return bool(answer == 1)

    @contextmanager
    def _conversation(self) -> Iterator[Any]:
        """The client; whatever goes wrong with it is a RetryLater, and the next attempt has a fresh connection."""
        from redis.exceptions import RedisClusterException, RedisError

        try:
            if self._client is None:
                self._client = self._connect()
                self._look_at(self._client)
            yield self._client
        except (RedisError, RedisClusterException, OSError) as exc:
            self.close()
            raise RetryLater(f"{self.where}: {_words(exc)}") from exc
        except RetryLater:
            self.close()
            raise

    def _connect(self) -> Any:
        """A client; raises RetryLater where the password's file is being replaced."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.cluster import RedisCluster
        from redis.retry import Retry

        options = self._options
        try:
            options.check_files()
            secret = options.secret()
        except SinkConfigError as exc:
            raise RetryLater(str(exc)) from exc
        settings: dict[str, Any] = {
            "host": options.host,
            "port": options.port,
            "username": options.user,
            "password": secret,
            "socket_timeout": options.timeout_s,
            "socket_connect_timeout": options.timeout_s,
            "protocol": 2,
        }
        if options.tls:
            settings |= {
                "ssl": True,
                "ssl_ca_certs": options.ca_file and str(options.ca_file),
                "ssl_certfile": options.cert_file and str(options.cert_file),
                "ssl_keyfile": options.key_file and str(options.key_file),
                "ssl_check_hostname": True,
            }
        # Trying again is the runner's, which stays in its consumer group meanwhile.
        if options.cluster:
            return RedisCluster(**settings, retry=Retry(NoBackoff(), 1))
        return Redis(**settings, db=options.database, retry=Retry(NoBackoff(), 0), single_connection_client=True)

    def _look_at(self, client: Any) -> None:
        """Say, once, what of the server's settings can lose what it acknowledges; a user may be barred from asking."""
        from redis.exceptions import RedisError

        if self._looked or self._options.cluster:
            return
        self._looked = True
        told: dict[str, Any] = {}
        for section in ("persistence", "memory"):
            with suppress(RedisError):
                told |= client.info(section)
        with suppress(RedisError):
            told |= client.config_get("appendfsync")
        if str(told.get("maxmemory_policy", "")).startswith("allkeys"):
            _log.warning("Redis may throw keys away when it is full", hint="maxmemory-policy noeviction")
        if told.get("aof_enabled") == 0:
            _log.warning("Redis keeps no log of writes on its disk", hint="appendonly yes, and appendfsync always")
        elif told.get("appendfsync") not in (None, "always") and not self._options.wait_for_disk:
            _log.warning("Redis acknowledges before its disk has it", hint="appendfsync always, or wait_for_disk")


def _words(exc: Exception) -> str:
    """What Redis says, and what to do; one line, and never what was sent."""
    text = " ".join(f"{exc}".split()) or type(exc).__name__
    advice = next((advice for sign, advice in _BY_WORDS.items() if sign in text), _BY_CLASS.get(type(exc).__name__))
    short = text if len(text) <= 300 else f"{text[:300]} …"
    return f"{advice}; it says {short}" if advice else short
