"""What a fleet's file comes to on a Swarm: labels, networks, secrets, and each stack with its variables.

Owns the names of all of them and which stack runs where. Pure: it is given the fleet, what is on this machine
(certificates, passwords, as fingerprints) and the contents of the stack files, and asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from headwater.deploy.device_files import STACKS, device_files
from headwater.deploy.fleet import Bootstrap, Fleet, Gateway, Job, Retention, User, stack_word
from headwater.deploy.material import WEBHOOK, Material, base
from headwater.deploy.stackfile import Stack, StackFileError, digest, merge, resolve, variables_of
from security.fleet import of_cloud, of_edge
from security.identities import ALL_GATEWAYS, Identity, Role
from security.tls_folder import CA, CERTIFICATE, KEY, KEYSTORE

#: Whose a stack, a network or a problem is, if no gateway's.
CLOUD, MONITORING = "cloud", "monitoring"
#: Stands where a fingerprint will be once there is a certificate or password.
NEW = "new"
#: What stands in a secret's name for each file of an identity.
FILES = {CA: "ca", CERTIFICATE: "cert", KEY: "key", KEYSTORE: "keystore"}
#: The stack file that is added where somebody is told of alerts.
ALERTS = "monitoring/alert-webhook"
#: The node label by which everything is placed.
LABEL = "type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The stack files as they were read: ``stacks`` by name without ``.yml``, ``profiles`` by name, and the contents
    of the files that the stacks make configs of, by path."""

    folder: Path
    stacks: Mapping[str, Mapping[str, Any]]
    profiles: Mapping[str, Mapping[str, str]]
    contents: Mapping[Path, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret of the Swarm, by the file that holds it."""

    name: str
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredStack:
    """A stack: its files, the variables that they get, and what comes of it. ``place`` is a gateway, or the cloud."""

    name: str
    files: tuple[str, ...]
    place: str
    variables: Mapping[str, str]
    stack: Stack
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """All that shall be. ``labels`` by node; ``edges`` are the gateways' networks."""

    fleet: str
    labels: Mapping[str, Mapping[str, str]]
    networks: tuple[str, ...]
    encrypted: bool
    secrets: Mapping[str, Secret]
    stacks: tuple[DesiredStack, ...]


def identities(fleet: Fleet) -> list[Identity]:
    """Everybody who needs a certificate."""
    found = [*of_cloud(), Identity(Role.USER, fleet.client)]
    found += [Identity(Role.USER, name) for name in fleet.users if name != fleet.client]
    if any(fleet.sinks.values()):
        found.append(Identity(Role.SINK, ALL_GATEWAYS))
    for name, gateway in fleet.gateways.items():
        found += of_edge(name)
        if any(gateway.sinks.values()):
            found.append(Identity(Role.SINK, name))
        if gateway.analytics:
            found.append(Identity(Role.ANALYTICS, name))
        if gateway.campaigns:
            found.append(Identity(Role.CAMPAIGNS, name))
    return found


def edge_network(gateway: str) -> str:
    """The network of one gateway."""
    return f"edgenet_{gateway}"


def desired(fleet: Fleet, material: Material, files: Files) -> Desired:
    """What shall be.

    Raises:
        StackFileError: a stack file needs a variable or a file that nothing gives it, or no stack file takes a variable
            that the fleet's file gives.
    """
    _check_settings(fleet, files)
    maker = _Maker(fleet, material, files)
    stacks = tuple(maker.stacks())
    known = dict(maker.secrets())
    used = frozenset().union(*(stack.stack.secrets for stack in stacks))
    edges = [edge_network(name) for name in fleet.gateways]
    return Desired(
        fleet=fleet.fleet,
        labels=maker.labels,
        networks=(fleet.networks.cloud, fleet.networks.monitoring, *edges),
        encrypted=fleet.networks.encrypted,
        secrets={name: known[name] for name in sorted(used & known.keys())},
        stacks=stacks,
    )


def _check_settings(fleet: Fleet, files: Files) -> None:
    """A variable that nothing takes was written wrongly, and would be missed only when it counts."""
    taken = set().union(*map(variables_of, files.stacks.values()))
    given = {"images": fleet.images, "cloud.settings": fleet.cloud.settings}
    given |= {f"gateways.{name}.settings": gateway.settings for name, gateway in fleet.gateways.items()}
    for place, settings in given.items():
        for name in settings:
            if name not in taken:
                near = get_close_matches(name, taken, 1)
                raise StackFileError(
                    f"{place}.{name}: no stack file has such a variable" + (f"; is {near[0]} meant?" if near else "")
                )


class _Maker:
    """Puts the stacks together; each method one file."""

    def __init__(self, fleet: Fleet, material: Material, files: Files) -> None:
        self._fleet, self._material, self._files = fleet, material, files
        self.labels, self._label = _labels(fleet)

    def secrets(self) -> Iterator[tuple[str, Secret]]:
        """Every secret that could be asked for, by name."""
        for held in self._material.identities.values():
            for file, word in FILES.items():
                name = f"{_owner(self._fleet, held.identity)}_{word}_{held.fingerprint or NEW}"
                yield name, Secret(name=name, file=held.folder / file)
        for password, fingerprint in self._material.passwords.items():
            name = f"cloud_{password}_{fingerprint or NEW}"
            yield name, Secret(name=name, file=self._fleet.secrets / password)
        for gateway, given in self._fleet.gateways.items():
            for word, path in device_files(given).items():
                name = f"{gateway}_{word}_{self._material.files[path]}"
                yield name, Secret(name=name, file=path)

    def stacks(self) -> Iterator[DesiredStack]:
        """All stacks, in the order in which they are deployed."""
        fleet = self._fleet
        if fleet.monitoring:
            told = WEBHOOK in self._material.passwords
            more = (ALERTS,) if told else ()
            given = {"ALERT_WEBHOOK_SECRET": f"cloud_{WEBHOOK}_{self._material.passwords[WEBHOOK]}"} if told else {}
            yield self._stack("monitoring", "monitoring", MONITORING, self._cloud() | given, *more)
        yield self._stack("cloud", "cloud", CLOUD, self._cloud())
        for name, gateway in fleet.gateways.items():
            added = [STACKS[word] for word in device_files(gateway) if word in STACKS]
            yield self._stack(f"gw-{stack_word(name)}", "gateway", name, self._gateway(name, gateway), *added)
            if gateway.replicator == "cloud":
                # As many as by itself, where the gateway's own stack has none.
                given = self._gateway(name, gateway) | {"REPLICATORS": "1"}
                yield self._stack(f"rep-{stack_word(name)}", "replicator", name, given)
            if gateway.campaigns:
                given = {
                    **self._cloud(gateway.version),
                    "GATEWAY": name,
                    "CAMPAIGNS_TLS": self._tls(Identity(Role.CAMPAIGNS, name)),
                }
                yield self._stack(f"cam-{stack_word(name)}", "campaigns", name, given)
            if any(gateway.sinks.values()):
                identity = Identity(Role.SINK, name)
                given = self._sinks(identity, name, name, gateway.sinks)
                yield self._stack(f"connectors-{stack_word(name)}", "connectors", name, given)
            for job, options in gateway.analytics.items():
                given = self._job(name, gateway, job, options or Job())
                yield self._stack(f"an-{stack_word(name)}-{job}", "analytics", name, given)
        if any(fleet.sinks.values()):
            identity = Identity(Role.SINK, ALL_GATEWAYS)
            yield self._stack("connectors", "connectors", CLOUD, self._sinks(identity, "*", "all", fleet.sinks))

    def _stack(self, name: str, file: str, place: str, variables: Mapping[str, str], *more: str) -> DesiredStack:
        content, folder = merge(*(self._files.stacks[one] for one in (file, *more))), self._files.folder
        # Only what the file takes: another gateway is nothing to the stack of the monitoring.
        taken = variables_of(content)
        variables = {key: value for key, value in variables.items() if key in taken}
        # What is in the configs is part of their names, and everything is part of the revision.
        first = resolve(content, variables, folder)
        missing = [str(path) for path in first.configs.values() if path not in self._files.contents]
        if missing:
            raise StackFileError(f"the stack {name} needs {', '.join(missing)}, which cannot be read")
        contents = [self._files.contents[path] for _, path in sorted(first.configs.items())]
        given = {**variables, "CONFIGS": digest(*contents)}
        revision = digest(repr(content).encode(), repr(sorted(given.items())).encode())
        return DesiredStack(
            name=self._fleet.prefix + name,
            files=tuple(f"{one}.yml" for one in (file, *more)),
            place=place,
            variables={**given, "REVISION": revision},
            stack=resolve(content, {**given, "REVISION": revision}, folder),
            revision=revision,
        )

    def _common(self, version: str) -> dict[str, str]:
        fleet = self._fleet
        return {
            "FLEET": fleet.fleet,
            "HEADWATER_IMAGE": f"headwater:{version}",
            "KAFKA_IMAGE": f"headwater-kafka:{version}",
            "CLOUDNET": fleet.networks.cloud,
            "MONNET": fleet.networks.monitoring,
            "CLOUD_LABEL": self._label[CLOUD],
            "ADMIN_TLS": self._tls(Identity(Role.ADMIN, "fleet")),
            "ADMIN_GENERATION": self._generation(Identity(Role.ADMIN, "fleet")),
        }

    def _cloud(self, version: str | None = None) -> dict[str, str]:
        fleet, cloud = self._fleet, self._fleet.cloud
        broker, client = Identity(Role.BROKER, "cloud"), Identity(Role.USER, fleet.client)
        return {
            **self._files.profiles[cloud.profile],
            **_retention("CLOUD", cloud.retention),
            **self._common(version or fleet.version),
            "GATEWAYS": " ".join(fleet.gateways),
            "BROKER_TLS": self._tls(broker),
            "BROKER_GENERATION": self._generation(broker),
            "CLIENT_TLS": self._tls(client),
            "GRAFANA_PORT": str(cloud.grafana_port),
            "CLOUD_ACL_OPTIONS": acl_options(fleet, self._material),
            **self._passwords(),
            **fleet.images,
            **cloud.settings,
        }

    def _gateway(self, name: str, gateway: Gateway) -> dict[str, str]:
        broker, ports = Identity(Role.BROKER, name), gateway.ports
        return {
            **self._files.profiles[gateway.profile],
            **_retention("EDGE", gateway.retention),
            **self._common(gateway.version or self._fleet.version),
            "GATEWAY": name,
            "NODE_LABEL": self._label[name],
            "COAP_PORT": str(ports["coap_port"]),
            "COAPS_PORT": str(ports["coaps_port"]),
            "COAP_INSECURE": _word(gateway.insecure),
            "FILE_HOST": gateway.file_host or gateway.node,
            **_bootstrap(gateway.bootstrap),
            "OBSERVE": " ".join(gateway.observe),
            "READ_ON_REGISTER": " ".join(gateway.read_on_register),
            "PROCESSES": str(gateway.processes),
            **{f"{word.upper()}_HASH": self._material.files[file] for word, file in device_files(gateway).items()},
            "BANDWIDTH": gateway.bandwidth or "",
            "REPLICATORS": "1" if gateway.replicator == "edge" else "0",
            "BROKER_TLS": self._tls(broker),
            "BROKER_GENERATION": self._generation(broker),
            "GATEWAY_TLS": self._tls(Identity(Role.GATEWAY, name)),
            "REPLICATOR_TLS": self._tls(Identity(Role.REPLICATOR, name)),
            "EDGE_ACL_OPTIONS": acl_options(self._fleet, self._material, name),
            **self._fleet.images,
            **gateway.settings,
        }

    def _sinks(self, identity: Identity, gateway: str, word: str, sinks: Mapping[Any, int]) -> dict[str, str]:
        return {
            **self._cloud(),
            "SINK_GATEWAY": gateway,
            "SINK_NAME": word,
            "SINK_TLS": self._tls(identity),
            "INFLUXDB_SINKS": str(sinks.get("influxdb", 0)),
            "ORIENTDB_SINKS": str(sinks.get("orientdb", 0)),
        }

    def _job(self, name: str, gateway: Gateway, job: str, options: Job) -> dict[str, str]:
        on_edge = {
            "JOB_KAFKA": f"kafka-{name}:9082",
            "JOB_NETWORK": edge_network(name),
            "JOB_LABEL": self._label[name],
            "JOB_PLACE": name,
        }
        on_cloud = {"JOB_NETWORK": self._fleet.networks.cloud, "JOB_LABEL": self._label[CLOUD]}
        return {
            **self._gateway(name, gateway),
            "JOB": job,
            "ANALYTICS_TLS": self._tls(Identity(Role.ANALYTICS, name)),
            **(on_edge if options.edge else on_cloud),
            **({"JOB_OPTIONS": str(options.options)} if options.options else {}),
        }

    def _tls(self, identity: Identity) -> str:
        return self._material.fingerprint(identity) or NEW

    def _generation(self, identity: Identity) -> str:
        return self._material.identities[base(identity)].generation

    def _passwords(self) -> dict[str, str]:
        return {f"{name.upper()}_HASH": fingerprint or NEW for name, fingerprint in self._material.passwords.items()}


def acl_options(fleet: Fleet, material: Material, gateway: str | None = None) -> str:
    """What `headwater acl apply` is given beside the side and the gateways: for one gateway's Kafka, or the cloud's.

    People, whoever is in a later generation, and the revoked.
    """
    words: list[str] = []
    # Whoever the command client is may do everything, unless the file says what.
    for name, user in {fleet.client: User(command=("*",)), **fleet.users}.items():
        for flag, allowed in (("--see", user.see), ("--command", user.command)):
            here = [one for one in allowed if gateway is None or one in ("*", gateway)]
            if here:
                words += [flag, f"{name}={','.join(here)}"]
    for held in material.identities.values():
        identity = held.identity
        is_here = gateway is None or identity.name == gateway or identity.role in (Role.USER, Role.MONITOR)
        is_unusual = identity.generation > 1 or identity.is_of_all_gateways
        if is_here and is_unusual and identity.role not in (Role.BROKER, Role.ADMIN):
            words += ["--identity", identity.principal]
    everywhere = (Role.USER, Role.MONITOR, Role.ADMIN)
    for identity in material.revoked:
        # Another gateway's identity never had a right on this one's Kafka, which is left alone when that one goes.
        if gateway is None or identity.name == gateway or identity.role in everywhere or identity.is_of_all_gateways:
            words += ["--revoked", identity.principal]
    return " ".join(words)


def _owner(fleet: Fleet, identity: Identity) -> str:
    """What a secret's name begins with."""
    match identity.role:
        case Role.ADMIN | Role.MONITOR:
            return f"{fleet.fleet}_{identity.role.value}"
        case Role.USER:
            # One is mounted, in the cloud's stack.
            return "cloud_client" if identity.name == fleet.client else f"user_{identity.name}"
        case Role.SINK if identity.name == ALL_GATEWAYS:
            return "all_sink"
        case role:
            return f"{identity.name}_{role.value}"


def _bootstrap(wanted: Bootstrap | None) -> dict[str, str]:
    if wanted is None:
        return {"BOOTSTRAPS": "0"}
    return {
        "BOOTSTRAPS": "1",
        "BOOTSTRAP_CONFIG": str(wanted.config),
        "BOOTSTRAP_COAP_PORT": str(wanted.coap_port),
        "BOOTSTRAP_COAPS_PORT": str(wanted.coaps_port),
        "BOOTSTRAP_INSECURE": _word(wanted.insecure),
    }


def _word(given: bool) -> str:
    return "true" if given else "false"


def _retention(side: str, retention: Retention) -> dict[str, str]:
    found = {f"{side}_RETENTION_MS": retention.time, f"{side}_RETENTION_BYTES": retention.size}
    return {name: str(value) for name, value in found.items() if value is not None}


def _labels(fleet: Fleet) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The labels of each node, and by which key each place is found.

    A label has one value. So of the places that share a node the first, which is the cloud if it is among them, has
    ``type``, and each other one a key of its own: who comes or goes beside it, changes nothing for the first.
    """
    places = {CLOUD: fleet.cloud.node, **{name: gateway.node for name, gateway in fleet.gateways.items()}}
    labels: dict[str, dict[str, str]] = {}
    keys = {}
    for place, node in places.items():
        keys[place] = f"{LABEL}.{place}" if node in labels else LABEL
        labels.setdefault(node, {})[keys[place]] = place
    return labels, keys
