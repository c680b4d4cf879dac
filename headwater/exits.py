"""How the command ends: the exit codes, and which error means which.

Owns the table in docs/cli.md. An error that is listed here is expected: it is told in words, without a traceback.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    #: The device, the gateway or a store answered with an error, or an audit (demo) found something wrong.
    REFUSED = 1
    #: The command line, the settings file, or what was given to read (a value, a request) is wrong.
    USAGE = 2
    #: Kafka or a store is not reachable, or a topic does not exist there.
    UNREACHABLE = 3
    #: No reply came in time.
    TIMEOUT = 4
    #: The process cannot start here: a port is taken, a file cannot be used, jars or Java cannot be had.
    CANNOT_START = 5
    #: A plan has something to do.
    CHANGES = 10
    #: An error that nobody expected, which is a bug.
    BUG = 70
    #: Ctrl-C while waiting.
    INTERRUPTED = 130


class Stop(Exception):
    """End the command with ``code`` after telling ``message``; the message says what to do."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def expected(error: BaseException) -> tuple[Exit, str] | None:
    """The exit code and the words for an error that is expected; None for one that is a bug."""
    if isinstance(error, Stop):
        return error.code, str(error)
    # Imported here: this is asked once, at the end, and the help must not wait for Kafka's client.
    from cloud.requests import NoReply
    from cloud.writing import NotSent
    from connectors.broker_admin import NoAccessControl
    from connectors.kafka import KafkaException, TopicMissing, Unreachable
    from connectors.store_users import InvalidStoreUser, StoreRefused, StoreUnreachable
    from gateway.state_file import StateError
    from headwater.servers.broker import BrokerError, NotUsable
    from schemas.avro.serde import SerdeError
    from schemas.lwm2m.objects import DefinitionError
    from schemas.lwm2m.path import PathError
    from security.errors import ApiKeyError, InvalidCredential, NoSuchCredential, Refused, SecurityError
    from security.identities import InvalidIdentity

    table: dict[type[BaseException], Exit] = {
        PathError: Exit.USAGE,
        DefinitionError: Exit.USAGE,
        SerdeError: Exit.USAGE,
        Unreachable: Exit.UNREACHABLE,
        NoAccessControl: Exit.UNREACHABLE,
        TopicMissing: Exit.UNREACHABLE,
        NotSent: Exit.UNREACHABLE,
        KafkaException: Exit.UNREACHABLE,
        NoReply: Exit.TIMEOUT,
        StoreUnreachable: Exit.UNREACHABLE,
        StoreRefused: Exit.REFUSED,
        InvalidStoreUser: Exit.USAGE,
        NotUsable: Exit.USAGE,
        InvalidIdentity: Exit.USAGE,
        Refused: Exit.USAGE,
        ApiKeyError: Exit.USAGE,
        InvalidCredential: Exit.USAGE,
        NoSuchCredential: Exit.USAGE,
        SecurityError: Exit.CANNOT_START,
        BrokerError: Exit.CANNOT_START,
        StateError: Exit.CANNOT_START,
        OSError: Exit.CANNOT_START,
    }
    if isinstance(error, BaseExceptionGroup):
        # A group out of a TaskGroup is expected if all in it are; the first one speaks.
        found = [expected(inner) for inner in error.exceptions]
        return found[0] if all(found) else None
    for kind, code in table.items():
        if isinstance(error, kind):
            return code, _words(error)
    return None


def _words(error: BaseException) -> str:
    from connectors.kafka import KafkaException, NotAllowed, in_words

    if isinstance(error, KafkaException) and not isinstance(error, NotAllowed) and hasattr(error.args[0], "str"):
        return in_words(error.args[0], None)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
