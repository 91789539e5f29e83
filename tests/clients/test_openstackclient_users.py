"""Four people of three projects at a terminal, let in by Keystone: who may do what."""

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_as(listed: str, keystone: Any, run_client: Run) -> Run:
    """`openstack image ARGUMENTS` as a user, by name and password; the endpoint is looked up."""

    def run(user: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        project = {"admin": "admin", "neighbour": "blue"}.get(user, "red")
        password = keystone.PASSWORDS.get(user) or keystone.server.admin_password
        access = {
            "auth-url": keystone.server.url,
            "username": user,
            "password": password,
            "project-name": project,
            "user-domain-name": "Default",
            "project-domain-name": "Default",
        }
        options = [f"--os-{name}={value}" for name, value in access.items()]
        done = run_client("openstack", *options, "image", *arguments, code=code)
        assert password not in done.stdout
        return done

    return run


def test_an_image_is_shared_published_and_deleted_by_those_who_may(
    run_as: Run, keystone: Any, tmp_path: Path
) -> None:
    name = f"shared {uuid.uuid4().hex}"
    data = tmp_path / "data"
    data.write_bytes(b"bytes of an image")

    def read(user: str, *arguments: str) -> Any:
        return json.loads(run_as(user, *arguments, "-f", "json").stdout)

    def refused(user: str, *arguments: str) -> str:
        return run_as(user, *arguments, code=1).stderr

    def withheld(user: str, image_id: str) -> None:
        # The client saves the refusal and then finds that its hash is another.
        refused(user, "save", image_id, "--file", str(tmp_path / "refusal"))
        assert b"403 Forbidden" in (tmp_path / "refusal").read_bytes()

    formats = ("--disk-format", "raw", "--container-format", "bare")
    assert "403" in refused("reader", "create", name, *formats)
    image = read("member", "create", name, *formats, "--file", str(data), "--shared")
    assert (image["owner"], image["status"]) == (keystone.projects["red"], "active")
    image_id = image["id"]

    assert read("reader", "show", image_id)["name"] == name
    assert "403" in refused("reader", "set", "--name", "mine", image_id)
    assert "No Image found" in refused("neighbour", "show", image_id)
    assert read("neighbour", "list") == []
    blue = keystone.projects["blue"]
    withheld("reader", image_id)
    assert "403" in refused("reader", "add", "project", image_id, blue)
    assert "No Image found" in refused("neighbour", "add", "project", image_id, blue)

    assert read("member", "add", "project", image_id, blue)["status"] == "pending"
    assert read("neighbour", "show", image_id)["name"] == name
    assert read("neighbour", "list") == []
    # Nobody takes an offer for somebody else; administrators aside.
    assert "403" in refused("member", "set", "--accept", image_id, "--project", blue)
    run_as("neighbour", "set", "--reject", image_id)
    assert read("neighbour", "list") == []
    (offer,) = read("member", "member", "list", image_id)
    assert (offer["Member ID"], offer["Status"]) == (blue, "rejected")
    run_as("neighbour", "set", "--accept", image_id)
    assert [row["ID"] for row in read("neighbour", "list", "--shared")] == [image_id]
    run_as("neighbour", "save", image_id, "--file", str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b"bytes of an image"
    assert "403" in refused("neighbour", "set", "--name", "theirs", image_id)
    assert "403" in refused("neighbour", "delete", image_id)
    run_as("member", "remove", "project", image_id, blue)
    assert "No Image found" in refused("neighbour", "show", image_id)

    assert "403" in refused("member", "set", "--public", image_id)
    run_as("admin", "set", "--public", "--protected", image_id)
    assert [row["ID"] for row in read("neighbour", "list", "--public")] == [image_id]
    assert "403" in refused("neighbour", "delete", image_id)
    # The client says nothing when this is refused, so what counts is what became of the image.
    run_as("neighbour", "set", "--deactivate", image_id)
    assert read("member", "show", image_id)["status"] == "active"
    run_as("admin", "set", "--deactivate", image_id)
    assert read("member", "show", image_id)["status"] == "deactivated"
    withheld("member", image_id)
    run_as("admin", "set", "--activate", image_id)
    assert "403" in refused("admin", "delete", image_id)
    run_as("admin", "set", "--unprotected", image_id)
    run_as("admin", "delete", image_id)
    assert "No Image found" in refused("member", "show", image_id)
