"""The image aggregate, given events: which wish in which state gives which events."""

from typing import Any

import orjson
import pytest

from calotype.commands.errors import Conflict, Forbidden, Gone, Invalid, NotFound
from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.image import Image, create
from calotype.commands.images.image_state import DOOMED, INTENDED, STORED
from calotype.commands.policy.actor import Cause
from calotype.stores.log.log import event_mapper

CAUSE = Cause({"user": "u1", "project": "p1", "roles": ["member"]}, "req-1", None, "c1")
IMAGE_ID = "11111111-2222-3333-4444-555555555555"
FIELDS: dict[str, Any] = {
    "name": None,
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "owner": "p1",
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 0,
    "min_ram": 0,
}
UPLOAD = {"upload_id": "up1", "store": "default", "url": "file:///s/k1", "holder": "h1"}
OUTCOME = {
    "url": "file:///s/k1",
    "size": 3,
    "virtual_size": None,
    "checksum": "c" * 32,
    "os_hash_algo": "sha512",
    "os_hash_value": "d" * 128,
}


def queued(**fields: Any) -> Image:
    """An image as created, with nothing pending."""
    image = create(
        CAUSE, image_id=IMAGE_ID, fields={**FIELDS, **fields}, tags=["a"], properties={"k": "v"}
    )
    image.collect_events()
    return image


def saving(**fields: Any) -> Image:
    image = queued(**fields)
    image.start_upload(CAUSE, **UPLOAD)
    image.collect_events()
    return image


def active(**fields: Any) -> Image:
    image = saving(**fields)
    image.store_data(CAUSE, upload_id="up1", **OUTCOME)
    image.collect_events()
    return image


def topics(image: Image) -> list[str]:
    """What happened since, and clears it."""
    return [event.TOPIC for event in image.collect_events()]


def test_an_upload_is_an_intent_and_an_outcome() -> None:
    image = queued()
    image.start_upload(CAUSE, **UPLOAD)
    assert image.status == "saving"
    assert image.blobs["file:///s/k1"].state == INTENDED
    image.store_data(CAUSE, upload_id="up1", **OUTCOME)
    assert topics(image) == ["image.upload_started", "image.data_stored"]
    assert (image.status, image.size, image.checksum) == ("active", 3, "c" * 32)
    assert image.blobs["file:///s/k1"].state == STORED
    assert image.locations == [{"url": "file:///s/k1", "metadata": {"store": "default"}}]


def test_data_needs_both_formats() -> None:
    for name in ("disk_format", "container_format"):
        with pytest.raises(Invalid, match=name):
            queued(**{name: None}).start_upload(CAUSE, **UPLOAD)


@pytest.mark.parametrize("make", [saving, active])
def test_only_a_queued_image_takes_data(make) -> None:
    with pytest.raises(Conflict):
        make().start_upload(CAUSE, **{**UPLOAD, "upload_id": "up2"})


def test_a_failed_upload_leaves_a_queued_image_and_garbage() -> None:
    image = saving()
    image.fail_upload(CAUSE, upload_id="up1", reason="disk full")
    assert (image.status, image.size) == ("queued", None)
    assert image.blobs["file:///s/k1"].state == DOOMED
    image.note_data_removed(CAUSE, url="file:///s/k1", reason="gone")
    assert image.blobs == {}
    assert topics(image) == ["image.upload_failed", "image.data_removed"]


def test_the_end_of_an_upload_that_was_given_up_changes_nothing() -> None:
    image = saving()
    image.fail_upload(CAUSE, upload_id="up1", reason="the process died")
    image.start_upload(CAUSE, **{**UPLOAD, "upload_id": "up2", "url": "file:///s/k2"})
    image.collect_events()
    with pytest.raises(Gone):
        image.store_data(CAUSE, upload_id="up1", **OUTCOME)
    image.fail_upload(CAUSE, upload_id="up1", reason="again")
    assert topics(image) == []
    assert image.status == "saving"


def test_deleting_in_mid_upload_dooms_the_bytes_and_the_uploader_is_told() -> None:
    image = saving()
    image.delete(CAUSE)
    assert image.blobs["file:///s/k1"].state == DOOMED
    with pytest.raises(Gone):
        image.store_data(CAUSE, upload_id="up1", **OUTCOME)


