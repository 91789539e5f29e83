"""The real clients with each way of telling who asks: passwords of a file, and Keystone."""

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from glanceclient import exc
from glanceclient.v2.client import Client
from keystoneauth1.http_basic import HTTPBasicAuth
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
PASSWORDS = {"alice": "correct horse", "rita": "battery staple", "root": "pa:ss:wörd"}


@pytest.fixture(scope="module")
def guarded_by_passwords(tmp_path_factory: pytest.TempPathFactory, serve: Any) -> Iterator[str]:
    """URL of a service whose users stand in an htpasswd file."""
    folder = tmp_path_factory.mktemp("passwords")
    file = folder / "htpasswd"
    file.write_text(
        "".join(
            f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
            for name, password in PASSWORDS.items()
        )
    )
    users = {"rita": {"roles": ["reader"]}, "root": {"roles": ["admin"]}}
    with serve(
        folder / "data",
        CALOTYPE_IDENTITY__KIND="http_basic",
        CALOTYPE_HTTP_BASIC__FILE=str(file),
        CALOTYPE_HTTP_BASIC__USERS=json.dumps(users),
    ) as url:
        yield url


def test_openstackclient_comes_with_a_password_of_the_file(
    guarded_by_passwords: str, run_client: Run, tmp_path: Path
) -> None:
    def run(user: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        access = {
            "auth-type": "http_basic",
            "username": user,
            "password": PASSWORDS.get(user, "guessed"),
            # With the version: this way of logging in looks for none.
            "endpoint": f"{guarded_by_passwords}/v2",
        }
        options = [f"--os-{name}={value}" for name, value in access.items()]
        return run_client("openstack", *options, "image", *arguments, code=code)

    data = tmp_path / "data"
    data.write_bytes(b"bytes of an image")
    formats = ("--disk-format", "raw", "--container-format", "bare")
    made = json.loads(
        run("alice", "create", "mine", *formats, "--file", str(data), "-f", "json").stdout
    )
    assert (made["status"], made["owner"]) == ("active", "default")
    assert json.loads(run("rita", "show", made["id"], "-f", "json").stdout)["name"] == "mine"
    assert "403" in run("rita", "delete", made["id"], code=1).stderr
    assert "403" in run("alice", "set", "--public", made["id"], code=1).stderr
    run("root", "set", "--public", made["id"])
    assert "401" in run("mallory", "list", code=1).stderr
    run("alice", "save", made["id"], "--file", str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b"bytes of an image"


def _conversation(owner: Client, reader: Client) -> None:
    """What both ways have in common: create, upload, read, and be refused."""
    made = owner.images.create(name="mine", disk_format="raw", container_format="bare")
    owner.images.upload(made.id, io.BytesIO(b"bytes of an image"))
    assert owner.images.get(made.id).status == "active"
    assert [image.name for image in reader.images.list(filters={"id": made.id})] == ["mine"]
    with pytest.raises(exc.HTTPForbidden):
        reader.images.data(made.id)
    with pytest.raises(exc.HTTPForbidden):
        reader.images.update(made.id, name="other")
    assert b"".join(owner.images.data(made.id)) == b"bytes of an image"
    owner.images.delete(made.id)
    with pytest.raises(exc.HTTPNotFound):
        reader.images.get(made.id)


def test_glanceclient_comes_with_a_password_of_the_file(guarded_by_passwords: str) -> None:
    def client(user: str, password: str) -> Client:
        auth = HTTPBasicAuth(guarded_by_passwords, user, password)
        return Client(session=Session(auth=auth))

    _conversation(client("alice", PASSWORDS["alice"]), client("rita", PASSWORDS["rita"]))
    with pytest.raises(exc.HTTPUnauthorized):
        list(client("alice", "guessed").images.list())


def test_the_glance_command_comes_with_a_password_from_netrc(
    guarded_by_passwords: str, run_client: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f'machine 127.0.0.1 login alice password "{PASSWORDS["alice"]}"\n')
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    access = ("--os-image-url", guarded_by_passwords, "--os-auth-token", "not looked at")
    formats = ("--disk-format", "raw", "--container-format", "bare")
    run_client("glance", *access, "image-create", "--name", "from a shell", *formats)
    assert "from a shell" in run_client("glance", *access, "image-list").stdout


def test_glanceclient_comes_with_a_token_of_keystone(listed: str, keystone: Any) -> None:
    """As a library: by name and password, the endpoint from the catalogue."""

    def client(user: str) -> Client:
        auth = Password(
            keystone.server.url,
            username=user,
            password=keystone.PASSWORDS[user],
            project_name="red",
            user_domain_name="Default",
            project_domain_name="Default",
        )
        return Client(session=Session(auth=auth))

    _conversation(client("member"), client("reader"))


def test_the_glance_command_comes_with_a_token_of_keystone(
    listed: str, keystone: Any, run_client: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    access = {
        "auth-url": keystone.server.url,
        "username": "member",
        "password": keystone.PASSWORDS["member"],
        "project-name": "red",
        "user-domain-name": "Default",
        "project-domain-name": "Default",
    }
    options = [f"--os-{name}={value}" for name, value in access.items()]
    formats = ("--disk-format", "raw", "--container-format", "bare")
    made = run_client("glance", *options, "image-create", "--name", "from a shell", *formats)
    assert keystone.projects["red"] in made.stdout
    assert "from a shell" in run_client("glance", *options, "image-list").stdout
    refused = run_client("glance", *options, "image-create", "--visibility", "public", code=1)
    assert "403" in refused.stderr
