"""The command line: help everywhere, settings that are checked, errors that name the fix."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from calotype.ops.settings.settings import Settings, SettingsError, load_settings
from calotype.ops.settings.sinks import KINDS

COMMANDS = (
    [],
    ["serve"],
    ["migrate"],
    ["status"],
    ["reconcile"],
    ["webhooks"],
    ["config"],
    ["config", "check"],
    ["stores"],
    ["stores", "adopt"],
    ["log", "begin-epoch"],
    ["audit"],
    ["audit", "key"],
    ["audit", "verify"],
    ["audit", "prove"],
    ["audit", "consistency"],
    ["audit", "script"],
    ["replay"],
    ["sinks"],
    ["sinks", "status"],
    ["sinks", "parked"],
    ["sinks", "redeliver"],
    ["consumers"],
    ["consumers", "create"],
    ["consumers", "redeliver"],
)


def _calotype(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calotype.ops", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str]) -> None:
    done = _calotype(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.slow
def test_config_check_prints_what_is_in_force_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text(
        '[log]\nurl = "postgresql://calotype:MARKER-A@db/calotype"\n'
        '[store]\nkind = "s3"\nendpoint = "http://s3:9000"\nbucket = "images"\n'
        'access_key = "key"\nsecret_key = "MARKER-B"\n'
    )
    check = ("config", "check", "--offline", "--config", str(file))
    done = _calotype(*check, CALOTYPE_HTTP__MAX_LIMIT="50")
    assert done.returncode == 0, done.stderr
    assert "MARKER" not in done.stdout + done.stderr
    assert "http.max_limit = 50" in done.stdout
    assert "store.bucket = 'images'" in done.stdout


@pytest.mark.slow
def test_config_check_shows_sinks_without_passwords_and_says_what_they_cannot_send(
    tmp_path: Path,
) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text(
        '[sinks.telemetry]\nkind = "rabbitmq"\nurls = ["amqp://user:MARKER-A@mq:5672/"]\n'
        '[sinks.bus]\nkind = "nats"\n'
    )
    done = _calotype(
        *("config", "check", "--config", str(file)),
        CALOTYPE_SINKS__BUS__URLS='["nats://user:MARKER-B@nats:4222"]',
    )
    assert done.returncode == 0, done.stderr
    assert "MARKER" not in done.stdout + done.stderr
    assert "sinks.telemetry.urls = ['amqp://user:***@mq:5672/']" in done.stdout
    assert "sinks.bus.stream = 'CALOTYPE'" in done.stdout
    assert "Note: sinks.telemetry sends no image.send, because audit.downloads is" in done.stdout
    wrong = _calotype(
        *("config", "check", "--config", str(file)),
        CALOTYPE_SINKS__BUS__URLS='["nats://user:MARKER-B@nats:4222", "MARKER-C"]',
    )
    assert wrong.returncode == 2
    assert "MARKER" not in wrong.stdout + wrong.stderr


@pytest.mark.slow
def test_a_wrong_setting_is_one_message_naming_the_key(tmp_path: Path) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text('[http]\nlisten = "nonsense"\n')
    done = _calotype("serve", "--config", str(file))
    assert done.returncode == 2
    assert "http.listen: use HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("table", ["policy", "property_protections"])
def test_a_file_of_rules_that_cannot_be_used_fails_the_check_and_any_number_of_workers(
    tmp_path: Path, table: str
) -> None:
    rules, file = tmp_path / "rules", tmp_path / "calotype.toml"
    rules.write_text("nonsense")
    file.write_text(f'data = "{tmp_path}/data"\n[{table}]\nfile = "{rules}"\n')
    serve = ("serve", "--workers", "2", "--listen", "127.0.0.1:0")
    for command in (("config", "check"), serve):
        done = _calotype(*command, "--config", str(file))
        assert done.returncode == 2
        assert f"{table}.file: {rules}" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[htpp]\nlisten = 1", "htpp: there is no such setting"),
        ("[http]\nlissten = 'x'", "http.lissten: there is no such setting"),
        ("[log]\nurl = 'mysql://x'", "log.url: use sqlite:///path or postgresql://"),
        ("[store]\nkind = 's3'", "'endpoint'"),
        ("workers = 0", "workers: "),
        ("hashing_algorithm = 'md4'", "hashing_algorithm: "),
        ("[limits]\ntags = -2", "limits.tags: "),
        ("[sinks.a]\nurls = ['amqp://h']", "sinks.a: "),
        ("[sinks.a]\nkind = 'kafka'\nurls = ['x']", "sinks.a: "),
        ("[sinks.a]\nkind = 'rabbitmq'", "sinks.a.urls: "),
        ("[sinks.a]\nkind = 'nats'\nurls = []", "sinks.a.urls: "),
        ("[sinks.a]\nkind = 'rabbitmq'\nurls = ['http://h']", "sinks.a: 'urls' needs amqp://"),
        ("[sinks.a]\nkind = 'nats'\nurls = ['amqp://h']", "sinks.a: 'urls' needs nats://"),
        ("[sinks.A]\nkind = 'nats'\nurls = ['nats://h']", "name a sink with up to 40"),
        ("[sinks.a]\nkind = 'nats'\nurls = ['nats://h']\ntopics = ['x']", "sinks.a.topics: there"),
        (
            "[followers]\nversions = false\n"
            "[sinks.a]\nkind = 'rabbitmq'\nurls = ['amqp://h']\nexists = 'day'",
            "sinks.a.exists needs followers.versions = true",
        ),
        (
            '[http]\ntrusted_proxies = ["10.0.0.1/8"]',
            "http.trusted_proxies: '10.0.0.1/8' is no network",
        ),
        ("not toml", "is not valid TOML"),
    ],
)
def test_settings_errors_name_the_key_and_the_fix(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(file)
    assert message in str(refused.value)


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text('data = "file"\n[http]\nlisten = "127.0.0.1:1"\nmax_limit = 7\n')
    monkeypatch.setenv("CALOTYPE_HTTP__LISTEN", "127.0.0.1:2")
    settings = load_settings(file, data=None)
    assert (settings.data, settings.http.listen, settings.http.max_limit) == (
        "file",
        "127.0.0.1:2",
        7,
    )
    assert load_settings(file, http__listen="127.0.0.1:3").http.listen == "127.0.0.1:3"


def test_the_embedded_default_needs_no_settings(tmp_path: Path) -> None:
    settings = load_settings(None, data=str(tmp_path))
    assert settings.log_url() == f"sqlite:///{tmp_path}/log.sqlite"
    assert settings.store_options() == {"directory": f"{tmp_path}/images"}


def test_every_setting_is_in_the_documentation() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        table = getattr(field.annotation, "model_fields", None)
        section = text.partition(f"## `[{name}]`")[2].partition("\n## ")[0]
        if name == "sinks":
            section = text.partition("## `[sinks.NAME]`")[2].partition("\n## ")[0]
            table = {key: None for kind in KINDS for key in kind.model_fields}
        if table is None:
            assert f"| `{name}` |" in text, name
            continue
        for key in table:
            assert f"| `{key}` |" in section, f"{name}.{key}"
