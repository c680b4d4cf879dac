"""What can be wrong between records and bytes, as one tree.

```
SerdeError
├── NotFramed          the bytes are not in Confluent's wire format
├── UnknownSchemaId    framed, with an id that ids.json does not have
├── MalformedRecord    the bytes are no record of the schema that they name, or it holds an impossible value
├── InvalidRecord      the record handed to encode holds a value that Avro or the contract cannot carry
└── InvalidRequest     the JSON text is no request; says where and what is expected there
```
"""

from __future__ import annotations

from struct import error as StructError


class SerdeError(ValueError):
    """A record could not be made from bytes or JSON, or bytes could not be made from a record."""


class NotFramed(SerdeError):
    """The bytes do not start with a zero byte and a schema id of four bytes."""


class UnknownSchemaId(SerdeError):
    """No schema of ours has this id; ``schema_id`` is the one that was found."""

    def __init__(self, schema_id: int) -> None:
        super().__init__(f"schema id {schema_id} is not in ids.json")
        self.schema_id = schema_id


class MalformedRecord(SerdeError):
    """The bytes end early, go on too long, or hold what the schema or LwM2M does not allow."""


class InvalidRecord(SerdeError):
    """The record cannot be written: an integer beyond its width, a value that is not of its type, no UTF-8."""


class InvalidRequest(SerdeError):
    """The text is no request in Avro's JSON form."""


def malformed(schema_id: int, exc: Exception, at: int, size: int) -> MalformedRecord:
    """What ``exc``, raised by a reader at byte ``at`` of ``size``, means to people."""
    return MalformedRecord(f"schema id {schema_id}: {_words(exc)}, at byte {at} of {size}")


def _words(exc: Exception) -> str:
    """What is wrong, the same for the same bytes: fastavro's own words may hold the address of an object."""
    match exc:
        case EOFError() | StructError():
            return "it ends too early, or a length in it is wrong"
        case IndexError():
            return "it has a branch of a union or a symbol of an enum that the schema does not have"
        case UnicodeDecodeError():
            return "a text in it is no UTF-8"
        case _:
            return f"{type(exc).__name__}: {exc}"
