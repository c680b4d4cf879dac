"""``headwater stores``: users of the real InfluxDB and OrientDB, as the stacks' one-shot service makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.sinks.influxdb import open_influxdb
from connectors.sinks.orientdb import open_orientdb
from headwater.cli import app
from headwater.exits import Exit
from tests import orientdb_server
from tests.ports import held_port
from tests.sink_samples import at, new, notification, resource
from tests.stores.influxdb import InfluxdbStore
from tests.stores.orientdb import OrientdbStore


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["stores", *arguments])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in {
        "sink": "the sink's own\n",
        "grafana": "grafana's own",
        "root": orientdb_server.PASSWORD,
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def influxdb_words(store: InfluxdbStore, files: Path, *more: str) -> list[str]:
    (files / "token").write_text(store.server.token)
    (files / "token").chmod(0o600)
    return ["influxdb", "--url", f"{store.server.url}/", "--token-file", f"{files}/token", "--bucket", *more]


def test_influxdb_has_a_writer_and_a_reader_however_often_it_is_told(files: Path) -> None:
    store = InfluxdbStore(files)
    writer, reader = f"sink-{store.database}", f"grafana-{store.database}"
    words = [store.database, "--writer", f"{writer}={files}/sink", "--reader", f"{reader}={files}/grafana"]
    for how in ("is made", "stays"):
        done = run(*influxdb_words(store, files, *words))
        assert done.exit_code == 0, done.output
        assert done.output.splitlines() == [
            f"{writer}: may write the database {store.database}; it {how}",
            f"{reader}: may read the database {store.database}; it {how}",
        ]
    sink = open_influxdb(
        {"url": store.server.url, "bucket": store.database, "user": writer, "password_file": f"{files}/sink"}
    )
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0)))])
    sink.close()
    assert len(store.history()) == 1


def test_orientdb_has_its_classes_and_a_sink_that_needs_no_other_right(files: Path) -> None:
    store = OrientdbStore(files, protocol="http")
    where = ["--host", "127.0.0.1", "--port", str(store.server.http_port), "--database", store.database]
    words = ["orientdb", *where, "--password-file", f"{files}/root", "--writer", f"headwater-sink={files}/sink"]
    for how in ("is made", "stays"):
        done = run(*words)
        assert done.exit_code == 0, done.output
        assert done.output == f"headwater-sink: may write the graph in {store.database}; it {how}\n"
    options = {**store.options(), "user": "headwater-sink", "password_file": f"{files}/sink"}
    del options["password"]
    sink = open_orientdb(options)
    sink.write([at(0, new())])
    sink.close()
    assert store.endpoint("ep-1") is not None


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ((), Exit.USAGE, "say who: --writer NAME=FILE"),
        (("--writer", "sink"), Exit.USAGE, "is no NAME=FILE"),
        (("--writer", "a={}/sink", "--reader", "a={}/sink"), Exit.USAGE, "is given twice"),
        (("--writer", "a b={}/sink"), Exit.USAGE, "is no name of a user"),
        (("--writer", "a={}/none"), Exit.CANNOT_START, "none"),
        (("--writer", "a={}/sink"), Exit.REFUSED, "there is no database 'no-such-bucket'"),
    ],
)
def test_what_is_wrong_is_told_and_no_password_with_it(
    files: Path, more: tuple[str, ...], code: Exit, words: str
) -> None:
    store = InfluxdbStore(files)
    done = run(*influxdb_words(store, files, "no-such-bucket", *(one.format(files) for one in more)))
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())
    assert "own" not in done.output


def test_stores_that_do_not_answer_are_not_reachable(files: Path) -> None:
    store, port = InfluxdbStore(files), held_port()
    words = influxdb_words(store, files, store.database, "--writer", f"a={files}/sink")
    words[2] = f"http://127.0.0.1:{port}"
    assert run(*words).exit_code == Exit.UNREACHABLE
    root = ["--password-file", f"{files}/root", "--writer", f"a={files}/sink", "--database", "x"]
    assert run("orientdb", "--host", "127.0.0.1", "--port", str(port), *root).exit_code == Exit.UNREACHABLE
    words[2] = "ftp://here"
    assert run(*words).exit_code == Exit.USAGE
