"""People at a terminal: the `openstack` command against a running service."""

import filecmp
import hashlib
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
def openstack(service: str, run_client: Run) -> Run:
    """The command without authentication, as `openstack image ARGUMENTS`."""

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        access = ("--os-auth-type", "none", "--os-endpoint", service)
        return run_client("openstack", *access, "image", *arguments, code=code)

    return run


@pytest.fixture
def read(openstack: Run) -> Callable[..., Any]:
    """What the command says in JSON."""
    return lambda *arguments: json.loads(openstack(*arguments, "-f", "json").stdout)


@pytest.fixture
def disk(qcow2: Path) -> tuple[str, ...]:
    """The options that send the real disk."""
    return ("--file", str(qcow2), "--disk-format", "qcow2", "--container-format", "bare")


def test_a_disk_is_created_shown_and_saved_byte_for_byte(
    read: Any, openstack: Run, qcow2: Path, disk: tuple[str, ...], tmp_path: Path
) -> None:
    name = f"rescue {uuid.uuid4().hex}"
    options = ("--property", "os_distro=debian", "--tag", "boot", "--min-disk", "1")
    made = read("create", name, *disk, *options)
    content = qcow2.read_bytes()
    assert made["status"] == "active"
    assert made["size"] == len(content)
    assert made["checksum"] == hashlib.md5(content).hexdigest()
    assert made["tags"] == ["boot"]
    assert made["min_disk"] == 1
    assert (made["visibility"], made["protected"], made["owner"]) == ("shared", False, "default")

    shown = read("show", made["id"])
    assert shown == made
    assert shown["properties"]["os_distro"] == "debian"
    assert shown["properties"]["os_hash_algo"] == "sha512"
    assert shown["properties"]["os_hash_value"] == hashlib.sha512(content).hexdigest()

    saved = tmp_path / "saved.qcow2"
    openstack("save", name, "--file", str(saved))
    assert filecmp.cmp(saved, qcow2, shallow=False)


def test_lists_are_filtered_sorted_limited_and_leave_hidden_images_out(
    read: Any, openstack: Run, disk: tuple[str, ...]
) -> None:
    tag = f"list-{uuid.uuid4().hex}"
    for name, options in (
        ("amber", ("--property", "colour=warm")),
        ("cobalt", ("--property", "colour=cold", *disk)),
    ):
        openstack("create", f"{name} {tag}", "--tag", tag, *options)

    def names(*options: str) -> list[str]:
        return [row["Name"].split()[0] for row in read("list", "--tag", tag, *options)]

    assert names("--sort", "name:asc") == ["amber", "cobalt"]
    assert names("--sort", "name:desc", "--limit", "1") == ["cobalt"]
    assert names("--name", f"amber {tag}") == ["amber"]
    assert names("--property", "colour=cold") == ["cobalt"]
    assert names("--status", "queued") == ["amber"]

    openstack("set", f"amber {tag}", "--hidden")
    assert names() == ["cobalt"]
    assert names("--hidden") == ["amber"]
    openstack("set", f"amber {tag}", "--unhidden")
    assert sorted(names()) == ["amber", "cobalt"]


def test_properties_and_tags_are_set_and_unset(read: Any, openstack: Run) -> None:
    image_id = read("create", "to be changed", "--property", "stays=1", "--tag", "old")["id"]
    openstack("set", image_id, "--name", "changed", "--tag", "new", "--property", "goes=2")
    changed = read("show", image_id)
    assert changed["name"] == "changed"
    assert sorted(changed["tags"]) == ["new", "old"]
    assert changed["properties"]["goes"] == "2"

    openstack("unset", image_id, "--property", "goes", "--tag", "old")
    after = read("show", image_id)
    assert after["tags"] == ["new"]
    assert after["properties"]["stays"] == "1"
    assert "goes" not in after["properties"]


def test_a_protected_image_stays_until_it_is_unprotected(read: Any, openstack: Run) -> None:
    image_id = read("create", "guarded", "--protected")["id"]
    refused = openstack("delete", image_id, code=1)
    assert f"403 Forbidden: Image {image_id} is protected and cannot be deleted." in refused.stderr
    openstack("set", image_id, "--unprotected")
    openstack("delete", image_id)
    assert f"No Image found for {image_id}" in openstack("show", image_id, code=1).stderr


def test_an_image_is_deactivated_and_activated(
    read: Any, openstack: Run, disk: tuple[str, ...]
) -> None:
    image_id = read("create", "paused", *disk)["id"]
    openstack("set", image_id, "--deactivate")
    assert read("show", image_id)["status"] == "deactivated"
    openstack("set", image_id, "--activate")
    assert read("show", image_id)["status"] == "active"


def test_the_members_of_an_image_are_listed(read: Any) -> None:
    """Only the list: `image add project`, `remove project` and `set --accept` first look the
    project up in Keystone, which an installation without authentication has none of, so members
    are changed in the tests of the two libraries.
    """
    image_id = read("create", "alone", "--shared")["id"]
    assert read("member", "list", image_id) == []


def test_a_refusal_tells_which_property_and_why(openstack: Run) -> None:
    refused = openstack("create", "odd", "--property", "protected=maybe", code=1)
    assert "400 Bad Request: Property 'protected' must be true or false" in refused.stderr
    refused = openstack("create", "x" * 256, code=1)
    assert "400 Bad Request" in refused.stderr
    assert "'name'" in refused.stderr
