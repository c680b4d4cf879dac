"""The file of a fleet: what may stand in it, and the words for what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from analytics.jobs import JOBS as ANALYTICS
from headwater.commands.processes import bytes_a_second
from headwater.deploy.fleet import Fleet, FleetError, load

SMALLEST = "cloud: {node: big}\n"


def _load(tmp_path: Path, text: str) -> Fleet:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    return load(file)


def test_smallest_fleet_is_a_cloud_with_both_sinks_and_no_gateway(tmp_path: Path) -> None:
    fleet = _load(tmp_path, SMALLEST)
    assert fleet.cloud.node == "big"
    assert fleet.cloud.profile == "cloud"
    assert fleet.sinks == {"influxdb": 1, "orientdb": 1}
    assert not fleet.gateways


def test_retention_is_read_in_the_units_of_people(tmp_path: Path) -> None:
    text = SMALLEST + "gateways: {a: {node: n, profile: lowmem, retention: {time: 7d, size: 2GB}}}\n"
    retention = _load(tmp_path, text).gateways["a"].retention
    assert (retention.time, retention.size) == (604_800_000, 2_000_000_000)


def test_settings_are_texts_however_yaml_reads_them(tmp_path: Path) -> None:
    fleet = _load(tmp_path, "cloud: {node: big, settings: {SINK_CPUS: 1.5, GRAFANA_PORT: 3001, X_Y: true}}\n")
    assert fleet.cloud.settings == {"SINK_CPUS": "1.5", "GRAFANA_PORT": "3001", "X_Y": "true"}


def test_observe_patterns_are_checked_and_begin_with_a_slash(tmp_path: Path) -> None:
    text = SMALLEST + "gateways: {a: {node: n, profile: lowmem, observe: [3303/*/5700]}}\n"
    assert _load(tmp_path, text).gateways["a"].observe == ("/3303/*/5700",)


def test_what_is_read_at_registration_is_checked_as_what_is_observed(tmp_path: Path) -> None:
    text = SMALLEST + "gateways: {a: {node: n, profile: lowmem, read_on_register: [3/0, /1/*/1]}}\n"
    assert _load(tmp_path, text).gateways["a"].read_on_register == ("/3/0", "/1/*/1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least `cloud:`"),
        ("- a\n", "at least `cloud:`"),
        ("cloud: {node: [\n", "is no YAML"),
        ("a: !!python/object/apply:os.system [x]\n", "is no YAML"),
        ("gateways: {}\n", "cloud: is missing"),
        ("cloud: {node: big, nodee: x}\n", "cloud.nodee: is not known here"),
        ("cloud: {node: big}\ncloud: {node: small}\n", "stands there twice"),
        ("cloud: {node: 'a b'}\n", "is no name of a node"),
        (SMALLEST + "gateways: {a: {profile: lowmem}}\n", "gateways.a.node: is missing"),
        (SMALLEST + "gateways: {'a b': {node: n, profile: lowmem}}\n", "gateway id 'a b'"),
        (SMALLEST + "gateways: {a_b: {node: n, profile: lowmem}}\n", "name by which its Kafka is reached"),
        (SMALLEST + "gateways: {cloud: {node: n, profile: lowmem}}\n", "no gateway may be called 'cloud'"),
        (SMALLEST + f"gateways: {{{'a' * 31}: {{node: n, profile: lowmem}}}}\n", "at most 30 signs"),
        (SMALLEST + "gateways: {a: {node: n, profile: ../../etc/x}}\n", "gateways.a.profile"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, observe: ['*']}}\n", "a pattern is /object"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, read_on_register: ['*']}}\n", "a pattern is /object"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, x509: {cert: a.pem}}}\n", "a.x509.key: is missing"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, coap_port: 0}}\n", "gateways.a.coap_port"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, processes: 0}}\n", "gateways.a.processes"),
        (
            SMALLEST + "gateways: {a: {node: n, profile: lowmem, processes: 2, x509: {cert: a.pem, key: a.key}}}\n",
            "processes does not go with x509",
        ),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, campaigns: maybe}}\n", "gateways.a.campaigns"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, file_host: 'box:5683'}}\n", "name or address of a host"),
        (
            SMALLEST + "gateways: {a: {node: n, profile: lowmem, file_host: 'coap://box'}}\n",
            "name or address of a host",
        ),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, retention: {time: soon}}}\n", "no span of time"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, retention: {size: 3XB}}}\n", "no size such as"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, sinks: {mysql: 1}}}\n", "gateways.a.sinks"),
        (
            SMALLEST + "gateways: {a: {node: n, profile: lowmem, bandwidth: fast}}\n",
            "gateways.a.bandwidth: 'fast' is no",
        ),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, bandwidth: 0k}}\n", "no number of bytes a second"),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, bandwidth: true}}\n", "no number of bytes a second"),
        (
            SMALLEST + "gateways: {a: {node: n, profile: lowmem, analytics: {median: }}}\n",
            "no job 'median'; there are:",
        ),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, observe: /3303}}\n", "observe: a list is expected"),
        (SMALLEST + "version: 1.10\n", "version: text is expected; in quotes"),
        (SMALLEST + "users: {anna: {see: [nowhere]}}\n", "user anna: there is no gateway 'nowhere'"),
        (SMALLEST + "images: {lower: x}\n", "no variable of the stack files"),
        (
            SMALLEST + "gateways: {a: {node: n, profile: lowmem}, b: {node: n, profile: lowmem}}\n",
            "give one of them another coap_port",
        ),
        (
            SMALLEST + "gateways: {a: {node: n, profile: lowmem, coaps_port: 5693, bootstrap: {config: b.yaml}}}\n",
            "coaps_port of a and bootstrap.coap_port of a: give one of them another",
        ),
        (SMALLEST + "gateways: {a: {node: n, profile: lowmem, bootstrap: {}}}\n", "bootstrap.config: is missing"),
        (
            SMALLEST + "gateways: {a.b: {node: n, profile: lowmem}, a-b: {node: m, profile: lowmem}}\n",
            "would have the same stack gw-a-b",
        ),
    ],
)
def test_wrong_file_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FleetError) as refused:
        _load(tmp_path, text)
    assert said in str(refused.value)
    assert "fleet.yaml" in str(refused.value)


@pytest.mark.parametrize("rate", ["64k", "1.5M", "800", "0.5k", 20000])
def test_bandwidth_is_what_the_replicator_takes(tmp_path: Path, rate: str | int) -> None:
    text = SMALLEST + f"gateways: {{a: {{node: n, profile: lowmem, bandwidth: {rate}}}}}\n"
    told = _load(tmp_path, text).gateways["a"].bandwidth
    assert told == str(rate)
    assert bytes_a_second(told) > 0


def test_every_job_that_there_is_can_be_named(tmp_path: Path) -> None:
    jobs = ", ".join(f"{name}: " for name in ANALYTICS)
    text = SMALLEST + f"gateways: {{a: {{node: n, profile: lowmem, analytics: {{{jobs}}}}}}}\n"
    assert list(_load(tmp_path, text).gateways["a"].analytics) == list(ANALYTICS)


def test_missing_and_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FleetError, match=r"no UTF-8|no YAML"):
        load(tmp_path / "binary.yaml")


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as refused:
        _load(tmp_path, "cloud: {node: big, a: 1}\ngateways: {x: {node: n}}\n")
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize("host", ["192.0.2.11", "2001:db8::11", "rock64", "rock64.example.org"])
def test_devices_may_be_told_a_name_or_an_address_for_files(tmp_path: Path, host: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(SMALLEST + f"gateways: {{a: {{node: n, profile: lowmem, file_host: '{host}'}}}}\n")
    assert load(file).gateways["a"].file_host == host
