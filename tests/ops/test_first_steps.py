"""What is wrong with an installation is one sentence, told by the check before serving tells it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from calotype.ops.cli.main import app
from calotype.ops.jobs.remembering import places_of, remember
from calotype.ops.serving.process import prepare
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring.composition import recorder_of, stores_of

SERVE = ("serve", "--listen", "127.0.0.1:0")
CHECK = ("config", "check")


def calotype(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calotype.ops", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def refusals(folder: Path, text: str, *commands: tuple[str, ...]) -> Iterator[str]:
    """What each command says of these settings, which it does not take."""
    file = folder / "calotype.toml"
    file.write_text(text)
    for command in commands:
        done = calotype(*command, "--config", str(file), folder=folder)
        assert done.returncode == 2, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        yield done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            '[store]\nkind = "s3"\nendpoint = "http://127.0.0.1:1"\nbucket = "My_Bucket"\n'
            'access_key = "k"\nsecret_key = "s"\n',
            "store.bucket: use 3 to 63 of a-z",
        ),
        (
            '[store]\nkind = "s3"\nendpoint = "http://127.0.0.1:1"\nbucket = "images"\n'
            'access_key = "k"\nsecret_key = "s"\n',
            "store: ",
        ),
        ('data = "file/data"\n', "data: file/data cannot be made"),
        ('[store]\ndirectory = "FOLDER/file/images"\n', "store"),
        ('[log]\nurl = "sqlite:///file/log.sqlite"\n', "file"),
        ('[log]\nurl = "sqlite:///file"\n', "file is not a database"),
        ('[log]\nurl = "postgresql://u@127.0.0.1:1,127.0.0.1:2/x"\n', "127.0.0.1"),
        ('[log]\nurl = "postgresql://u:MARKER/x@[y"\n', "host 'u'"),
    ],
)
def test_the_check_and_serving_name_the_setting_in_a_sentence(
    tmp_path: Path, settings: str, sentence: str
) -> None:
    (tmp_path / "file").write_text("not a directory, and not a database either")
    text = settings.replace("FOLDER", str(tmp_path))
    for said in refusals(tmp_path, text, CHECK, SERVE):
        assert sentence in said
        assert "MARKER" not in said
        assert len(said.splitlines()) <= 3, said


@pytest.mark.slow
def test_the_check_makes_nothing_and_passes_what_serving_could_make(tmp_path: Path) -> None:
    done = calotype(*CHECK, folder=tmp_path, CALOTYPE_DATA="new/data")
    assert done.returncode == 0, done.stderr
    assert "The configuration is valid." in done.stdout
    assert list(tmp_path.iterdir()) == []


READING = (
    ("status",),
    ("reconcile", "--dry-run"),
    ("log", "tail"),
    ("log", "show", "p000000000000-1"),
    ("log", "export", "-"),
    ("history", "8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4"),
    ("restorable",),
    ("audit", "verify"),
    ("audit", "prove", "p000000000000-1", "--out", "proof.json"),
    ("projections", "list"),
    ("projections", "status"),
    ("projections", "verify"),
    ("consumers", "list"),
    ("sinks", "status"),
    ("webhooks", "list"),
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_looking_at_a_log_that_is_not_there_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as refused:
        CliRunner().invoke(app, [*command, "--data", "wrong"], catch_exceptions=False)
    assert f"there is no event log at {tmp_path}/wrong/log.sqlite;" in str(refused.value)
    assert "migrate" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_url_of_several_hosts_is_understood_everywhere(tmp_path: Path, postgres_url: str) -> None:
    port = conninfo_to_dict(postgres_url)["port"]
    several = postgres_url.replace(f":{port}/", f":1,127.0.0.1:{port}/")
    assert several != postgres_url
    for command, code in ((("migrate",), 0), (("status",), 0)):
        done = calotype(*command, "--log-url", several, folder=tmp_path)
        assert done.returncode == code, done.stderr
    done = calotype(*CHECK, folder=tmp_path, CALOTYPE_LOG__URL=several)
    assert done.returncode == 0, done.stderr
    assert f"127.0.0.1:{port}/" in done.stdout


@pytest.mark.slow
def test_missing_rights_are_named(tmp_path: Path, postgres_url: str) -> None:
    user = "guest_" + conninfo_to_dict(postgres_url)["dbname"][-12:]
    as_guest = postgres_url.replace("//postgres@", f"//{user}@")
    assert as_guest != postgres_url
    settings = f'[log]\nurl = "{as_guest}"\n'
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN")
        try:
            for said in refusals(tmp_path, settings, ("migrate",)):
                assert "permission denied for schema public" in said
            assert calotype("migrate", "--log-url", postgres_url, folder=tmp_path).returncode == 0
            for said in refusals(tmp_path, settings, CHECK, SERVE, ("status",)):
                assert "permission denied for table migrations" in said
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
            for said in refusals(tmp_path, settings, CHECK, SERVE):
                assert "log.url: the database user lacks DELETE on aggregate_snapshots_1" in said
            connection.execute(
                f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}"
            )
            connection.execute(f"REVOKE UPDATE, DELETE ON stored_events FROM {user}")
            done = calotype(*CHECK, "--config", "calotype.toml", folder=tmp_path)
            assert done.returncode == 0, done.stderr
        finally:
            connection.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


@pytest.mark.slow
def test_the_check_finds_a_store_of_another_log(tmp_path: Path) -> None:
    for name in ("one", "other"):
        settings = load_settings(None, data=str(tmp_path / name))
        prepare(settings)
        recorder = recorder_of(settings)
        for place in places_of(settings, stores_of(settings)):
            remember(recorder, place)
        recorder.close_now()
    text = f'data = "one"\n[store]\ndirectory = "{tmp_path}/other/images"\n'
    for said in refusals(tmp_path, text, CHECK):
        assert "belongs to another event log" in said
