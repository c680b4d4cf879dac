"""What only an administrator asks of a broker: its access control lists, and to read its certificates again.

Owns the translation between our table (`security.acls`) and Kafka's words for the same. It decides nothing: what should
stand there is the table's, and how the one becomes the other `connectors.access`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from connectors.kafka import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    Cluster,
    ConfigEntry,
    ConfigResource,
    KafkaError,
    KafkaException,
    ResourcePatternType,
    ResourceType,
    admin,
    answering,
    metadata,
)
from security.acls import Binding, Decision, Grant, Operation, Pattern, Resource


class NoAccessControl(Exception):
    """The broker has no authorizer: whoever reaches it may do everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBinding:
    """A binding as a broker tells it; its words are Kafka's, as it may be one that our table has no word for."""

    principal: str
    host: str
    resource: str
    name: str
    pattern: str
    operation: str
    decision: str

    def as_binding(self) -> Binding | None:
        """The same in the table's words; None if it has none for it."""
        if self.host != "*":
            return None
        try:
            return Binding(
                principal=self.principal,
                grant=Grant(
                    resource=Resource(self.resource),
                    name=self.name,
                    operation=Operation(self.operation),
                    pattern=Pattern(self.pattern),
                ),
                decision=Decision(self.decision),
            )
        except ValueError:
            return None


def stored_bindings(cluster: Cluster, *, timeout: float = 15.0) -> list[StoredBinding]:
    """Every binding on ``cluster``, sorted.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        NotAllowed: we may not see them. NoAccessControl: the broker has none.
    """
    client = admin(cluster)
    metadata(client, cluster, timeout)
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    with answering("its access control lists", cluster), _controlled(cluster):
        found = client.describe_acls(everything, request_timeout=timeout).result(timeout + 1)
        if not found:
            # librdkafka tells a refusal as an empty list. To take away what nobody has is refused as loudly.
            nobodys = AclBindingFilter(
                ResourceType.TOPIC,
                "headwater-look",
                ResourcePatternType.LITERAL,
                "User:headwater-nobody",
                "*",
                AclOperation.READ,
                AclPermissionType.ALLOW,
            )
            for future in client.delete_acls([nobodys], request_timeout=timeout).values():
                future.result(timeout + 1)
    return sorted(
        (_stored(one) for one in found), key=lambda one: (one.principal, one.resource, one.name, one.operation)
    )


def change_bindings(
    cluster: Cluster, *, add: Sequence[Binding] = (), remove: Sequence[StoredBinding] = (), timeout: float = 15.0
) -> None:
    """Add and remove bindings; what is there already, or gone already, is no error. Raises as `stored_bindings`."""
    client = admin(cluster)
    for some in _slices(add):
        asked = client.create_acls([_acl(one) for one in some], request_timeout=timeout)
        for future in asked.values():
            with answering("that a right is given", cluster), _controlled(cluster):
                future.result(timeout + 1)
    for gone in _slices(remove):
        asked = client.delete_acls([_filter(one) for one in gone], request_timeout=timeout)
        for future in asked.values():
            with answering("that a right is taken away", cluster), _controlled(cluster):
                future.result(timeout + 1)


def _slices(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    # Kafka takes 10,000 changes of its metadata at once, and no more.
    for start in range(0, len(things), 1000):
        yield things[start : start + 1000]


@contextmanager
def _controlled(cluster: Cluster) -> Iterator[None]:
    try:
        yield
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.SECURITY_DISABLED:
            raise NoAccessControl(
                f"Kafka at {cluster.bootstrap} has no access control: whoever reaches it may do everything. "
                "`headwater kafka start --tls DIR` starts one that has"
            ) from exc
        raise


# Kafka calls the cluster a broker here.
_RESOURCES = {
    Resource.TOPIC: ResourceType.TOPIC,
    Resource.GROUP: ResourceType.GROUP,
    Resource.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
    Resource.CLUSTER: ResourceType.BROKER,
}
_NAMES = {kafkas: ours.value for ours, kafkas in _RESOURCES.items()}


def _acl(binding: Binding) -> AclBinding:
    grant = binding.grant
    return AclBinding(
        _RESOURCES[grant.resource],
        grant.name,
        ResourcePatternType[grant.pattern.name],
        binding.principal,
        "*",
        AclOperation[grant.operation.name],
        AclPermissionType[binding.decision.name],
    )


def _stored(acl: AclBinding) -> StoredBinding:
    return StoredBinding(
        principal=acl.principal,
        host=acl.host,
        resource=_NAMES.get(acl.restype, acl.restype.name.lower()),
        name=acl.name,
        pattern=acl.resource_pattern_type.name.lower(),
        operation=acl.operation.name.lower(),
        decision=acl.permission_type.name.lower(),
    )


def _filter(stored: StoredBinding) -> AclBindingFilter:
    kinds = {name: kafkas for kafkas, name in _NAMES.items()}
    return AclBindingFilter(
        kinds.get(stored.resource) or ResourceType[stored.resource.upper()],
        stored.name,
        ResourcePatternType[stored.pattern.upper()],
        stored.principal,
        stored.host,
        AclOperation[stored.operation.upper()],
        AclPermissionType[stored.decision.upper()],
    )


def reload_certificates(cluster: Cluster, listeners: Sequence[str], keystore: str, truststore: str) -> None:
    """Let a broker that runs read its certificate and authorities again, for new connections; those there go on.

    ``listeners`` are its listeners' names, ``keystore`` and ``truststore`` the files as the broker itself knows them.

    Raises:
        Unreachable: the broker did not answer. NotAllowed: we may not.
        KafkaException: it does not take the files, and goes on with those it has.
    """
    client = admin(cluster)
    metadata(client, cluster, 10.0)
    nodes = list(client.list_topics(timeout=10.0).brokers)
    for operation in (AlterConfigOpType.SET, AlterConfigOpType.DELETE):
        # Set to the same file again: that makes it look. Deleted after: what is set so outlives a move of the file.
        for node in nodes:
            for what, file in (("truststore", truststore), ("keystore", keystore)):
                entries = [
                    ConfigEntry(
                        f"listener.name.{name.lower()}.ssl.{what}.location", file, incremental_operation=operation
                    )
                    for name in listeners
                ]
                resource = ConfigResource(ResourceType.BROKER, str(node), incremental_configs=entries)
                for future in client.incremental_alter_configs([resource], request_timeout=15.0).values():
                    with answering("that its certificates are read again", cluster):
                        future.result(16.0)
