"""The users of `[http_basic]`: what their file may hold, and what is refused with its line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calotype.ops.settings.htpasswd import load_logins
from calotype.ops.settings.settings import HttpBasic, SettingsError, load_settings

HASH = "$2y$05$" + "a" * 53


def _load(tmp_path: Path, text: str, **settings: object) -> object:
    file = tmp_path / "htpasswd"
    file.write_text(text)
    return load_logins(HttpBasic.model_validate({"file": str(file), **settings}))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "is not of the form NAME:HASH"),
        (f":{HASH}", "has no name before the colon"),
        (
            "alice:$apr1$RLHgr3ME$iq/dCsrc77.RTrVSrwITj0",
            "the hash of 'alice' is MD5; make a new one",
        ),
        ("alice:{SHA}lcsL/Sl3x2EpjZYk5LTUxyo5l0o=", "is SHA-1; make a new one with `htpasswd -B`"),
        ("alice:$5$abc$def", "is SHA-256"),
        ("alice:$6$abc$def", "is SHA-512"),
        (f"alice:{HASH.replace('2y', '2a')}", "is an old form of bcrypt"),
        ("alice:plain text", "is not bcrypt"),
        (f"alice:{HASH}more", "is not bcrypt"),
        (f"alice:{HASH.replace('$05', '$16')}", "the hash of 'alice' has cost 16; use 4 to 15"),
        (f"bob:{HASH}", "names 'bob' a second time"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_without_its_hash(
    tmp_path: Path, line: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        _load(tmp_path, f"# users\n\nbob:{HASH}\n{line}\n")
    message = str(refused.value)
    assert message.startswith(f"http_basic.file: {tmp_path}/htpasswd, line 4: ")
    assert problem in message
    assert line.partition(":")[2] not in message or ":" not in line


def test_a_file_without_users_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names no user"):
        _load(tmp_path, "# nobody\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_logins(HttpBasic(file=str(tmp_path / "missing")))


def test_both_names_of_bcrypt_are_taken_with_projects_and_roles(tmp_path: Path) -> None:
    text = f"alice:{HASH}\nbob:{HASH.replace('2y', '2b')}"
    users = {"bob": {"roles": ["Admin"]}}
    logins = _load(tmp_path, text, project="red", users=users)
    assert isinstance(logins, dict)
    alice, bob = logins["alice"].actor, logins["bob"].actor
    assert (alice.user, alice.project, alice.roles) == ("alice", "red", {"member", "reader"})
    assert (bob.project, bob.is_admin) == ("red", True)


def test_the_file_must_be_named(tmp_path: Path) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text('[identity]\nkind = "http_basic"\n')
    with pytest.raises(SettingsError, match="needs http_basic.file"):
        load_settings(file)
    file.write_text('[http_basic.users.alice]\nrole = ["admin"]\n')
    with pytest.raises(
        SettingsError, match="http_basic.users.alice.role: there is no such setting"
    ):
        load_settings(file)


def test_a_service_with_several_workers_says_at_start_what_is_wrong(
    tmp_path: Path, make_service: Any
) -> None:
    """It does not start workers again and again that cannot start."""
    (tmp_path / "htpasswd").write_text("alice:plain")
    service = make_service(
        CALOTYPE_IDENTITY__KIND="http_basic",
        CALOTYPE_HTTP_BASIC__FILE=str(tmp_path / "htpasswd"),
    )
    checked = subprocess.run(
        [sys.executable, "-m", "calotype.ops", "config", "check"],
        capture_output=True,
        text=True,
        env={**os.environ, **service.environment},
    )
    assert (checked.returncode, "line 1" in checked.stderr) == (2, True)
    done = service.run("serve", "--workers", "2", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "line 1: the hash of 'alice' is not bcrypt" in done.stderr