def test_the_bytes_of_a_deleted_image_stay_its_uploaders_until_the_upload_ends() -> None:
    image = saving()
    image.delete(CAUSE)
    assert image.blobs["file:///s/k1"].holder == "h1"
    image.fail_upload(CAUSE, upload_id="up1", reason="the image was deleted")
    assert image.blobs["file:///s/k1"].holder is None
    assert image.status == "deleted"
    assert topics(image) == ["image.deleted", "image.upload_failed"]


def test_a_protected_image_cannot_be_deleted() -> None:
    image = active(protected=True)
    with pytest.raises(Forbidden, match="protected"):
        image.delete(CAUSE)
    assert topics(image) == []


def test_deactivation_and_back_and_twice_is_no_change() -> None:
    image = active()
    image.deactivate(CAUSE)
    image.deactivate(CAUSE)
    assert image.status == "deactivated"
    image.reactivate(CAUSE)
    image.reactivate(CAUSE)
    assert topics(image) == ["image.deactivated", "image.reactivated"]
    for wish in (queued().deactivate, saving().reactivate):
        with pytest.raises(Forbidden):
            wish(CAUSE)


def test_bytes_of_an_active_image_never_return_to_queued() -> None:
    image = active()
    image.fail_upload(CAUSE, upload_id="up1", reason="late")
    assert (image.status, topics(image)) == ("active", [])


def test_formats_are_fixed_once_there_is_data() -> None:
    change = {"fields": {"disk_format": "qcow2"}, "properties": {}, "removed_properties": []}
    image = queued()
    image.update(CAUSE, **change, tags=None)
    assert image.fields["disk_format"] == "qcow2"
    with pytest.raises(Forbidden, match="disk_format"):
        active().update(CAUSE, **change, tags=None)


def test_tags_are_a_set_that_keeps_its_order() -> None:
    image = queued()
    image.add_tag(CAUSE, "a")
    image.add_tag(CAUSE, "b")
    assert (image.tags, topics(image)) == (["a", "b"], ["image.tag_added"])
    image.remove_tag(CAUSE, "a")
    assert image.tags == ["b"]
    with pytest.raises(NotFound):
        image.remove_tag(CAUSE, "a")


def test_a_member_added_again_is_pending_and_keeps_its_first_date() -> None:
    image = active()
    image.add_member(CAUSE, "p2")
    with pytest.raises(Conflict):
        image.add_member(CAUSE, "p2")
    image.set_member_status(CAUSE, "p2", "accepted")
    first = image.members["p2"].created_at
    image.remove_member(CAUSE, "p2")
    with pytest.raises(NotFound):
        image.set_member_status(CAUSE, "p2", "accepted")
    image.add_member(CAUSE, "p2")
    assert (image.members["p2"].status, image.members["p2"].created_at) == ("pending", first)


def test_members_do_not_change_when_the_image_was_updated() -> None:
    image = active()
    before = image.updated_at
    image.add_member(CAUSE, "p2")
    assert image.updated_at == before


def test_every_event_says_who_when_and_by_which_request() -> None:
    image = queued()
    image.add_tag(CAUSE, "x")
    (event,) = image.pending_events
    stored = orjson.loads(event_mapper().to_stored_event(event).state)
    assert stored["actor"] == {"user": "u1", "project": "p1", "roles": ["member"]}
    assert (stored["request_id"], stored["command_id"]) == ("req-1", "c1")
    assert stored["timestamp"].endswith("Z")
    assert "traceparent" in stored


def test_topics_are_names_and_not_module_paths() -> None:
    assert len(EVENT_TYPES) == 17
    for topic, kind in EVENT_TYPES.items():
        assert topic == kind.TOPIC
        assert topic.startswith("image.")
        assert ":" not in topic


def test_replaying_the_stored_events_gives_the_same_image() -> None:
    image = create(CAUSE, image_id=IMAGE_ID, fields=FIELDS, tags=[], properties={})
    image.add_tag(CAUSE, "x")
    image.start_upload(CAUSE, **UPLOAD)
    image.store_data(CAUSE, upload_id="up1", **OUTCOME)
    image.add_member(CAUSE, "p2")
    image.deactivate(CAUSE)
    mapper = event_mapper()
    again: Image | None = None
    for event in list(image.pending_events):
        again = mapper.to_domain_event(mapper.to_stored_event(event)).mutate(again)
    image.collect_events()
    assert vars(again) == vars(image)
