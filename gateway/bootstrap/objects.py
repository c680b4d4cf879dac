"""A profile with its keys as the objects that a device gets: 0 Security, 21 OSCORE, 1 Server, 2 Access Control.

Owns the numbers of their resources (OMA LwM2M Core 1.1, appendix E; OSCORE object 2.0). Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count

from gateway.bootstrap.issuing import Material
from gateway.bootstrap.profile import AccessControl, Mode, Profile
from schemas.lwm2m.nodes import Instance, MultipleResource, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.path import Path
from security.credentials.kinds import X509, Hkdf, Oscore, Psk

SECURITY, SERVER, ACCESS_CONTROL, OSCORE = 0, 1, 2, 21
#: Object 0, resource 2. OSCORE is no mode of its own: object 0 has a link to object 21, and no DTLS.
_MODES = {Mode.PSK: 0, Mode.X509: 2, Mode.NONE: 3, Mode.OSCORE: 3}
#: Object 21, resource 4: COSE's numbers of HMAC (RFC 9053 section 3.1).
_HMACS = {Hkdf.SHA_256: 5, Hkdf.SHA_512: 7}
_TYPES = {
    bool: ResourceType.BOOLEAN,
    int: ResourceType.INTEGER,
    str: ResourceType.STRING,
    bytes: ResourceType.OPAQUE,
    ObjectLink: ResourceType.OBJLNK,
}


def instances(profile: Profile, materials: Sequence[Material], kept: Collection[int]) -> list[Instance]:
    """What is written, in order. ``kept`` are the ids of object 0 that the device's account with us has."""
    made: list[Instance] = []
    free = (number for number in count() if number not in kept)
    contexts = count()
    for material, number in zip(materials, free, strict=False):
        context = None
        if isinstance(material.credential, Oscore):
            context = next(contexts)
            made.append(_instance(Path(OSCORE, context), _oscore(material.credential)))
        made.append(_instance(Path(SECURITY, number), _security(material, context)))
    made.sort(key=lambda one: one.path.object_id != SECURITY)
    for number, material in enumerate(materials):
        made.append(_instance(Path(SERVER, number), _server(material)))
    for number, acl in enumerate(profile.acls):
        made.append(_access_control(Path(ACCESS_CONTROL, number), acl))
    return made


def _instance(path: Path, values: Iterable[tuple[int, Value | None]]) -> Instance:
    return Instance(
        path=path,
        resources=tuple(
            Resource(path=path.child(number), type=_TYPES[type(value)], value=value)
            for number, value in values
            if value is not None
        ),
    )


def _security(material: Material, context: int | None) -> Iterator[tuple[int, Value | None]]:
    account = material.account
    identity, secret = b"", b""
    match material.credential:
        case Psk(identity=identity, key=key):
            secret = key.reveal()
        case X509(certificate=identity) if material.private_key is not None:
            secret = material.private_key.reveal()
    yield 0, account.uri
    yield 1, False
    yield 2, _MODES[account.mode]
    # Mandatory also where there is nothing to be said.
    yield 3, identity
    yield 4, account.server_certificate
    yield 5, secret
    yield 10, account.short_id
    yield 11, account.hold_off
    yield 17, None if context is None else ObjectLink(OSCORE, context)


def _oscore(context: Oscore) -> Iterator[tuple[int, Value | None]]:
    # The device's ids are ours the other way round.
    yield 0, context.master_secret.reveal()
    yield 1, context.recipient_id
    yield 2, context.sender_id
    yield 3, context.aead.value[0]
    yield 4, _HMACS[context.hkdf]
    yield 5, context.master_salt.reveal() if len(context.master_salt) else None
    yield 6, context.id_context


def _server(material: Material) -> Iterator[tuple[int, Value | None]]:
    account = material.account
    yield 0, account.short_id
    yield 1, account.lifetime
    yield 2, account.min_period
    yield 3, account.max_period
    yield 5, account.disable_timeout
    yield 6, account.store_notifications
    yield 7, account.binding


def _access_control(path: Path, acl: AccessControl) -> Instance:
    rights = path.child(2)
    made: list[Resource | MultipleResource] = [
        Resource(path=path.child(0), type=ResourceType.INTEGER, value=acl.object_id),
        Resource(path=path.child(1), type=ResourceType.INTEGER, value=acl.instance_id),
    ]
    if acl.rights:
        made.append(
            MultipleResource(
                path=rights,
                type=ResourceType.INTEGER,
                instances=tuple(
                    Resource(path=rights.child(server), type=ResourceType.INTEGER, value=right.value)
                    for server, right in sorted(acl.rights.items())
                ),
            )
        )
    made.append(Resource(path=path.child(3), type=ResourceType.INTEGER, value=acl.owner))
    return Instance(path=path, resources=tuple(made))
