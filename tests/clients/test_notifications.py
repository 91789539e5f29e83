"""What Glance's consumers get: a real oslo.messaging listener, and a real ceilometer."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.backends.ceilometer import PROGRAMS, Ceilometer, oslo_url
from tests.backends.processes import spawn

pytestmark = pytest.mark.slow

OCTETS = {"Content-Type": "application/octet-stream"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
IMAGE_KEYS = {
    "id", "name", "status", "created_at", "updated_at", "min_disk", "min_ram", "protected",
    "checksum", "owner", "disk_format", "container_format", "size", "virtual_size", "is_public",
    "visibility", "properties", "tags", "deleted", "deleted_at",
}  # fmt: skip
MEMBER_KEYS = {
    "image_id", "member_id", "status", "created_at", "updated_at", "deleted", "deleted_at",
}  # fmt: skip
SEND_KEYS = {"bytes_sent", "image_id", "owner_id", "receiver_tenant_id", "receiver_user_id"}
UPLOAD_KEYS = IMAGE_KEYS | {"os_glance_importing_to_stores", "os_glance_failed_import"}
KEYS = {
    "image.prepare": UPLOAD_KEYS | {"backend"},
    "image.upload": UPLOAD_KEYS,
    "image.send": SEND_KEYS,
    "image.member.create": MEMBER_KEYS,
    "image.member.update": MEMBER_KEYS,
    "image.member.delete": MEMBER_KEYS,
}
"""Of types that have other keys than an image's."""


