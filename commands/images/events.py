"""What happens to an image beside uploads: metadata, places, members, and its end.

The events of an upload stand in `calotype.commands.images.image`, with the state that all of them
change: whoever reads the way of an upload finds it there.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventsourcing.domain import Aggregate

from calotype.commands.images.image_state import DOOMED, RETAINED, STORED, Blob, Deletion, Member

if TYPE_CHECKING:
    from calotype.commands.images.image import Image


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

    MAKES_ROOM = False  # Whether bytes can be removed that could not be before.
    actor: dict[str, Any]
    request_id: str
    traceparent: str | None
    command_id: str


class Updated(ImageEvent):
    """Metadata changed: base fields, custom properties, and the whole tag list if given."""

    TOPIC = "image.updated"
    fields: dict[str, Any]
    properties: dict[str, str | None]
    removed_properties: list[str]
    tags: list[str] | None

    def apply(self, image: "Image") -> None:
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
    tag: str

    def apply(self, image: "Image") -> None:
        image.tags.append(self.tag)
        image.changed_on = self.timestamp


class TagRemoved(ImageEvent):
    """A tag was removed."""

    TOPIC = "image.tag_removed"
    tag: str

    def apply(self, image: "Image") -> None:
        image.tags.remove(self.tag)
        image.changed_on = self.timestamp


class LocationsChanged(ImageEvent):
    """The list of places was set by hand; a queued image that has one now is active."""

    TOPIC = "image.locations_changed"
    locations: list[dict[str, Any]]
    stores: dict[str, str]
    size: int | None
    checksum: str | None
    os_hash_algo: str | None
    os_hash_value: str | None

    def apply(self, image: "Image") -> None:
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

    def apply(self, image: "Image") -> None:
        image.status = "deactivated"
        image.changed_on = self.timestamp


class Reactivated(ImageEvent):
    """The image's data is open again, as before it was deactivated."""

    TOPIC = "image.reactivated"

    def apply(self, image: "Image") -> None:
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
    retained_until: str | None

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["retained_until"] = None

    def apply(self, image: "Image") -> None:
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
    deletion: int
    restored_to: str

    def apply(self, image: "Image") -> None:
        for blob in image.blobs.values():
            if blob.state == RETAINED:
                blob.state = STORED
        image.status = self.restored_to
        image.deletion = None
        image.changed_on = self.timestamp


class Purged(ImageEvent):
    """What a deleted image had kept is about to be removed, and why.

    From here on it cannot be restored; `image.data_removed` tells when bytes are gone.
    """

    TOPIC = "image.purged"
    MAKES_ROOM = True
    deletion: int
    retained_until: str
    reason: str

    def apply(self, image: "Image") -> None:
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
    url: str
    reason: str

    def apply(self, image: "Image") -> None:
        image.blobs.pop(self.url, None)


class MemberAdded(ImageEvent):
    """The image was offered to the project `member`, whose answer is pending."""

    TOPIC = "image.member_added"
    member: str

    def apply(self, image: "Image") -> None:
        now = api_time(self.timestamp)
        created_at = image.former_members.pop(self.member, now)
        image.members[self.member] = Member("pending", created_at, now)


class MemberStatusSet(ImageEvent):
    """The answer to the offer: `status` is accepted, rejected or pending again."""

    TOPIC = "image.member_status_set"
    member: str
    status: str

    def apply(self, image: "Image") -> None:
        member = image.members[self.member]
        member.status, member.updated_at = self.status, api_time(self.timestamp)


class MemberRemoved(ImageEvent):
    """The offer to the project `member` was withdrawn."""

    TOPIC = "image.member_removed"
    member: str

    def apply(self, image: "Image") -> None:
        image.former_members[self.member] = image.members.pop(self.member).created_at
