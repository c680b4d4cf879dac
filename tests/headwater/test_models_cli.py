"""``headwater models``: what people see, what programs get, how it ends."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.commands.models import _object_ids
from headwater.exits import Exit
from headwater.known_models import known
from schemas.lwm2m.path import Path as Lwm2mPath
from schemas.lwm2m.xml_files import MAX_BYTES

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "data" / "oma"
VALVE = (OWN / "valve.xml").read_text("latin-1")
FOLDER = Path(".headwater/models")


def models(*arguments: str, code: Exit = Exit.OK, stdin: str | bytes | None = None, **env: str) -> Any:
    result = CliRunner().invoke(app, ["models", *arguments], input=stdin, env=env)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def words(result: Any) -> str:
    """As a person reads it, whatever the width."""
    return re.sub(r"[\s│]+", " ", result.output)


def json_of(*arguments: str, **more: Any) -> Any:
    return json.loads(models(*arguments, "--output", "json", **more).stdout)


def files() -> list[str]:
    return sorted(file.name for file in FOLDER.glob("*.xml"))


def test_versions_are_listed_side_by_side_with_the_default_one() -> None:
    models("import", str(OWN))
    listed = [row for row in json_of("list") if row["id"] > 32000]
    assert [(row["id"], row["version"], row["default"]) for row in listed] == [
        (32769, "1.2", True),
        (32769, "2.0", False),
        (32770, "1.0", True),
    ]
    assert [row["file"] for row in listed] == [str(FOLDER / name) for name in files()]
    shown = models("list").stdout
    assert "Boiler" in shown
    assert "1.2 *" in shown
    builtin = next(row for row in json_of("list") if row["id"] == 3303)
    assert (builtin["version"], builtin["default"], builtin["file"]) == ("1.0", True, "built in")


def test_an_object_is_shown_as_a_device_of_a_version_has_it() -> None:
    models("import", str(OWN))
    assert json_of("show", "32769")["version"] == "1.2"
    assert json_of("show", "32769", "--version", "1.7")["version"] == "1.2"
    newest = json_of("show", "32769", "--version", "2.0")
    assert [(row["id"], row["type"]) for row in newest["resources"]] == [(0, "STRING"), (1, "INTEGER")]
    unsigned = json_of("show", "32769")["resources"][2]
    assert unsigned == {
        "id": 2,
        "name": "Burner Starts",
        "operations": "R",
        "instances": "multiple",
        "mandatory": False,
        "type": "INTEGER",
        "unsigned": True,
        "unit": None,
    }
    assert "Water Temperature" in models("show", "32769").stdout
    assert "known: 1.2, 2.0" in words(models("show", "32769", "--version", "3.0", code=Exit.USAGE))
    assert "models import" in words(models("show", "40000", code=Exit.USAGE))
    assert "such as 1.0" in words(models("show", "3", "--version", "new", code=Exit.USAGE))


def test_an_object_known_in_version_2_only_is_unknown_without_a_version() -> None:
    models("import", str(OWN / "boiler-2.xml"))
    assert "version 1.0 is not known; known: 2.0" in words(models("show", "32769", code=Exit.USAGE))
    assert json_of("show", "32769", "--version", "2.0")["default"] is False


def test_an_import_is_all_or_nothing_and_twice_is_as_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad.xml"
    bad.write_text(VALVE.replace("Float", "Complex"), "latin-1")
    result = models("import", str(OWN / "valve.xml"), str(bad), code=Exit.USAGE)
    assert "bad.xml, line 10, column" in words(result)
    assert "nothing was imported" in words(result)
    assert not FOLDER.exists()
    models("import", str(OWN / "valve.xml"), str(bad), "--skip-bad", code=Exit.REFUSED)
    assert files() == ["32770-1.0.xml"]
    again = json_of("import", str(OWN / "valve.xml"))
    assert again["stored"] is True
    (one,) = again["models"]
    assert (one["id"], one["version"], one["outcome"]) == (32770, "1.0", "unchanged")
    assert [row["outcome"] for row in json_of("import", str(OWN))["models"]] == ["added", "added", "unchanged"]


def test_another_definition_is_refused_unless_it_is_to_replace(tmp_path: Path) -> None:
    other = tmp_path / "other.xml"
    other.write_text(VALVE.replace("Float", "String"), "latin-1")
    models("import", str(OWN / "valve.xml"))
    assert "--replace" in words(models("import", str(other), code=Exit.USAGE))
    assert json_of("show", "32770")["resources"][0]["type"] == "FLOAT"
    assert "replaced" in models("import", str(other), "--replace").stdout
    assert json_of("show", "32770")["resources"][0]["type"] == "STRING"


def test_a_trial_writes_nothing() -> None:
    result = models("import", str(OWN), "--dry-run")
    assert "added: object 32770" in result.stdout
    assert not FOLDER.exists()
    assert json_of("import", str(OWN), "--dry-run")["stored"] is False


def test_a_model_comes_from_stdin() -> None:
    models("import", "-", stdin=VALVE.encode("latin-1"))
    assert files() == ["32770-1.0.xml"]
    assert "stdin, line 1" in words(models("import", "-", stdin=b"<LWM2M", code=Exit.USAGE))


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><LWM2M><Object><Name>&b;</Name></Object></LWM2M>'
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB.encode(), "DOCTYPE"),
        (b"<html></html>", "not <LWM2M>"),
        (b"", "no element found"),
        (b" " * (MAX_BYTES + 1), "larger"),
        (b"\xff\xfe\x00", "no XML"),
        (VALVE.replace("ISO-8859-1", "ebcdic-nope").encode(), "encoding"),
    ],
)
def test_a_file_that_is_hostile_or_none_is_told_in_words(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "file.xml"
    file.write_bytes(content)
    result = models("import", str(file), code=Exit.USAGE)
    assert "file.xml" in words(result)
    assert says in words(result)
    assert not FOLDER.exists()


def test_files_that_are_not_there_are_told_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = models("import", "none.xml", "empty", "neither.xml", code=Exit.USAGE)
    for name in ("none.xml", "neither.xml", "empty: there is no *.xml"):
        assert name in words(result)


def test_a_broken_file_in_the_folder_is_told_and_the_others_are_listed() -> None:
    models("import", str(OWN))
    (FOLDER / "broken.xml").write_text("<LWM2M>")
    result = models("list", code=Exit.REFUSED)
    assert "Valve" in result.stdout
    assert "broken.xml, line 1" in words(result)


def test_the_folder_is_named_by_flag_or_environment(tmp_path: Path) -> None:
    models("import", str(OWN), "--definitions", "flag")
    models("import", str(OWN / "valve.xml"), HEADWATER_DEFINITIONS="env")
    assert len(list(Path("flag").glob("*.xml"))) == 3
    assert [row["id"] for row in json_of("list", HEADWATER_DEFINITIONS="env") if row["file"] != "built in"] == [32770]
    (tmp_path / "file").touch()
    assert "file" in words(models("import", str(OWN), "--definitions", "file", code=Exit.USAGE))


def test_other_commands_know_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert known().resource(Lwm2mPath(32770, 0, 0)) is None
    write = ["write", "dev", "/32770/0/0", "5", "--gateway", "gw", "--kafka", "127.0.0.1:1", "--timeout", "1"]
    assert "--type" in CliRunner().invoke(app, write).output
    models("import", str(OWN))
    position = known().resource(Lwm2mPath(32770, 0, 0))
    assert position is not None and position.name == "Position"
    # It comes as far as to ask Kafka.
    assert CliRunner().invoke(app, write).exit_code == Exit.UNREACHABLE
    assert _object_ids("3277") == ["32770"]


def test_a_gateway_does_not_start_with_a_folder_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["gateway", "--id", "gw", "--definitions", "typo", "--coap", "127.0.0.1:0"])
    assert result.exit_code == Exit.USAGE
    assert "--definitions typo: there is no such folder" in words(result)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "where is the store"),
        (("--file", "x.db"), "--gateway"),
        (("--file", "none/x.db", "--gateway", "gw"), "no folder"),
        (("--sinks", "none.toml"), "none.toml"),
        (("--sinks", "parquet.toml", "--gateway", "gw"), "headwater replay --redecode"),
        (("--file", "x.db", "--gateway", "gw", "--since", "soon"), "no time"),
        (("--file", "x.db", "--gateway", "gw", "--assume-version", "new"), "such as 1.0"),
    ],
)
def test_what_cannot_be_redecoded_is_told_before_anything_is_imported(options: tuple[str, ...], says: str) -> None:
    Path("parquet.toml").write_text('[parquet]\nroot = "files"\n')
    result = CliRunner().invoke(app, ["models", "import", str(OWN), "--redecode", *options])
    assert result.exit_code in (Exit.USAGE, Exit.CANNOT_START), result.output
    assert says in words(result)
    assert not FOLDER.exists()


def test_a_kafka_that_is_away_is_told_and_the_models_are_in() -> None:
    where = ("--file", "x.db", "--gateway", "gw", "--kafka", "127.0.0.1:1")
    models("import", str(OWN), "--redecode", *where, code=Exit.UNREACHABLE)
    assert len(files()) == 3


def test_every_command_of_the_page_that_needs_no_kafka_works_in_its_order() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    Path("33000.xml").write_text(re.findall(r"^```xml\n(.*?)^```", page, re.M | re.S)[0])
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    own = [line for line in lines if line.startswith("headwater models ") and "--redecode" not in line]
    assert len(own) > 4
    for line in own:
        models(*shlex.split(line)[2:])