class Listener:
    """Runs oslo_listener.py, and collects what it is told."""

    def __init__(self, url: str, exchange: str, topic: str) -> None:
        script = Path(__file__).with_name("oslo_listener.py")
        self.told: list[dict[str, Any]] = []
        self.process = spawn(
            [PROGRAMS / "python", script, oslo_url(url), exchange, topic],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def types(self) -> list[str]:
        return [each["event_type"] for each in self.told]


@pytest.fixture
def topic() -> str:
    return f"n{os.urandom(4).hex()}"


@pytest.fixture
def listener(rabbitmq: Any, topic: str) -> Iterator[Listener]:
    listener = Listener(rabbitmq.url, f"x{topic}", topic)
    yield listener
    listener.process.kill()
    listener.process.wait()


@pytest.fixture
def notifying(make_service: Any, rabbitmq: Any, topic: str) -> Any:
    """A service, not yet started, with a sink as oslo.messaging's defaults want it."""
    return make_service(
        CALOTYPE_IDENTITY__KIND="headers",
        CALOTYPE_AUDIT__DOWNLOADS="true",
        CALOTYPE_SINKS__TELEMETRY__KIND="rabbitmq",
        CALOTYPE_SINKS__TELEMETRY__URLS=json.dumps([rabbitmq.url]),
        CALOTYPE_SINKS__TELEMETRY__EXCHANGE=f"x{topic}",
        CALOTYPE_SINKS__TELEMETRY__TOPICS=json.dumps([topic]),
    )


def asked(service: Any, method: str, path: str, project: str = "owner", **more: Any) -> Any:
    headers = {"X-User-Id": f"u-{project}", "X-Project-Id": project, "X-Roles": "member"}
    headers |= more.pop("headers", {})
    answer = requests.request(method, service.url + path, headers=headers, timeout=30, **more)
    assert answer.status_code < 300, answer.text
    return answer


def live(service: Any) -> str:
    """Everything that an image goes through, by two projects; its id."""
    body = {
        "name": "debian",
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "shared",
        "tags": ["stable"],
        "os_distro": "debian",
    }
    image_id: str = asked(service, "POST", "/v2/images", json=body).json()["id"]
    path = f"/v2/images/{image_id}"
    wrong = requests.put(
        f"{service.url}{path}/file",
        data=b"x" * 10,
        headers={
            "X-User-Id": "u",
            "X-Project-Id": "owner",
            "X-Roles": "member",
            "Content-MD5": "0" * 32,
            **OCTETS,
        },
        timeout=30,
    )
    assert wrong.status_code == 400, wrong.text
    asked(service, "PUT", f"{path}/file", data=b"x" * 1000, headers=OCTETS)
    change = [{"op": "replace", "path": "/name", "value": "debian 13"}]
    asked(service, "PATCH", path, data=json.dumps(change), headers=PATCH)
    asked(service, "PUT", f"{path}/tags/new")
    asked(service, "POST", f"{path}/members", json={"member": "friend"})
    asked(service, "PUT", f"{path}/members/friend", "friend", json={"status": "accepted"})
    assert asked(service, "GET", f"{path}/file", "friend").content == b"x" * 1000
    asked(service, "DELETE", f"{path}/members/friend")
    asked(service, "DELETE", path)
    return image_id


def test_an_oslo_messaging_listener_reads_what_glance_would_have_sent(
    notifying: Any, listener: Listener, until: Any
) -> None:
    notifying.start()
    image_id = live(notifying)
    until(lambda: len(listener.told) == 17)
    told = listener.told
    # The two queues are read side by side; within one the order is Glance's. A download becomes
    # an event after its answer, so the next change may be told of before it.
    told_info = [each["event_type"] for each in told if each["priority"] == "INFO"]
    assert [kind for kind in told_info if kind != "image.send"] == [
        "image.create",
        *("image.update", "image.prepare", "image.update"),
        *("image.update", "image.prepare", "image.upload", "image.activate", "image.update"),
        *("image.update", "image.update"),
        *("image.member.create", "image.member.update", "image.member.delete"),
        "image.delete",
    ]
    (failed,) = [each for each in told if each["priority"] == "ERROR"]
    assert failed["event_type"] == "image.upload"
    assert type(failed["payload"]) is str
    for each in told:
        assert set(each["context"]) <= {"client_timeout"}, "the listener itself adds that"
        assert each["publisher_id"] == "image.localhost"
        assert set(each["metadata"]) == {"message_id", "timestamp"}
        if each["priority"] == "INFO":
            expected = KEYS.get(each["event_type"], IMAGE_KEYS)
            assert set(each["payload"]) == expected, each["event_type"]
            assert each["payload"].get("id", each["payload"].get("image_id")) == image_id
    payload = {each["event_type"]: each["payload"] for each in told}
    assert payload["image.create"]["properties"] == {"os_distro": "debian"}
    assert payload["image.send"] == {
        "bytes_sent": 1000,
        "image_id": image_id,
        "owner_id": "owner",
        "receiver_tenant_id": "friend",
        "receiver_user_id": "u-friend",
    }
    assert payload["image.delete"]["deleted"] is True


def test_disabled_notifications_are_not_sent(
    notifying: Any, listener: Listener, until: Any
) -> None:
    disabled = json.dumps(["image.member", "image.send", "image.update", "image.prepare"])
    notifying.environment["CALOTYPE_SINKS__TELEMETRY__DISABLED_NOTIFICATIONS"] = disabled
    notifying.start()
    live(notifying)
    until(lambda: "image.delete" in listener.types())
    until(lambda: len(listener.told) == 5)
    assert sorted(listener.types()) == sorted(
        ["image.create", "image.upload", "image.upload", "image.activate", "image.delete"]
    )


def test_ceilometer_makes_its_meters_and_events(
    notifying: Any, rabbitmq: Any, topic: str, tmp_path: Path, until: Any
) -> None:
    notifying.start()
    image_id = live(notifying)
    folder = tmp_path / "ceilometer"
    with Ceilometer(folder, rabbitmq.url, exchange=f"x{topic}", topic=topic) as ceilometer:
        until(lambda: any(each["event_type"] == "image.delete" for each in ceilometer.events()))
        until(lambda: {"image.download", "image.serve"} <= set(meters(ceilometer)))
        until(lambda: len(meters(ceilometer)["image.size"]) == 5)
        found = meters(ceilometer)
        events = {each["event_type"]: each for each in ceilometer.events()}
    # Of five with a size: an upload, three updates since, the deletion.
    assert {
        (each["volume"], each["resource_id"], each["project_id"]) for each in found["image.size"]
    } == {(1000, image_id, "owner")}
    (download,), (serve,) = found["image.download"], found["image.serve"]
    assert (download["volume"], download["unit"], download["type"]) == (1000, "B", "delta")
    assert (download["user_id"], download["project_id"]) == ("u-friend", "friend")
    assert (serve["volume"], serve["project_id"]) == (1000, "owner")
    assert download["resource_id"] == serve["resource_id"] == image_id
    traits = {each["name"]: each["value"] for each in events["image.delete"]["traits"]}
    assert traits["resource_id"] == image_id
    assert traits["project_id"] == "owner"
    assert traits["status"] == "deleted"
    assert traits["size"] == 1000
    assert "deleted_at" in traits
    sent = {each["name"]: each["value"] for each in events["image.send"]["traits"]}
    assert sent["receiver_project"] == "friend"
    assert sent["bytes_sent"] == 1000


def meters(ceilometer: Ceilometer) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for sample in ceilometer.samples():
        found.setdefault(sample["name"], []).append(sample)
    return found
