"""The events of an image: what happened, and what follows from it.

`apply` of an event is the only code that changes an image's state, so the same fold serves
commands, projections and replay. Each field is marked for what it can tell of a person.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from eventsourcing.domain import Aggregate
from eventsourcing.utils import register_topic

from calotype.commands.images.image_state import (
    DOOMED,
    INTENDED,
    RETAINED,
    STORED,
    Blob,
    Deletion,
    ImageState,
    Member,
)
from calotype.commands.marks import FreeText, Personal, Technical


def api_time(moment: datetime) -> str:
    """A moment as the Image API prints it: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).isoformat()[:19] + "Z"


def clock_text(moment: datetime) -> str:
    """A moment in UTC with microseconds, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


SETTLED = ("active", "deactivated")
"""The statuses of an image whose data is complete."""


class ImageEvent(Aggregate.Event):
    """What every event of an image carries beside its id, version and time."""

    TOPIC = ""
    MAKES_ROOM = False
    """Whether bytes can be removed that could not be before."""
    actor: Personal[dict[str, Any]]
    request_id: FreeText[str]
    traceparent: Technical[str | None]
    command_id: Technical[str]


class Created(ImageEvent, Aggregate.Created):
    """An image was registered; it is queued, without data."""

    TOPIC = "image.created"
    image_id: Technical[str]
    fields: FreeText[dict[str, Any]]
    tags: FreeText[list[str]]
    properties: FreeText[dict[str, str | None]]

    def apply(self, image: ImageState) -> None:
        image.created_at = api_time(self.timestamp)


class Updated(ImageEvent):
    """Metadata changed: base fields, custom properties, and the whole tag list if given."""

    TOPIC = "image.updated"
    fields: FreeText[dict[str, Any]]
    properties: FreeText[dict[str, str | None]]
    removed_properties: FreeText[list[str]]
    tags: FreeText[list[str] | None]

    def apply(self, image: ImageState) -> None:
        image.fields.update(self.fields)
        image.properties.update(self.properties)
        for name in self.removed_properties:
            image.properties.pop(name, None)
        if self.tags is not None:
            image.tags = list(self.tags)
        image.changed_on = self.timestamp


class TagAdded(ImageEvent):
    """A tag was added."""

    TOPIC = "image.tag_added"
    tag: FreeText[str]

    def apply(self, image: ImageState) -> None:
        image.tags.append(self.tag)
        image.changed_on = self.timestamp


class TagRemoved(ImageEvent):
    """A tag was removed."""

    TOPIC = "image.tag_removed"
    tag: FreeText[str]

    def apply(self, image: ImageState) -> None:
        image.tags.remove(self.tag)
        image.changed_on = self.timestamp


class UploadStarted(ImageEvent):
    """Bytes are about to be written at `url` by the process `holder`.

    `announced_size` is how many the client will send, where it has said so: from now on they
    count as used.
    """

    TOPIC = "image.upload_started"
    class_version = 2
    FIELDS_SINCE = {"announced_size": 2}
    upload_id: Technical[str]
    store: Technical[str]
    url: Technical[str]
    holder: Technical[str]
    announced_size: Technical[int | None]

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["announced_size"] = None

    def apply(self, image: ImageState) -> None:
        image.status = "saving"
        image.upload_id = self.upload_id
        image.announced_size = self.announced_size
        image.blobs[self.url] = Blob(self.url, self.store, INTENDED, self.upload_id, self.holder)
        image.changed_on = self.timestamp


class UploadFailed(ImageEvent):
    """The upload ended without data; whatever it wrote is removed."""

    TOPIC = "image.upload_failed"
    MAKES_ROOM = True
    upload_id: Technical[str]
    reason: FreeText[str]

    def apply(self, image: ImageState) -> None:
        for blob in image.blobs.values():
            if blob.upload_id == self.upload_id:
                blob.state, blob.holder = DOOMED, None
        if image.status == "saving" and image.upload_id == self.upload_id:
            image.status = "queued"
            image.upload_id = image.announced_size = None
            image.size = image.virtual_size = None
            image.changed_on = self.timestamp


class DataStored(ImageEvent):
    """The bytes are durable: size, hashes and place are fixed from now on."""

    TOPIC = "image.data_stored"
    upload_id: Technical[str]
    url: Technical[str]
    size: Technical[int]
    virtual_size: Technical[int | None]
    checksum: Technical[str]
    os_hash_algo: Technical[str]
    os_hash_value: Technical[str]

    def apply(self, image: ImageState) -> None:
        image.status = "active"
        image.upload_id = image.announced_size = None
        blob = image.blobs[self.url]
        blob.state, blob.holder = STORED, None
        image.locations.append({"url": self.url, "metadata": {"store": blob.store}})
        image.size, image.virtual_size = self.size, self.virtual_size
        image.checksum = self.checksum
        image.os_hash_algo, image.os_hash_value = self.os_hash_algo, self.os_hash_value
        image.changed_on = self.timestamp


class LocationsChanged(ImageEvent):
    """The list of places was set by hand; a queued image that has one now is active."""

    TOPIC = "image.locations_changed"
    locations: FreeText[list[dict[str, Any]]]
    stores: FreeText[dict[str, str]]
    size: Technical[int | None]
    checksum: FreeText[str | None]
    os_hash_algo: Technical[str | None]
    os_hash_value: FreeText[str | None]

    def apply(self, image: ImageState) -> None:
        urls = {place["url"] for place in self.locations}
        for url in urls:
            image.blobs[url] = Blob(url, self.stores[url], STORED)
        for url, blob in image.blobs.items():
            if blob.state == STORED and url not in urls:
                blob.state = DOOMED
        image.locations = [dict(place) for place in self.locations]
        image.status = "active"
        image.size, image.checksum = self.size, self.checksum
        image.os_hash_algo, image.os_hash_value = self.os_hash_algo, self.os_hash_value
        image.changed_on = self.timestamp


class Deactivated(ImageEvent):
    """The image's data is closed to all but administrators."""

    TOPIC = "image.deactivated"

    def apply(self, image: ImageState) -> None:
        image.status = "deactivated"
        image.changed_on = self.timestamp


