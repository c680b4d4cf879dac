"""What can be wrong with a payload.

    CodecError
    ├── UnknownFormat      no codec has this content format
    ├── MalformedPayload   the bytes are not of the format they claim to be
    ├── WrongPath          the payload is about something else than what was asked for
    ├── WrongValue         a value does not fit the type of its resource
    └── NotInThisFormat    the format cannot carry this node, or the target asked for

Each text is written for the person who sent the command or runs the device.
"""

from __future__ import annotations


class CodecError(ValueError):
    """A payload cannot be read or made."""


class UnknownFormat(CodecError):
    """No codec has this content format."""


class MalformedPayload(CodecError):
    """The bytes are not of the format they claim to be."""


class WrongPath(CodecError):
    """The payload lies outside the path that was asked for."""


class WrongValue(CodecError):
    """A value does not fit the type of its resource."""


class NotInThisFormat(CodecError):
    """The format cannot carry this node or target."""
