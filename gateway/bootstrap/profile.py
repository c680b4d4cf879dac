"""What devices are to be given: servers, the way in which each is spoken to, and who may do what. Pure values.

Owns the terms of a configuration and the choice of a profile by an endpoint's name. How a profile is written down is
`gateway.bootstrap.config`'s, what of it goes over the wire `gateway.bootstrap.objects`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, Flag
from fnmatch import fnmatchcase

from schemas.lwm2m.path import Path
from security.credentials.opening import StorePlace


class Mode(Enum):
    """How a device proves itself to a server; the number of object 0, resource 2, is in `objects`."""

    NONE = "none"
    PSK = "psk"
    X509 = "x509"
    OSCORE = "oscore"


class Right(Flag):
    """The bits of object 2, resource 2 (OMA LwM2M Core 1.1, appendix E.3)."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
    DELETE = 8
    CREATE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One server of a device: an instance of object 0 and one of object 1. Times in seconds."""

    uri: str
    #: 1 to 65534 (object 1, resource 0).
    short_id: int
    mode: Mode
    #: Where that server reads its devices' credentials; None only without security.
    store: StorePlace | None = None
    #: In DER; with X.509, what the device shall hold the server to (object 0, resource 4).
    server_certificate: bytes = b""
    lifetime: int = 86400
    binding: str = "U"
    store_notifications: bool = True
    min_period: int | None = None
    max_period: int | None = None
    disable_timeout: int | None = None
    hold_off: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessControl:
    """One instance of object 2. ``rights`` by short server id; 0 is for every server that is not named."""

    object_id: int
    instance_id: int
    owner: int
    rights: Mapping[int, Right] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a device is given.

    ``name``: under which heading of the configuration it stands. ``delete``: what is removed first; ``read``: what of
    objects 1 and 2 is read before that, for the trace. ``discover``: whether the device is asked where its account with
    this server is; else it is taken to be ``/0/0``.
    """

    name: str
    accounts: tuple[Account, ...]
    acls: tuple[AccessControl, ...] = ()
    delete: tuple[Path, ...] = (Path(0), Path(1))
    read: tuple[Path, ...] = ()
    discover: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All profiles. The first that fits is taken: of that very name, then of a pattern in order, then the default."""

    endpoints: Mapping[str, Profile] = field(default_factory=dict)
    patterns: tuple[tuple[str, Profile], ...] = ()
    default: Profile | None = None

    def of(self, ep: str) -> Profile | None:
        """The profile of an endpoint, None if it is to have none."""
        found = self.endpoints.get(ep)
        if found is not None:
            return found
        return next((profile for glob, profile in self.patterns if fnmatchcase(ep, glob)), self.default)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Every one, in the order in which they are tried."""
        last = () if self.default is None else (self.default,)
        return (*self.endpoints.values(), *(profile for _, profile in self.patterns), *last)