class Reactivated(ImageEvent):
    """The image's data is open again, as before it was deactivated."""

    TOPIC = "image.reactivated"

    def apply(self, image: ImageState) -> None:
        image.status = "active"
        image.changed_on = self.timestamp


class Deleted(ImageEvent):
    """The image is gone for its users; its id stays taken.

    Until `retained_until` it can be restored, and its bytes are kept. Without that they are
    removed at once, as is what an upload was writing.
    """

    TOPIC = "image.deleted"
    MAKES_ROOM = True
    class_version = 2
    FIELDS_SINCE = {"retained_until": 2}
    retained_until: Technical[str | None]

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["retained_until"] = None

    def apply(self, image: ImageState) -> None:
        kept = RETAINED if self.retained_until else DOOMED
        for blob in image.blobs.values():
            blob.state = kept if blob.state == STORED else DOOMED
        image.deletion = Deletion(
            version=self.originator_version,
            deleted_at=clock_text(self.timestamp),
            actor=self.actor,
            # An upload that was under way has ended: there is no data to come back to.
            restores_to=image.status if image.status in SETTLED else "queued",
            retained_until=self.retained_until,
        )
        image.status = "deleted"
        image.upload_id = image.announced_size = None
        image.changed_on = self.timestamp


class Restored(ImageEvent):
    """The deletion with the number `deletion` is taken back, with all that the image had."""

    TOPIC = "image.restored"
    deletion: Technical[int]
    restored_to: Technical[str]

    def apply(self, image: ImageState) -> None:
        for blob in image.blobs.values():
            if blob.state == RETAINED:
                blob.state = STORED
        image.status = self.restored_to
        image.deletion = None
        image.changed_on = self.timestamp


class Purged(ImageEvent):
    """What a deleted image had kept is about to be removed, and why.

    It cannot be restored from here on; an `image.data_removed` follows when bytes are gone.
    """

    TOPIC = "image.purged"
    MAKES_ROOM = True
    deletion: Technical[int]
    retained_until: Technical[str]
    reason: FreeText[str]

    def apply(self, image: ImageState) -> None:
        assert image.deletion is not None
        for blob in image.blobs.values():
            if blob.state == RETAINED:
                blob.state = DOOMED
        image.deletion = replace(
            image.deletion, purged_at=clock_text(self.timestamp), purge_reason=self.reason
        )


class DataRemoved(ImageEvent):
    """Bytes at `url` that the image has no use for any more are gone from their store."""

    TOPIC = "image.data_removed"
    MAKES_ROOM = True
    url: FreeText[str]
    reason: FreeText[str]

    def apply(self, image: ImageState) -> None:
        image.blobs.pop(self.url, None)


class MemberAdded(ImageEvent):
    """The image was offered to the project `member`, whose answer is pending."""

    TOPIC = "image.member_added"
    member: FreeText[str]

    def apply(self, image: ImageState) -> None:
        now = api_time(self.timestamp)
        created_at = image.former_members.pop(self.member, now)
        image.members[self.member] = Member("pending", created_at, now)


class MemberStatusSet(ImageEvent):
    """The answer to the offer: `status` is accepted, rejected or pending again."""

    TOPIC = "image.member_status_set"
    member: FreeText[str]
    status: Technical[str]

    def apply(self, image: ImageState) -> None:
        member = image.members[self.member]
        member.status, member.updated_at = self.status, api_time(self.timestamp)


class MemberRemoved(ImageEvent):
    """The offer to the project `member` was withdrawn."""

    TOPIC = "image.member_removed"
    member: FreeText[str]

    def apply(self, image: ImageState) -> None:
        image.former_members[self.member] = image.members.pop(self.member).created_at


EVENT_TYPES: dict[str, type[ImageEvent]] = {
    kind.TOPIC: kind for kind in ImageEvent.__subclasses__()
}
"""Every event type of an image by its topic."""
for topic, kind in EVENT_TYPES.items():
    register_topic(topic, kind)
