"""The settings file: where it is found, what it may hold, what a command gets of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.settings import Form, SettingsError, as_typed, find, load

COMMANDS = {
    "read": frozenset({"gateway", "kafka", "timeout", "ticket"}),
    "gateway": frozenset({"id", "kafka", "observe"}),
    "kafka start": frozenset({"name", "port"}),
}
TABLES = {"gateway": frozenset({"endpoints"})}


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("head", ["", "[common]\n"])
def test_general_settings_hold_for_the_commands_that_have_them(tmp_path: Path, head: str) -> None:
    settings = load(written(tmp_path, head + 'timeout = 5\nkafka = "a:1"'), COMMANDS, TABLES)
    assert settings.defaults("read", COMMANDS["read"]) == {"timeout": 5, "kafka": "a:1"}
    assert settings.defaults("gateway", COMMANDS["gateway"]) == {"kafka": "a:1"}
    assert settings.defaults("kafka start", COMMANDS["kafka start"]) == {}


def test_own_settings_of_a_command_come_before_general_ones(tmp_path: Path) -> None:
    settings = load(written(tmp_path, '[common]\nkafka = "a:1"\n[gateway]\nkafka = "b:2"'), COMMANDS, TABLES)
    assert settings.defaults("gateway", COMMANDS["gateway"])["kafka"] == "b:2"
    assert settings.defaults("read", COMMANDS["read"])["kafka"] == "a:1"


def test_commands_of_groups_and_tables_of_commands_are_taken(tmp_path: Path) -> None:
    text = '[kafka.start]\nport = 1\n[gateway.endpoints."s-*"]\nobserve = ["/3"]'
    settings = load(written(tmp_path, text), COMMANDS, TABLES)
    assert settings.defaults("kafka start", COMMANDS["kafka start"]) == {"port": 1}
    assert settings.commands["gateway"]["endpoints"] == {"s-*": {"observe": ["/3"]}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[common]\ngatway = "x"', r"'common\.gatway' is not a setting; did you mean 'gateway'"),
        ("[reed]\ntimeout = 1", r"'reed' is not a setting; did you mean 'read'"),
        ("[read]\nport = 1", r"'read\.port' is not a setting; known here: gateway, kafka, ticket, timeout"),
        ("[kafka.begin]\nport = 1", r"'kafka\.begin' is not a setting"),
        ('ticket = "t"', r"'ticket' is not a setting"),
        ("timeout = ", r"cannot be read"),
    ],
)
def test_unknown_settings_are_refused_with_what_there_is(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(written(tmp_path, text), COMMANDS, TABLES)


def test_file_is_looked_for_here_then_at_home(tmp_path: Path) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    (home / "headwater").mkdir(parents=True)
    here.mkdir()
    environment = {"XDG_CONFIG_HOME": str(home)}
    assert find(None, here, environment) is None
    (home / "headwater" / "config.toml").touch()
    assert find(None, here, environment) == home / "headwater" / "config.toml"
    (here / "headwater.toml").touch()
    assert find(None, here, environment) == here / "headwater.toml"


def test_given_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no settings file"):
        find(tmp_path / "none.toml", tmp_path, {})


@pytest.mark.parametrize(
    ("form", "value", "typed"),
    [
        (Form.TEXT, "x", "x"),
        (Form.TEXT, 64000, "64000"),
        (Form.TEXT, 0.5, "0.5"),
        (Form.FLAG, True, True),
        (Form.LIST, ["a", 1], ["a", "1"]),
        (Form.LIST, "a", ["a"]),
    ],
)
def test_settings_become_what_would_be_typed(form: Form, value: object, typed: object) -> None:
    assert as_typed(Path("f.toml"), "key", value, form) == typed


@pytest.mark.parametrize(
    ("form", "value"),
    [(Form.TEXT, True), (Form.TEXT, ["a"]), (Form.TEXT, {"a": 1}), (Form.FLAG, "x"), (Form.FLAG, 1), (Form.LIST, 5)],
)
def test_setting_of_another_kind_names_file_and_key(form: Form, value: object) -> None:
    with pytest.raises(SettingsError, match=r"f\.toml: 'key' is .*, not"):
        as_typed(Path("f.toml"), "key", value, form)
