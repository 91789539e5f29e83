"""Given events of an image, then the notifications that Glance would send, in its order."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from calotype.commands.images.download import DataSent, download
from calotype.commands.images.events import DataRemoved, Purged, Restored
from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Cause
from calotype.projections.sinks import glance
from calotype.projections.sinks.glance import GlanceNotification

CAUSE = Cause({"user": "u1", "project": "p1", "roles": ["member"]}, "req-1", None, "c1")
ID = "8c1f1c2e-6f0b-4c52-9f0e-6d8b0b4c1a77"
URL = "file:///images/x"
IMAGE_KEYS = {
    "id", "name", "status", "created_at", "updated_at", "min_disk", "min_ram", "protected",
    "checksum", "owner", "disk_format", "container_format", "size", "virtual_size", "is_public",
    "visibility", "properties", "tags", "deleted", "deleted_at",
}  # fmt: skip
"""What consumers of Glance find in the payload of an image."""
MEMBER_KEYS = {
    "image_id", "member_id", "status", "created_at", "updated_at", "deleted", "deleted_at",
}  # fmt: skip
FIELDS = {
    "name": "debian",
    "visibility": "public",
    "protected": False,
    "os_hidden": False,
    "owner": "p1",
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 1,
    "min_ram": 2,
}

Wish = Callable[[Image], None]


def told(*wishes: Wish) -> list[list[GlanceNotification]]:
    """What is told of the creation and of each wish after it; events are folded one by one."""
    image = create(
        CAUSE, image_id=ID, fields=FIELDS, tags=["t"], properties={"os_distro": "debian"}
    )
    for wish in wishes:
        wish(image)
    folded: Any = None
    lists = []
    for event in image.collect_events():
        before = glance.kept(folded)
        folded = event.mutate(folded)
        lists.append(glance.notifications_of(before, event, folded))
    return lists


def names(lists: list[list[GlanceNotification]]) -> list[list[tuple[str, str]]]:
    return [
        [(each.event_type, each.payload["status"]) for each in some if type(each.payload) is dict]
        for some in lists
    ]


def start(image: Image) -> None:
    image.start_upload(CAUSE, upload_id="u", store="fast", url=URL, holder="h")


def store(image: Image) -> None:
    image.store_data(
        CAUSE,
        upload_id="u",
        url=URL,
        size=10,
        virtual_size=20,
        checksum="c",
        os_hash_algo="sha512",
        os_hash_value="v",
    )


def fail(image: Image) -> None:
    image.fail_upload(CAUSE, upload_id="u", reason="the client closed the connection")


def delete(image: Image) -> None:
    image.delete(CAUSE)


def retain(image: Image) -> None:
    image.delete(CAUSE, retention_seconds=3600)


def test_a_new_image_is_told_with_every_key_of_glance_and_no_other() -> None:
    ((created,),) = told()
    assert (created.event_type, created.priority) == ("image.create", "INFO")
    assert isinstance(created.payload, dict)
    assert set(created.payload) == IMAGE_KEYS
    assert created.payload["properties"] == {"os_distro": "debian"}
    assert created.payload["tags"] == ["t"]
    assert created.payload["is_public"] is True
    assert (created.payload["deleted"], created.payload["deleted_at"]) == (False, None)
    assert created.payload["created_at"].endswith("Z")
    assert len(created.payload["created_at"]) == len("2026-01-02T03:04:05Z")


def test_an_upload_is_told_in_the_order_of_glance() -> None:
    assert names(told(start, store))[1:] == [
        [("image.update", "saving"), ("image.prepare", "saving")],
        [("image.upload", "active"), ("image.activate", "active"), ("image.update", "active")],
    ]


def test_prepare_and_upload_say_where_the_data_goes() -> None:
    _, (_, prepare), (upload, activate, _) = told(start, store)
    arrays = {"os_glance_importing_to_stores", "os_glance_failed_import"}
    assert isinstance(prepare.payload, dict)
    assert isinstance(upload.payload, dict)
    assert isinstance(activate.payload, dict)
    assert set(prepare.payload) == IMAGE_KEYS | arrays | {"backend"}
    assert prepare.payload["backend"] == "fast"
    assert set(upload.payload) == IMAGE_KEYS | arrays
    assert set(activate.payload) == IMAGE_KEYS
    assert (upload.payload["size"], upload.payload["virtual_size"]) == (10, 20)
    assert upload.payload["checksum"] == "c"


def test_a_refused_upload_is_an_error_in_plain_text_and_then_the_queued_image() -> None:
    failed, queued = told(start, fail)[2]
    assert failed == GlanceNotification("image.upload", "the client closed the connection", "ERROR")
    assert names([[queued]]) == [[("image.update", "queued")]]


def test_an_image_deleted_in_mid_upload_is_not_told_of_as_if_it_were_there() -> None:
    *_, gone, failed = told(start, delete, fail)
    assert names([gone]) == [[("image.delete", "deleted")]]
    assert [each.event_type for each in failed] == ["image.upload"]


def test_a_deletion_says_when() -> None:
    (gone,) = told(start, store, delete)[-1]
    assert isinstance(gone.payload, dict)
    assert set(gone.payload) == IMAGE_KEYS
    assert gone.payload["deleted"] is True
    assert gone.payload["deleted_at"] == gone.payload["updated_at"]
    assert gone.payload["size"] == 10


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        (lambda image: image.add_tag(CAUSE, "new"), "active"),
        (lambda image: image.remove_tag(CAUSE, "t"), "active"),
        (lambda image: image.deactivate(CAUSE), "deactivated"),
        (
            lambda image: image.update(
                CAUSE, fields={"name": "n"}, properties={}, removed_properties=[], tags=None
            ),
            "active",
        ),
    ],
    ids=["tag", "untag", "deactivate", "patch"],
)
def test_every_other_change_is_an_update(wish: Wish, status: str) -> None:
    assert names(told(start, store, wish))[-1:] == [[("image.update", status)]]


def test_a_restored_image_is_an_update_and_what_is_purged_is_nobodys_business() -> None:
    def restore(image: Image) -> None:
        image.trigger_event(Restored, deletion=4, restored_to="active", **CAUSE.facts())

    def purge(image: Image) -> None:
        assert image.deletion is not None
        until = image.deletion.retained_until
        image.trigger_event(
            Purged, deletion=4, retained_until=until, reason="over", **CAUSE.facts()
        )

    assert names(told(start, store, retain, restore))[-1] == [("image.update", "active")]
    assert told(start, store, retain, purge)[-1] == []


def test_members_are_told_with_their_own_keys() -> None:
    lists = told(
        lambda image: image.add_member(CAUSE, "p2"),
        lambda image: image.set_member_status(CAUSE, "p2", "accepted"),
        lambda image: image.remove_member(CAUSE, "p2"),
    )[1:]
    assert names(lists) == [
        [("image.member.create", "pending")],
        [("image.member.update", "accepted")],
        [("image.member.delete", "accepted")],
    ]
    payloads: list[Any] = [each.payload for (each,) in lists]
    assert all(set(payload) == MEMBER_KEYS for payload in payloads)
    assert all(payload["image_id"] == ID for payload in payloads)
    assert [payload["deleted"] for payload in payloads] == [False, False, True]
    assert payloads[2]["deleted_at"] is not None


def test_every_event_type_of_an_image_is_told_or_left_out_on_purpose() -> None:
    left_out = {Purged, DataRemoved}
    from calotype.commands.images.events import EVENT_TYPES

    assert set(glance._TOLD) | left_out == set(EVENT_TYPES.values())


@pytest.mark.parametrize(("asked", "priority"), [(10, "INFO"), (11, "ERROR")])
def test_a_download_says_who_got_how_much(asked: int, priority: str) -> None:
    over = download(CAUSE, uuid4(), image_id=ID, owner="p9", bytes_sent=10, bytes_asked=asked)
    (event,) = over.collect_events()
    assert isinstance(event, DataSent)
    assert glance.sent(event) == GlanceNotification(
        "image.send",
        {
            "bytes_sent": 10,
            "image_id": ID,
            "owner_id": "p9",
            "receiver_tenant_id": "p1",
            "receiver_user_id": "u1",
        },
        priority,
    )


@pytest.mark.parametrize(
    ("disabled", "muted"),
    [
        ([], set()),
        (["image.create"], {"image.create"}),
        (["image"], {"image.create", "image.member.create"}),
        (["image.member"], {"image.member.create"}),
        (["image.mem", "imag", "task"], set()),
    ],
)
def test_notifications_are_disabled_by_type_or_by_a_whole_beginning(
    disabled: list[str], muted: set[str]
) -> None:
    kinds = ("image.create", "image.member.create")
    assert {kind for kind in kinds if glance.is_disabled(kind, disabled)} == muted
