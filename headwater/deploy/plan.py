"""From what is wanted and what is there to what has to be done: pure, and so tested without Docker.

Owns the order of the steps and the reasons that people are shown. An action belongs to a place (a gateway, the cloud,
the monitoring, or all); what goes wrong at one place does not stop the others.

What is there and not wanted goes only if it says that it is this fleet's, by a label that the deployment wrote. What
was scaled by hand stays as it is until its stack changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from headwater.deploy.desired import CLOUD, LABEL, NEW, Desired, DesiredStack
from headwater.deploy.material import Material
from headwater.deploy.stackfile import FLEET

#: The place of what is not one gateway's, nor the cloud's alone.
ALL = "fleet"


class Kind(Enum):
    """What an action is about; the members are in the order in which things are made."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"
    LABEL = "label"
    NETWORK = "network"
    SECRET = "secret"
    STACK = "stack"
    CONFIG = "config"


class Verb(Enum):
    CREATE = "+"
    CHANGE = "~"
    DELETE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One step. ``name`` is what it is about (for a label ``node key``), ``why`` what people are told."""

    verb: Verb
    kind: Kind
    name: str
    place: str = ALL
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why something cannot be done at a place. ``fatal``: nothing is done there until it is solved."""

    place: str
    text: str
    fatal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the Swarm. ``architecture`` is Docker's: x86_64, aarch64, armv7l."""

    id: str
    name: str
    labels: Mapping[str, str]
    architecture: str
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedService:
    """A service as it is: ``secrets`` and ``configs`` by name, ``fleet`` and ``revision`` as its labels say."""

    stack: str
    name: str
    image: str
    fleet: str | None
    revision: str | None
    secrets: frozenset[str] = frozenset()
    configs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is there. ``networks``, ``secrets`` and ``configs``: by name, whose they are (a fleet; for a config a
    stack), or None."""

    nodes: tuple[Node, ...] = ()
    networks: Mapping[str, str | None] = field(default_factory=dict)
    secrets: Mapping[str, str | None] = field(default_factory=dict)
    configs: Mapping[str, str | None] = field(default_factory=dict)
    services: tuple[ObservedService, ...] = ()

    def of_stack(self, name: str) -> dict[str, ObservedService]:
        return {one.name: one for one in self.services if one.stack == name}

    def stacks_of(self, fleet: str) -> list[str]:
        """The names of the stacks of a fleet."""
        return list(dict.fromkeys(one.stack for one in self.services if one.fleet == fleet))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What has to be done, in this order, and what cannot be."""

    actions: tuple[Action, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def blocked(self) -> frozenset[str]:
        """The places where nothing is done."""
        return frozenset(one.place for one in self.problems if one.fatal)


def plan(desired: Desired, observed: Observed, material: Material) -> Plan:
    """The steps from what is there to what is wanted."""
    problems = [*_problems(desired, observed)]
    blocked = {one.place for one in problems if one.fatal}
    if ALL in blocked:
        return Plan(actions=(), problems=tuple(problems))
    wanted = [stack for stack in desired.stacks if stack.place not in blocked]
    actions = [
        *_material(material, blocked),
        *_gone_stacks(desired, observed),
        *_labels(desired, observed, blocked),
        *_networks(desired, observed),
        *_secrets(desired, observed, wanted),
        *(action for stack in wanted for action in _stack(stack, observed)),
        *_gone_labels(desired, observed),
    ]
    return Plan(actions=(*actions, *_leftovers(desired, observed)), problems=tuple(problems))


def removal(fleet: str, observed: Observed) -> Plan:
    """The steps that take a whole fleet from a Swarm: its stacks, secrets, networks and labels; certificates, passwords
    and volumes stay."""
    actions = [
        *(Action(verb=Verb.DELETE, kind=Kind.STACK, name=name) for name in observed.stacks_of(fleet)),
        *_owned(Kind.SECRET, observed.secrets, fleet),
        *_owned(Kind.NETWORK, observed.networks, fleet),
        *(
            Action(verb=Verb.DELETE, kind=Kind.LABEL, name=f"{node.name} {key}", why=f"was {value}")
            for node in observed.nodes
            if node.labels.get(FLEET) == fleet
            for key, value in sorted(node.labels.items())
            if _is_ours(key)
        ),
    ]
    return Plan(actions=tuple(actions))


def without(whole: Plan, gateway: str) -> Plan:
    """Of the plan of a fleet that lacks ``gateway``: what takes it away, and what the cloud has to be told of it."""
    return Plan(
        actions=tuple(action for action in whole.actions if action.verb is Verb.DELETE or action.place == CLOUD),
        problems=tuple(one for one in whole.problems if one.place in (ALL, CLOUD, gateway)),
    )


def _owned(kind: Kind, there: Mapping[str, str | None], fleet: str) -> list[Action]:
    return [Action(verb=Verb.DELETE, kind=kind, name=name) for name, owner in sorted(there.items()) if owner == fleet]


def _is_ours(key: str) -> bool:
    """True for a label by which things are placed, or that says whose a node is."""
    return key in (LABEL, FLEET) or key.startswith(f"{LABEL}.")


# ---- what cannot be


def _problems(desired: Desired, observed: Observed) -> Iterator[Problem]:
    names = [node.name for node in observed.nodes]
    known = ", ".join(sorted(set(names))) or "none"
    for node, labels in desired.labels.items():
        for place in labels.values():
            # Without the cloud no gateway has anywhere to go, and its rights are made from there.
            where = ALL if place == CLOUD else place
            if node not in names:
                yield Problem(place=where, text=f"there is no node {node!r} in this Swarm; there are: {known}")
            elif names.count(node) > 1:
                yield Problem(place=where, text=f"there are {names.count(node)} nodes called {node!r}: rename them")
            elif not next(one for one in observed.nodes if one.name == node).ready:
                yield Problem(place=where, text=f"node {node} is not ready; its services wait until it is", fatal=False)
    for stack in desired.stacks:
        services = observed.of_stack(stack.name).values()
        owners = sorted({one.fleet or "nobody's fleet" for one in services} - {desired.fleet})
        if owners:
            yield Problem(
                place=stack.place,
                text=f"there is a stack {stack.name} already, of {', '.join(owners)}: remove it, or choose a prefix",
            )


# ---- what has to be done


def _material(material: Material, blocked: set[str]) -> Iterator[Action]:
    for held in material.identities.values():
        if held.fingerprint is None and held.identity.name not in blocked:
            yield Action(
                verb=Verb.CREATE,
                kind=Kind.CERTIFICATE,
                name=held.identity.principal,
                place=ALL,
                why="there is none yet",
            )
    for name, fingerprint in material.passwords.items():
        if fingerprint is None:
            yield Action(
                verb=Verb.CREATE, kind=Kind.PASSWORD, name=name, why="there is none yet; it is made and not shown"
            )


def _gone_stacks(desired: Desired, observed: Observed) -> Iterator[Action]:
    wanted = {stack.name for stack in desired.stacks}
    for name in observed.stacks_of(desired.fleet):
        if name not in wanted:
            yield Action(verb=Verb.DELETE, kind=Kind.STACK, name=name, why="not in the fleet any more; volumes stay")


def _labels(desired: Desired, observed: Observed, blocked: set[str]) -> Iterator[Action]:
    for node in observed.nodes:
        placed = desired.labels.get(node.name, {})
        wanted = {**placed, FLEET: desired.fleet} if placed else {}
        for key, value in wanted.items():
            was = node.labels.get(key)
            if was != value and not blocked & {value}:
                yield Action(
                    verb=Verb.CREATE if was is None else Verb.CHANGE,
                    kind=Kind.LABEL,
                    name=f"{node.name} {key}",
                    place=value if key in placed else ALL,
                    why=value if was is None else f"{was} → {value}",
                )


def _gone_labels(desired: Desired, observed: Observed) -> Iterator[Action]:
    """After the stacks, which may be placed by another label from then on."""
    for node in observed.nodes:
        if node.labels.get(FLEET) == desired.fleet:
            placed = desired.labels.get(node.name, {})
            for key, value in sorted(node.labels.items()):
                if _is_ours(key) and key not in placed and not (placed and key == FLEET):
                    yield Action(verb=Verb.DELETE, kind=Kind.LABEL, name=f"{node.name} {key}", why=f"was {value}")


def _networks(desired: Desired, observed: Observed) -> Iterator[Action]:
    for name in desired.networks:
        if name not in observed.networks:
            why = "overlay, attachable" + (", encrypted" if desired.encrypted else "")
            yield Action(verb=Verb.CREATE, kind=Kind.NETWORK, name=name, why=why)


def _secrets(desired: Desired, observed: Observed, stacks: list[DesiredStack]) -> Iterator[Action]:
    for name in desired.secrets:
        places = {stack.place for stack in stacks if name in stack.stack.secrets}
        if places and name not in observed.secrets:
            yield Action(verb=Verb.CREATE, kind=Kind.SECRET, name=name, place=places.pop() if len(places) == 1 else ALL)


def _stack(stack: DesiredStack, observed: Observed) -> Iterator[Action]:
    there = observed.of_stack(stack.name)
    if not there:
        services = ", ".join(stack.stack.services)
        yield Action(verb=Verb.CREATE, kind=Kind.STACK, name=stack.name, place=stack.place, why=services)
        return
    reasons = [*_reasons(stack, there)]
    if reasons:
        yield Action(verb=Verb.CHANGE, kind=Kind.STACK, name=stack.name, place=stack.place, why="; ".join(reasons))


def _reasons(stack: DesiredStack, there: Mapping[str, ObservedService]) -> Iterator[str]:
    wanted = stack.stack.services
    for name in sorted(wanted.keys() - there.keys()):
        yield f"{name} is missing"
    for name in sorted(there.keys() - wanted.keys()):
        yield f"{name} goes"
    said = False
    for name in sorted(wanted.keys() & there.keys()):
        if wanted[name].image != there[name].image:
            yield f"{name}: {there[name].image} → {wanted[name].image}"
            said = True
        if wanted[name].secrets != there[name].secrets:
            coming = any(one.endswith(f"_{NEW}") for one in wanted[name].secrets)
            yield f"{name}: {'secrets that are made now' if coming else 'other secrets'}"
            said = True
    if not said and any(one.revision != stack.revision for one in there.values()):
        yield "settings or configuration files"


def _leftovers(desired: Desired, observed: Observed) -> Iterator[Action]:
    """What nothing wanted uses: secrets and configs of before, and networks of gateways that are gone."""
    for name, owner in sorted(observed.secrets.items()):
        if owner == desired.fleet and name not in desired.secrets:
            yield Action(verb=Verb.DELETE, kind=Kind.SECRET, name=name, why="once nothing uses it any more")
    stacks = {stack.name: stack for stack in desired.stacks}
    for name, owner in sorted(observed.configs.items()):
        if owner in stacks and name not in stacks[owner].stack.configs:
            yield Action(
                verb=Verb.DELETE, kind=Kind.CONFIG, name=name, place=stacks[owner].place,
                why="once nothing uses it any more",
            )  # fmt: skip
    for name, owner in sorted(observed.networks.items()):
        if owner == desired.fleet and name not in desired.networks:
            yield Action(verb=Verb.DELETE, kind=Kind.NETWORK, name=name, why="its gateway is gone")
