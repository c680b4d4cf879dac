"""What can go wrong with certificates and secrets; each message says what to do, and none holds a secret."""

from __future__ import annotations


class SecurityError(Exception):
    """The root.

    SecurityError
    ├── AuthorityError
    │   ├── AuthorityMissing   there is none in the folder yet
    │   ├── AuthorityBusy      another process changes it
    │   ├── AuthorityBroken    files are damaged, foreign, missing, or do not belong together
    │   ├── AuthorityExpired   its own certificate has run out, or would before what it is asked to issue
    │   ├── ClockWrong         the machine's clock cannot be right
    │   └── Refused            what is asked for would do harm, or does not fit to what is there
    ├── FolderError            the folder of an identity cannot be used
    ├── SecretError            a secret cannot be read from its file
    ├── Exposed                others on the machine may read or change a key
    └── ApiKeyError            the file of API keys cannot be used, or what is asked of it makes no sense
    """


class AuthorityError(SecurityError):
    """The authority cannot do what it is asked."""


class AuthorityMissing(AuthorityError):
    """There is no authority in the folder."""


class AuthorityBusy(AuthorityError):
    """Another process changes the authority's folder."""


class AuthorityBroken(AuthorityError):
    """Files of the authority are damaged, foreign or missing."""


class AuthorityExpired(AuthorityError):
    """The authority's own certificate does not reach far enough."""


class ClockWrong(AuthorityError):
    """The machine's clock contradicts what is known."""


class Refused(AuthorityError):
    """Not done, and nothing changed."""


class FolderError(SecurityError):
    """The folder of an identity is not complete, does not belong together, or cannot be read."""


class SecretError(SecurityError):
    """A secret cannot be read."""


class Exposed(SecurityError):
    """A key lies open to others on this machine."""


class ApiKeyError(SecurityError):
    """The file of API keys cannot be read or written, or what is asked of it makes no sense."""
