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
    ├── CertificateUnusable    a certificate or its key that was given in a file cannot be used
    ├── Exposed                others on the machine may read or change a key
    ├── ApiKeyError            the file of API keys cannot be used, or what is asked of it makes no sense
    └── CredentialError
        ├── InvalidCredential      a device's credential breaks a limit, or cannot be read
        ├── CredentialStoreError   the store cannot be opened, read or written
        │   ├── StoreMissing       there is none
        │   ├── StoreForeign       the file is damaged, not ours, or of a later version
        │   ├── StoreExposed       others on the machine may read or change it
        │   └── StoreBusy          another process held it for too long
        └── NoSuchCredential       the store has none of that name
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


class CertificateUnusable(SecurityError):
    """A certificate or its key that was given in a file cannot be used."""


class Exposed(SecurityError):
    """A key lies open to others on this machine."""


class ApiKeyError(SecurityError):
    """The file of API keys cannot be read or written, or what is asked of it makes no sense."""


class CredentialError(SecurityError):
    """What has to do with the credentials of devices."""


class InvalidCredential(CredentialError):
    """A credential breaks a limit, or cannot be read; nothing of a key is told."""


class CredentialStoreError(CredentialError):
    """The store of credentials cannot be opened, read or written."""


class StoreMissing(CredentialStoreError):
    """There is no store."""


class StoreForeign(CredentialStoreError):
    """The file is damaged, not ours, or of a later version."""


class StoreExposed(CredentialStoreError):
    """Others than its owner may read or change the store."""


class StoreBusy(CredentialStoreError):
    """Another process held the store for too long."""


class NoSuchCredential(CredentialError):
    """The store has no such credential."""
