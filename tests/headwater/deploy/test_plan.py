"""From a fleet and what is on a Swarm to the steps between the two, on the stack files as they are; without Docker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headwater.commands.deploy import STACKS
from headwater.deploy.apply import stack_files
from headwater.deploy.desired import Desired, Files, desired, identities
from headwater.deploy.fleet import Fleet
from headwater.deploy.material import PASSWORDS, WEBHOOK, Held, Material, base
from headwater.deploy.plan import (
    Action,
    Kind,
    Node,
    Observed,
    ObservedService,
    Plan,
    Verb,
    plan,
    removal,
    without,
)
from headwater.deploy.stackfile import FLEET, StackFileError, interpolate, read
from security.identities import Identity, Role

STACK_FOLDER = Path(__file__).resolve().parents[3] / "stacks"
FILES: Files = stack_files(
    STACK_FOLDER, STACKS, dict.fromkeys(("cloud", "cloud-small", "arm64v8", "lowmem"), "a test"), []
)


def _fleet(**more: Any) -> Fleet:
    gateways = {name: {"node": name, "profile": "arm64v8"} for name in ("rock64", "pine64")}
    return Fleet.model_validate({"cloud": {"node": "big"}, "gateways": gateways, **more})


def _material(fleet: Fleet, **passwords: str) -> Material:
    """Everything is there."""
    return Material(
        identities={
            base(one): Held(identity=one, folder=Path("/pki") / one.folder, fingerprint=f"{number:012x}")
            for number, one in enumerate(identities(fleet))
        },
        passwords={**{name: f"{number:012x}" for number, name in enumerate(PASSWORDS)}, **passwords},
    )


NODES = tuple(
    Node(id=name, name=name, labels={}, architecture="x86_64", ready=True) for name in ("big", "rock64", "pine64")
)


def _deployed(wanted: Desired, nodes: tuple[Node, ...] = NODES) -> Observed:
    """A Swarm on which all of it is done."""
    return Observed(
        nodes=tuple(
            replace(
                node, labels={**wanted.labels[node.name], FLEET: wanted.fleet} if node.name in wanted.labels else {}
            )
            for node in nodes
        ),
        networks={"ingress": None, **dict.fromkeys(wanted.networks, wanted.fleet)},
        secrets=dict.fromkeys(wanted.secrets, wanted.fleet),
        configs={name: stack.name for stack in wanted.stacks for name in stack.stack.configs},
        services=tuple(
            ObservedService(
                stack=stack.name,
                name=name,
                image=service.image,
                fleet=wanted.fleet,
                revision=stack.revision,
                secrets=service.secrets,
            )
            for stack in wanted.stacks
            for name, service in stack.stack.services.items()
        ),
    )


def _wanted(fleet: Fleet) -> Desired:
    return desired(fleet, _material(fleet), FILES)


def _plan(fleet: Fleet, observed: Observed) -> Plan:
    return plan(_wanted(fleet), observed, _material(fleet))


def _names(found: Plan, kind: Kind, verb: Verb) -> list[str]:
    return [one.name for one in found.actions if one.kind is kind and one.verb is verb]


def test_everything_is_made_on_an_empty_swarm_and_stacks_come_last() -> None:
    fleet = _fleet()
    found = _plan(fleet, Observed(nodes=NODES))
    assert {one.verb for one in found.actions} == {Verb.CREATE}
    assert _names(found, Kind.STACK, Verb.CREATE) == ["monitoring", "cloud", "gw-rock64", "gw-pine64", "connectors"]
    assert _names(found, Kind.NETWORK, Verb.CREATE) == ["cloudnet", "monnet", "edgenet_rock64", "edgenet_pine64"]
    kinds = [list(Kind).index(one.kind) for one in found.actions]
    assert kinds == sorted(kinds)
    labels = {one.name: one.why for one in found.actions if one.kind is Kind.LABEL}
    assert labels["rock64 type"] == "rock64"
    assert labels["big type"] == "cloud"


def test_nothing_is_done_where_all_is_done() -> None:
    fleet = _fleet()
    assert _plan(fleet, _deployed(_wanted(fleet))) == Plan(actions=())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"images": {"INFLUX_IMAGE": "x"}},
            "images.INFLUX_IMAGE: no stack file has such a variable; is INFLUXDB_IMAGE meant?",
        ),
        ({"cloud": {"node": "big", "settings": {"QQQ": "1"}}}, "cloud.settings.QQQ: no stack file has such a variable"),
        (
            {"gateways": {"a": {"node": "n", "profile": "lowmem", "settings": {"EDGE_KAFKA_HEEP": "9m"}}}},
            "gateways.a.settings.EDGE_KAFKA_HEEP: no stack file has such a variable; is EDGE_KAFKA_HEAP meant?",
        ),
    ],
)
def test_a_variable_that_no_stack_file_takes_is_told(more: dict[str, Any], said: str) -> None:
    fleet = Fleet.model_validate({"cloud": {"node": "big"}} | more)
    with pytest.raises(StackFileError) as refused:
        desired(fleet, _material(fleet), FILES)
    assert said in str(refused.value)


def test_what_is_missing_on_this_machine_is_made_first() -> None:
    fleet = _fleet()
    material = _material(fleet)
    bare = replace(
        material,
        identities={key: replace(one, fingerprint=None) for key, one in material.identities.items()},
        passwords=dict.fromkeys(material.passwords),
    )
    found = plan(desired(fleet, bare, FILES), Observed(nodes=NODES), bare)
    made = _names(found, Kind.CERTIFICATE, Verb.CREATE)
    assert {"broker:cloud", "admin:fleet", "broker:rock64", "gateway:pine64", "sink:_all", "user:operator"} <= set(made)
    assert _names(found, Kind.PASSWORD, Verb.CREATE) == list(PASSWORDS)
    assert [one.kind for one in found.actions[: len(made)]] == [Kind.CERTIFICATE] * len(made)


def test_renewed_certificate_is_another_secret_and_a_redeploy_of_who_uses_it_alone() -> None:
    fleet = _fleet()
    before = _deployed(_wanted(fleet))
    material = _material(fleet)
    held = material.identities["gateway:rock64"]
    renewed = replace(
        material, identities={**material.identities, "gateway:rock64": replace(held, fingerprint="f" * 12)}
    )
    found = plan(desired(fleet, renewed, FILES), before, renewed)
    assert _names(found, Kind.SECRET, Verb.CREATE) == [
        f"rock64_gateway_{file}_{'f' * 12}" for file in ("ca", "cert", "key")
    ]
    assert _names(found, Kind.STACK, Verb.CHANGE) == ["gw-rock64"]
    assert _names(found, Kind.SECRET, Verb.DELETE) == [
        f"rock64_gateway_{file}_{held.fingerprint}" for file in ("ca", "cert", "key")
    ]
    assert found.actions[-1].verb is Verb.DELETE


def test_another_version_is_shown_service_by_service() -> None:
    fleet = _fleet()
    found = _plan(_fleet(version="0.2.0"), _deployed(_wanted(fleet)))
    (change,) = [one for one in found.actions if one.name == "gw-rock64"]
    assert "gateway: headwater:0.1.0 → headwater:0.2.0" in change.why
    assert "kafka: headwater-kafka:0.1.0 → headwater-kafka:0.2.0" in change.why


def test_one_gateway_may_have_another_version() -> None:
    fleet = _fleet()
    gateways = {
        "rock64": {"node": "rock64", "profile": "arm64v8", "version": "0.2.0"},
        "pine64": {"node": "pine64", "profile": "arm64v8"},
    }
    assert _names(_plan(_fleet(gateways=gateways), _deployed(_wanted(fleet))), Kind.STACK, Verb.CHANGE) == ["gw-rock64"]


def test_added_gateway_changes_the_cloud_whose_setup_makes_its_rights_and_leaves_the_others_alone() -> None:
    fleet = _fleet()
    gateways = {name: {"node": name, "profile": "arm64v8"} for name in ("rock64", "pine64", "tinker")}
    more = _fleet(gateways=gateways)
    observed = replace(
        _deployed(_wanted(fleet)),
        nodes=(*_deployed(_wanted(fleet)).nodes, replace(NODES[0], id="tinker", name="tinker")),
    )
    # The fingerprints of the others stay as they are.
    material = _material(fleet)
    material = replace(material, identities={**_material(more).identities, **material.identities})
    found = plan(desired(more, material, FILES), observed, material)
    assert _names(found, Kind.STACK, Verb.CREATE) == ["gw-tinker"]
    assert _names(found, Kind.STACK, Verb.CHANGE) == ["cloud"]
    assert not [one for one in found.actions if one.verb is Verb.DELETE]


def test_gateway_taken_from_the_file_goes_with_stack_network_secrets_and_labels() -> None:
    fleet = _fleet()
    less = _fleet(gateways={"rock64": {"node": "rock64", "profile": "arm64v8"}})
    material = _material(fleet)
    found = plan(desired(less, material, FILES), _deployed(_wanted(fleet)), material)
    assert _names(found, Kind.STACK, Verb.DELETE) == ["gw-pine64"]
    assert found.actions[0].kind is Kind.STACK
    assert _names(found, Kind.NETWORK, Verb.DELETE) == ["edgenet_pine64"]
    assert set(_names(found, Kind.LABEL, Verb.DELETE)) == {f"pine64 {FLEET}", "pine64 type"}
    gone = _names(found, Kind.SECRET, Verb.DELETE)
    assert gone
    assert all(name.startswith("pine64_") for name in gone)
    assert _names(found, Kind.STACK, Verb.CHANGE) == ["cloud"]


def test_one_removed_gateway_touches_no_other_gateway() -> None:
    fleet = _fleet()
    less = _fleet(gateways={"rock64": {"node": "rock64", "profile": "arm64v8", "version": "9"}})
    material = _material(fleet)
    found = without(plan(desired(less, material, FILES), _deployed(_wanted(fleet)), material), "pine64")
    assert "gw-rock64" not in [one.name for one in found.actions]
    assert "gw-pine64" in [one.name for one in found.actions]
    assert "cloud" in [one.name for one in found.actions]


def test_removed_fleet_takes_what_is_its_own_and_nothing_else() -> None:
    fleet = _fleet()
    observed = _deployed(_wanted(fleet))
    other = ObservedService(stack="theirs", name="web", image="x", fleet=None, revision=None)
    observed = replace(
        observed,
        services=(*observed.services, other),
        networks={**observed.networks, "theirs": None},
        secrets={**observed.secrets, "theirs": "other-fleet"},
        nodes=(*observed.nodes, Node(id="x", name="x", labels={"type": "db"}, architecture="", ready=True)),
    )
    found = removal("fleet", observed)
    assert {one.verb for one in found.actions} == {Verb.DELETE}
    assert "theirs" not in [one.name for one in found.actions]
    assert not [one for one in found.actions if one.name.startswith("x ")]
    assert set(_names(found, Kind.STACK, Verb.DELETE)) == {
        "monitoring", "cloud", "gw-rock64", "gw-pine64", "connectors",
    }  # fmt: skip
    assert "ingress" not in _names(found, Kind.NETWORK, Verb.DELETE)


def test_gateway_whose_node_is_missing_is_a_problem_of_its_own() -> None:
    fleet = _fleet()
    found = _plan(fleet, Observed(nodes=NODES[:2]))
    (problem,) = found.problems
    assert problem.place == "pine64"
    assert problem.fatal
    assert "there is no node 'pine64' in this Swarm; there are: big, rock64" in problem.text
    assert _names(found, Kind.STACK, Verb.CREATE) == ["monitoring", "cloud", "gw-rock64", "connectors"]
    assert not [name for name in _names(found, Kind.SECRET, Verb.CREATE) if "pine64" in name]


def test_nothing_is_done_without_the_cloud_s_node() -> None:
    found = _plan(_fleet(), Observed(nodes=NODES[1:]))
    assert found.actions == ()
    assert found.problems[0].fatal


def test_node_that_is_away_is_told_and_stops_nothing() -> None:
    nodes = (*NODES[:2], replace(NODES[2], ready=False))
    found = _plan(_fleet(), Observed(nodes=nodes))
    assert [(one.place, one.fatal) for one in found.problems] == [("pine64", False)]
    assert "gw-pine64" in _names(found, Kind.STACK, Verb.CREATE)


def test_two_nodes_of_one_name_are_no_place() -> None:
    found = _plan(_fleet(), Observed(nodes=(*NODES, replace(NODES[2], id="another"))))
    assert "2 nodes called 'pine64'" in found.problems[0].text


def test_stack_of_somebody_else_is_not_touched() -> None:
    theirs = ObservedService(stack="gw-rock64", name="kafka", image="x", fleet="other", revision="1")
    found = _plan(_fleet(), Observed(nodes=NODES, services=(theirs,)))
    assert [one.place for one in found.problems if one.fatal] == ["rock64"]
    assert "gw-rock64" not in [one.name for one in found.actions]
    assert "cloud" in _names(found, Kind.STACK, Verb.CREATE)


def test_gateway_that_moves_takes_its_label_along() -> None:
    fleet = _fleet()
    gateways = {
        "rock64": {"node": "spare", "profile": "arm64v8"},
        "pine64": {"node": "pine64", "profile": "arm64v8"},
    }
    nodes = (*NODES, replace(NODES[0], id="spare", name="spare"))
    found = _plan(_fleet(gateways=gateways), _deployed(_wanted(fleet), nodes))
    labels = [(one.verb, one.name) for one in found.actions if one.kind is Kind.LABEL]
    assert (Verb.CREATE, "spare type") in labels
    assert (Verb.DELETE, "rock64 type") in labels


def test_places_that_share_a_node_get_a_label_each() -> None:
    gateways = {
        name: {"node": "one", "profile": "lowmem", "coap_port": port} for name, port in (("a", 5683), ("b", 5783))
    }
    fleet = _fleet(cloud={"node": "one"}, gateways=gateways)
    wanted = _wanted(fleet)
    assert wanted.labels == {"one": {"type": "cloud", "type.a": "a", "type.b": "b"}}
    by_name = {stack.name: stack.variables for stack in wanted.stacks}
    assert by_name["gw-a"]["NODE_LABEL"] == "type.a"
    assert by_name["gw-a"]["CLOUD_LABEL"] == "type"
    assert (by_name["gw-b"]["COAP_PORT"], by_name["gw-b"]["COAPS_PORT"]) == ("5783", "5784")


def test_place_that_goes_from_a_shared_node_touches_no_other_there() -> None:
    both = {name: {"node": "big", "profile": "lowmem", "coap_port": port} for name, port in (("a", 1), ("b", 3))}
    fleet, less = _fleet(gateways=both), _fleet(gateways={"b": both["b"]})
    material = _material(fleet)
    found = plan(desired(less, material, FILES), _deployed(_wanted(fleet), NODES[:1]), material)
    assert [one.name for one in found.actions if one.kind is Kind.LABEL] == ["big type.a"]
    assert _names(found, Kind.STACK, Verb.CHANGE) == ["cloud"]


def test_gateway_is_closed_and_has_no_bootstrap_server_unless_the_file_says_so() -> None:
    gateways = {
        "rock64": {"node": "rock64", "profile": "arm64v8"},
        "pine64": {
            "node": "pine64",
            "profile": "arm64v8",
            "insecure": True,
            "bootstrap": {"config": STACK_FOLDER / "gateway" / "bootstrap.yaml", "coaps_port": 7000},
        },
    }
    stacks = {stack.name: stack for stack in _wanted(_fleet(gateways=gateways)).stacks}
    closed, opened = stacks["gw-rock64"], stacks["gw-pine64"]
    assert closed.stack.services["bootstrap"].replicas == 0
    assert closed.variables["COAP_INSECURE"] == "false"
    assert opened.stack.services["bootstrap"].replicas == 1
    assert {name: opened.variables[name] for name in opened.variables if "COAP" in name} == {
        "COAP_PORT": "5683",
        "COAPS_PORT": "5684",
        "COAP_INSECURE": "true",
        "BOOTSTRAP_COAP_PORT": "5693",
        "BOOTSTRAP_COAPS_PORT": "7000",
    }
    assert opened.variables["BOOTSTRAP_INSECURE"] == "false"
    (config,) = opened.stack.configs
    assert config.startswith("pine64_bootstrap_")


def test_labels_are_taken_away_after_the_stacks_that_they_placed() -> None:
    gateways = {
        "rock64": {"node": "spare", "profile": "arm64v8"},
        "pine64": {"node": "pine64", "profile": "arm64v8", "version": "9"},
    }
    nodes = (*NODES, replace(NODES[0], id="spare", name="spare"))
    found = _plan(_fleet(gateways=gateways), _deployed(_wanted(_fleet()), nodes))
    kinds = [(one.kind, one.verb) for one in found.actions]
    assert kinds.index((Kind.LABEL, Verb.DELETE)) > kinds.index((Kind.STACK, Verb.CHANGE))


def test_missing_and_superfluous_services_are_told() -> None:
    fleet = _fleet()
    observed = _deployed(_wanted(fleet))
    extra = replace(next(one for one in observed.services if one.stack == "cloud"), name="old")
    kept = tuple(one for one in observed.services if (one.stack, one.name) != ("cloud", "client"))
    (action,) = _plan(fleet, replace(observed, services=(*kept, extra))).actions
    assert action.why == "client is missing; old goes"


def test_changed_config_is_another_config_and_the_one_before_goes(tmp_path: Path) -> None:
    fleet = _fleet()
    file = STACK_FOLDER / "monitoring" / "prometheus.yml"
    changed = replace(FILES, contents={**FILES.contents, file: b"other"})
    material = _material(fleet)
    found = plan(desired(fleet, material, changed), _deployed(_wanted(fleet)), material)
    assert _names(found, Kind.STACK, Verb.CHANGE) == ["monitoring"]
    assert [one for one in _names(found, Kind.CONFIG, Verb.DELETE) if one.startswith("monitoring_prometheus_")]


def _with_device_files(hashes: Mapping[str, str], **of_rock64: Any) -> tuple[Fleet, Material]:
    """A fleet whose first gateway has files for its devices, with these hashes."""
    gateways = {name: {"node": name, "profile": "arm64v8"} for name in ("rock64", "pine64")}
    fleet = _fleet(gateways={**gateways, "rock64": {**gateways["rock64"], **of_rock64}})
    return fleet, replace(_material(fleet), files={Path(file): one for file, one in hashes.items()})


def test_certificate_and_credentials_of_a_gateway_are_secrets_of_its_service_alone() -> None:
    files = {"/x/g.pem": "a" * 12, "/x/g.key": "b" * 12, "/x/root.pem": "c" * 12, "/x/devices.csv": "d" * 12}
    x509 = {"cert": "/x/g.pem", "key": "/x/g.key", "ca": "/x/root.pem"}
    fleet, material = _with_device_files(files, x509=x509, credentials="/x/devices.csv")
    wanted = desired(fleet, material, FILES)
    (stack,) = [one for one in wanted.stacks if one.name == "gw-rock64"]
    assert stack.files == (
        "gateway.yml", "gateway/certificate.yml", "gateway/authorities.yml", "gateway/credentials.yml",
    )  # fmt: skip
    names = {
        f"rock64_coaps_cert_{'a' * 12}": Path("/x/g.pem"),
        f"rock64_coaps_key_{'b' * 12}": Path("/x/g.key"),
        f"rock64_coaps_ca_{'c' * 12}": Path("/x/root.pem"),
        f"rock64_credentials_{'d' * 12}": Path("/x/devices.csv"),
    }
    assert {name: wanted.secrets[name].file for name in names} == names
    for one in wanted.stacks:
        for name, service in one.stack.services.items():
            has = names.keys() & service.secrets
            assert has == (names.keys() if (one.name, name) == ("gw-rock64", "gateway") else set()), (one.name, name)


def test_certificate_of_a_bootstrap_server_is_a_secret_of_it_alone() -> None:
    files = {"/x/b.pem": "a" * 12, "/x/b.key": "b" * 12, "/x/root.pem": "c" * 12}
    x509 = {"cert": "/x/b.pem", "key": "/x/b.key", "ca": "/x/root.pem"}
    config = STACK_FOLDER / "gateway" / "bootstrap.yaml"
    fleet, material = _with_device_files(files, bootstrap={"config": config, "x509": x509})
    wanted = desired(fleet, material, FILES)
    (stack,) = [one for one in wanted.stacks if one.name == "gw-rock64"]
    assert stack.files == ("gateway.yml", "gateway/bootstrap-certificate.yml", "gateway/bootstrap-authorities.yml")
    names = {
        f"rock64_bootstrap_cert_{'a' * 12}": Path("/x/b.pem"),
        f"rock64_bootstrap_key_{'b' * 12}": Path("/x/b.key"),
        f"rock64_bootstrap_ca_{'c' * 12}": Path("/x/root.pem"),
    }
    assert {name: wanted.secrets[name].file for name in names} == names
    for one in wanted.stacks:
        for name, service in one.stack.services.items():
            has = names.keys() & service.secrets
            assert has == (names.keys() if (one.name, name) == ("gw-rock64", "bootstrap") else set()), (one.name, name)


def test_gateway_without_a_certificate_and_credentials_is_deployed_as_ever() -> None:
    fleet = _fleet()
    for stack in _wanted(fleet).stacks:
        if stack.name.startswith("gw-"):
            assert stack.files == ("gateway.yml",)
            assert not any(one.partition("_")[2].startswith(("coaps", "credentials")) for one in stack.stack.secrets)


def test_plan_tells_of_other_credentials_by_their_hash_and_of_that_gateway_alone() -> None:
    fleet, material = _with_device_files({"/x/d.csv": "d" * 12}, credentials="/x/d.csv")
    before = _deployed(desired(fleet, material, FILES))
    other = replace(material, files={Path("/x/d.csv"): "e" * 12})
    found = plan(desired(fleet, other, FILES), before, other)
    assert _names(found, Kind.SECRET, Verb.CREATE) == [f"rock64_credentials_{'e' * 12}"]
    assert _names(found, Kind.SECRET, Verb.DELETE) == [f"rock64_credentials_{'d' * 12}"]
    assert [(one.name, one.why) for one in found.actions if one.kind is Kind.STACK] == [
        ("gw-rock64", "gateway: other secrets")
    ]


def test_certificate_without_authorities_needs_no_secret_of_them() -> None:
    fleet, material = _with_device_files(
        {"/g.pem": "a" * 12, "/g.key": "b" * 12}, x509={"cert": "/g.pem", "key": "/g.key"}
    )
    (stack,) = [one for one in desired(fleet, material, FILES).stacks if one.name == "gw-rock64"]
    assert stack.files == ("gateway.yml", "gateway/certificate.yml")


def test_what_is_read_at_registration_is_told_the_gateway() -> None:
    gateways = {"rock64": {"node": "rock64", "profile": "lowmem", "read_on_register": ["/3/0", "/1/*/1"]}}
    (stack,) = [one for one in _wanted(_fleet(gateways=gateways)).stacks if one.name == "gw-rock64"]
    assert stack.variables["READ_ON_REGISTER"] == "/3/0 /1/*/1"
    assert stack.variables["PROCESSES"] == "1"


def test_a_gateway_may_be_spread_on_several_processes() -> None:
    gateways = {"rock64": {"node": "rock64", "profile": "lowmem", "processes": 2}}
    (stack,) = [one for one in _wanted(_fleet(gateways=gateways)).stacks if one.name == "gw-rock64"]
    assert stack.variables["PROCESSES"] == "2"


def test_webhook_of_alerts_is_mounted_where_there_is_one() -> None:
    fleet = _fleet()
    assert not any("webhook" in name for name in _wanted(fleet).secrets)
    wanted = desired(fleet, _material(fleet, **{WEBHOOK: "a" * 12}), FILES)
    assert f"cloud_{WEBHOOK}_{'a' * 12}" in wanted.secrets
    (monitoring,) = [stack for stack in wanted.stacks if stack.name == "monitoring"]
    assert monitoring.files == ("monitoring.yml", "monitoring/alert-webhook.yml")


def test_replicator_sinks_and_jobs_of_a_gateway_are_stacks_of_its_own() -> None:
    gateways = {
        "rock64": {
            "node": "rock64", "profile": "lowmem", "replicator": "cloud", "sinks": {"influxdb": 2}, "campaigns": True,
            "analytics": {"max-temperature": None, "outliers": {"edge": True}},
        }
    }  # fmt: skip
    wanted = _wanted(_fleet(gateways=gateways, sinks={}))
    stacks = {stack.name: stack for stack in wanted.stacks}
    assert list(stacks) == [
        "monitoring", "cloud", "gw-rock64", "rep-rock64", "cam-rock64", "connectors-rock64",
        "an-rock64-max-temperature", "an-rock64-outliers",
    ]  # fmt: skip
    assert stacks["gw-rock64"].stack.services["replicator"].replicas == 0
    assert stacks["rep-rock64"].stack.services["replicator"].replicas == 1
    assert stacks["cam-rock64"].stack.networks == {"cloudnet", "monnet"}
    assert stacks["connectors-rock64"].stack.services["influxdb-sink"].replicas == 2
    assert stacks["connectors-rock64"].stack.services["orientdb-sink"].replicas == 0
    assert stacks["an-rock64-outliers"].stack.networks == {"edgenet_rock64", "monnet"}
    assert stacks["an-rock64-max-temperature"].stack.networks == {"cloudnet", "monnet"}


def test_who_carries_campaigns_out_has_its_own_identity_and_no_other_secret() -> None:
    gateways = {
        "rock64": {"node": "rock64", "profile": "arm64v8", "campaigns": True},
        "pine64": {"node": "pine64", "profile": "arm64v8"},
    }
    fleet = _fleet(gateways=gateways)
    assert [str(one) for one in identities(fleet) if one.role is Role.CAMPAIGNS] == ["campaigns:rock64"]
    wanted = _wanted(fleet)
    (stack,) = [one for one in wanted.stacks if one.name.startswith("cam-")]
    assert {name.rpartition("_")[0] for name in stack.stack.secrets} == {
        f"rock64_campaigns_{file}" for file in ("ca", "cert", "key")
    }


def test_devices_fetch_images_by_the_name_of_the_node_or_as_the_file_says() -> None:
    gateways = {
        "rock64": {"node": "box-7", "profile": "arm64v8", "coap_port": 5783},
        "pine64": {"node": "pine64", "profile": "arm64v8", "file_host": "192.0.2.13"},
    }
    stacks = {stack.name: stack for stack in _wanted(_fleet(gateways=gateways)).stacks}
    assert stacks["gw-rock64"].variables["FILE_HOST"] == "box-7"
    assert stacks["gw-pine64"].variables["FILE_HOST"] == "192.0.2.13"
    # The port that devices are told is the one at which it listens, so that is the one that is published.
    variables = stacks["gw-rock64"].variables
    gateway = read(STACK_FOLDER / "gateway.yml")["services"]["gateway"]
    command = {interpolate(word, variables) for word in gateway["command"]}
    assert {"--coap=0.0.0.0:5783", "--coaps=0.0.0.0:5784"} <= command
    ports = [[interpolate(one[side], variables) for side in ("target", "published")] for one in gateway["ports"]]
    assert ports == [["5783", "5783"], ["5784", "5784"]]


def test_no_edge_gets_a_key_of_the_administrator_or_of_another_gateway() -> None:
    """Of what runs on a gateway's node: the services of its stack but `setup`, which runs on the cloud's."""
    for stack in _wanted(_fleet()).stacks:
        if stack.name.startswith("gw-"):
            on_the_edge = [one for one in stack.stack.services.values() if one.name != "setup"]
            secrets = frozenset().union(*(one.secrets for one in on_the_edge))
            assert secrets
            assert all(name.startswith(f"{stack.place}_") for name in secrets), secrets


def test_revoked_identity_is_followed_by_its_next_generation() -> None:
    fleet = _fleet()
    material = _material(fleet)
    old = Identity(Role.BROKER, "rock64")
    held = Held(identity=old.following, folder=Path("/pki/x"), fingerprint="e" * 12)
    after = replace(material, identities={**material.identities, base(old): held}, revoked=(old,))
    (stack,) = [one for one in desired(fleet, after, FILES).stacks if one.name == "gw-rock64"]
    assert stack.variables["BROKER_GENERATION"] == ":2"
    assert stack.variables["BROKER_TLS"] == "e" * 12


def test_prefix_keeps_two_fleets_apart() -> None:
    fleet = _fleet(prefix="lab-", fleet="lab", networks={"cloud": "labnet", "monitoring": "labmon"})
    wanted = _wanted(fleet)
    assert all(stack.name.startswith("lab-") for stack in wanted.stacks)
    assert {"labnet", "labmon"} <= set(wanted.networks)
    for stack in wanted.stacks:
        assert stack.stack.networks <= set(wanted.networks)


def test_every_secret_and_network_that_a_stack_needs_is_made() -> None:
    gateways = {
        "rock64": {"node": "rock64", "profile": "lowmem", "sinks": {"orientdb": 1}, "analytics": {"outliers": None}}
    }
    wanted = _wanted(_fleet(gateways=gateways))
    for stack in wanted.stacks:
        assert stack.stack.secrets <= wanted.secrets.keys(), stack.name
        assert stack.stack.networks <= set(wanted.networks), stack.name


def test_settings_of_the_file_beat_the_profile_and_images_beat_the_version() -> None:
    gateways = {"rock64": {"node": "rock64", "profile": "lowmem", "settings": {"EDGE_KAFKA_HEAP": "96m"}}}
    fleet = _fleet(gateways=gateways, images={"INFLUXDB_IMAGE": "mirror/influxdb:2.7.11"})
    stacks: Mapping[str, Any] = {stack.name: stack for stack in _wanted(fleet).stacks}
    assert stacks["gw-rock64"].variables["EDGE_KAFKA_HEAP"] == "96m"
    assert stacks["gw-rock64"].variables["EDGE_KAFKA_PROFILE"] == "lowmem"
    assert stacks["cloud"].stack.services["influxdb"].image == "mirror/influxdb:2.7.11"


def test_action_tells_what_it_is() -> None:
    action = Action(verb=Verb.CREATE, kind=Kind.STACK, name="cloud", place="cloud", why="x")
    assert (action.verb.value, action.kind.value) == ("+", "stack")


def test_revoked_gateway_is_denied_in_the_cloud_and_on_its_own_kafka_and_touches_no_other_gateway() -> None:
    fleet = _fleet()
    material = _material(fleet)
    before = {stack.name: stack.revision for stack in desired(fleet, material, FILES).stacks}
    gone = (Identity(Role.GATEWAY, "pine64"), Identity(Role.REPLICATOR, "pine64"))
    stacks = {stack.name: stack for stack in desired(fleet, replace(material, revoked=gone), FILES).stacks}
    words = "--revoked gateway:pine64 --revoked replicator:pine64"
    assert words in stacks["cloud"].variables["CLOUD_ACL_OPTIONS"]
    assert words in stacks["gw-pine64"].variables["EDGE_ACL_OPTIONS"]
    assert stacks["gw-rock64"].revision == before["gw-rock64"]


def test_revoked_user_is_denied_everywhere() -> None:
    fleet = _fleet()
    stolen = replace(_material(fleet), revoked=(Identity(Role.USER, "anna"),))
    stacks = {stack.name: stack for stack in desired(fleet, stolen, FILES).stacks}
    assert "--revoked user:anna" in stacks["cloud"].variables["CLOUD_ACL_OPTIONS"]
    for name in ("gw-rock64", "gw-pine64"):
        assert "--revoked user:anna" in stacks[name].variables["EDGE_ACL_OPTIONS"]
