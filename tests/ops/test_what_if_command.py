"""`calotype replay --policy`: what a stricter file breaks, told beside a service that runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
PATCH = "application/openstack-images-v2.1-json-patch"
STRICTER = """
# Members of a project no longer delete; what is public is named by curators.
delete_image: "rule:context_is_admin"
modify_image: "rule:context_is_admin or (role:member and project_id:%(project_id)s and
  not 'public':%(visibility)s)"
download_image: "rule:context_is_admin or (role:member and project_id:%(project_id)s)"
"""


class Caller:
    """A user of a project who talks to a service that believes headers."""

    def __init__(self, service: Any, user: str, project: str, roles: str = "member") -> None:
        self._url = service.url
        self._user = user
        self._headers = {"X-User-Id": user, "X-Project-Id": project, "X-Roles": roles}
        self._count = 0

    def __call__(self, method: str, path: str, status: int, **more: Any) -> Any:
        self._count += 1
        headers = {"X-Openstack-Request-Id": f"req-{self._user}-{self._count}", **self._headers}
        headers |= more.pop("headers", {})
        url = f"{self._url}/v2/images{path}"
        answer = requests.request(method, url, headers=headers, timeout=30, **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.status_code in (200, 201) and path[-5:] != "/file" else None


@pytest.fixture
def story(service: Any) -> Any:
    """A service on either log with a short history, still running."""
    return (service, *told(service))


@pytest.fixture
def short_story(make_service: Any) -> Any:
    """The same on the embedded log, which is enough where nothing depends on it."""
    service = make_service()
    return (service, *told(service))


def told(service: Any) -> tuple[str, str]:
    """Starts the service and tells a short history of four users; the ids of two images."""
    service.environment |= {
        "CALOTYPE_IDENTITY__KIND": "headers",
        "CALOTYPE_AUDIT__DOWNLOADS": "true",
        "CALOTYPE_DELETION__RETENTION_SECONDS": "3600",
    }
    service.start()
    ann, bob = Caller(service, "ann", "p1"), Caller(service, "bob", "p1")
    cid, eve = Caller(service, "cid", "p2"), Caller(service, "eve", "p9", "admin")
    one = ann("POST", "", 201, json={"name": "[red]one[/red]", **FORMATS})["id"]
    two = bob("POST", "", 201, json={"name": "two"})["id"]
    octets = {"Content-Type": "application/octet-stream"}
    ann("PUT", f"/{one}/file", 204, data=b"0123456789", headers=octets)
    publish = [{"op": "replace", "path": "/visibility", "value": "public"}]
    eve("PATCH", f"/{one}", 200, json=publish, headers={"Content-Type": PATCH})
    ann("PUT", f"/{one}/tags/late", 204)
    cid("GET", f"/{one}/file", 200)
    cid("DELETE", f"/{one}", 403)
    bob("DELETE", f"/{two}", 204)
    eve("DELETE", f"/{one}", 204)
    return one, two


def _lines(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_a_stricter_file_breaks_is_listed_with_who_and_by_which_request(
    story: Any, tmp_path: Path, until: Any
) -> None:
    service, one, two = story
    file, same = tmp_path / "stricter.yaml", tmp_path / "same.yaml"
    file.write_text(STRICTER)
    same.write_text("# Nothing differs.\n")
    # The record of a download is written after its answer.
    until(lambda: "image.data_sent" in service.run("log", "tail", "--json").stdout)
    done = service.run("replay", "--policy", str(file), "--json")
    assert done.returncode == 0, done.stderr
    *changes, summary = _lines(done)
    told = [
        (c["type"], c["image_id"], c["actor"]["user"], c["request_id"], c["rule"], c["then"])
        for c in changes
    ]
    assert sorted(told) == sorted([
        ("image.tag_added", one, "ann", "req-ann-3", "modify_image", "403 Forbidden"),
        ("image.data_sent", one, "cid", "req-cid-1", "download_image", "403 Forbidden"),
        ("image.deleted", two, "bob", "req-bob-2", "delete_image", "403 Forbidden"),
    ])  # fmt: skip
    assert {change["now"] for change in changes} == {"allowed"}
    counts = summary["summary"]
    assert (counts["changes"], counts["decided_otherwise"]) == (9, 3)
    assert {(row["rule"], row["changes"]) for row in counts["by_rule"]} == {
        ("modify_image", 1), ("download_image", 1), ("delete_image", 1)
    }  # fmt: skip
    assert {(row["user"], row["project"]) for row in counts["by_user"]} == {
        ("ann", "p1"), ("bob", "p1"), ("cid", "p2")
    }  # fmt: skip
    # From a position to another, and as an exit code for a pipeline.
    position = changes[0]["position"]
    part = ("--from", position, "--until", position)
    only = service.run("replay", "--policy", str(file), "--json", "--fail-if-any", *part)
    assert (only.returncode, _lines(only)[:-1]) == (1, changes[:1])
    nothing = service.run("replay", "--policy", str(same), "--json", "--fail-if-any")
    assert (nothing.returncode, len(_lines(nothing))) == (0, 1)
    table = service.run("replay", "--policy", str(file))
    for text in ("req-cid-1", "image.data_sent", "bob of p1", "allowed -> 403 Forbidden"):
        assert text in table.stdout
    assert "3 of 9 changes would be decided otherwise" in table.stdout
    assert "What was refused is no event" in table.stdout
    # With the stricter file in force, the other direction is told as well.
    service.environment["CALOTYPE_POLICY__FILE"] = str(file)
    *opened, _ = _lines(service.run("replay", "--policy", str(same), "--json"))
    assert [(c["position"], c["now"], c["then"]) for c in opened] == [
        (c["position"], c["then"], c["now"]) for c in changes
    ]


def test_property_protections_are_tried_the_same_way(short_story: Any, tmp_path: Path) -> None:
    service, *_ = short_story
    ann = Caller(service, "ann", "p1")
    three = ann("POST", "", 201, json={"name": "three", "x_code": "1", "free": "1"})["id"]
    remove = [{"op": "remove", "path": "/free"}]
    ann("PATCH", f"/{three}", 200, json=remove, headers={"Content-Type": PATCH})
    file = tmp_path / "protections.conf"
    open_section = "create = @\nread = @\nupdate = @\ndelete = @\n"
    closed = open_section.replace("create = @", "create = billing")
    file.write_text(f"[^x_]\n{closed}[.*]\n{open_section}".replace("delete = @", "delete = !"))
    done = service.run("replay", "--property-protections", str(file), "--json")
    *changes, _ = _lines(done)
    assert [(c["type"], c["image_id"], c["rule"], c["then"]) for c in changes] == [
        ("image.created", three, "property 'x_code' create", "403 Forbidden"),
        ("image.updated", three, "property 'free' delete", "403 Forbidden"),
    ]


def test_what_is_done_from_the_shell_is_left_out(short_story: Any, tmp_path: Path) -> None:
    service, one, _ = short_story
    assert service.run("restore", one).returncode == 0
    file = tmp_path / "nobody.yaml"
    file.write_text('context_is_admin: "!"\nrestore_image: "!"\n')
    *changes, _ = _lines(service.run("replay", "--policy", str(file), "--json"))
    assert "image.restored" not in [change["type"] for change in changes]
    assert {change["actor"]["user"] for change in changes} == {"eve"}


def test_what_cannot_be_tried_is_one_message(make_service: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text('get_image: "rule:tpyo"\n')
    service = make_service()
    service.folder.mkdir()
    assert service.run("migrate").returncode == 0
    for arguments, text in (
        (("--policy", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--policy", str(broken)), "broken.yaml, line 1: rule 'get_image' refers to rule 'tpyo'"),
        (("--property-protections", str(broken)), "broken.yaml: line 1: stands before the first"),
        (("--policy", str(broken), "--to", "sink"), "--to"),
        (("--policy", str(broken), "--dry-run"), "--dry-run: belongs to --to"),
        (("--fail-if-any",), "--policy FILE"),
    ):
        done = service.run("replay", *arguments)
        assert done.returncode == 2, arguments
        assert text in done.stderr
        assert "Traceback" not in done.stderr
