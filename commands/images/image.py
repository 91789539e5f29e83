"""The image aggregate: what can happen to one image.

Each method decides: it checks the image's own rules and triggers an event, or raises one of the
domain's errors. What follows from an event is in `calotype.commands.images.events`. Statuses and
transitions follow the Image API v2.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from eventsourcing.domain import Aggregate, CanCreateTimestamp

from calotype.commands.errors import Conflict, Forbidden, Gone, Invalid, NotFound
from calotype.commands.images import events
from calotype.commands.images.events import api_time, clock_text
from calotype.commands.images.image_state import DOOMED, ImageState, Usage
from calotype.commands.policy.actor import Cause


class Image(ImageState, Aggregate):
    """One image: its metadata, members, and where its bytes are."""

    TOPIC = "image"

    Event = events.ImageEvent
    Created = events.Created

    # ---- what is known ----

    @property
    def owner(self) -> str | None:
        owner: str | None = self.fields["owner"]
        return owner

    @property
    def visibility(self) -> str:
        visibility: str = self.fields["visibility"]
        return visibility

    @property
    def updated_at(self) -> str:
        """When the image itself last changed; its members do not count."""
        return api_time(self.changed_on)

    def has_member(self, project: str | None) -> bool:
        """Whether the image was offered to the project, whatever it answered."""
        return project in self.members

    def facts(self) -> Mapping[str, Any]:
        """What rules may name of the image beside its owner, visibility and status."""
        return {
            **self.properties,
            **self.fields,
            "id": self.image_id,
            "image_id": self.image_id,
            "status": self.status,
            "size": self.size,
            "virtual_size": self.virtual_size,
            "checksum": self.checksum,
            "os_hash_algo": self.os_hash_algo,
            "os_hash_value": self.os_hash_value,
            "tags": self.tags,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }

    @property
    def usage(self) -> Usage:
        """What the image takes up now of what its owner may have."""
        project = self.owner or ""
        if self.status == "deleted":
            return Usage(project, 0, 0, 0, 0, 0)
        reserved = self.announced_size or 0
        stored = (self.size or 0) * len(self.locations)
        return Usage(project, 1, int(self.status == "saving"), stored + reserved, reserved, 0)

    # ---- what can happen to it ----

    def update(
        self,
        cause: Cause,
        *,
        fields: dict[str, Any],
        properties: dict[str, str | None],
        removed_properties: list[str],
        tags: list[str] | None,
    ) -> None:
        """Changes metadata; formats only before there is data."""
        for name in ("disk_format", "container_format"):
            if name in fields and self.status not in ("queued", "importing"):
                raise Forbidden(
                    f"Attribute '{name}' can only be replaced on a queued image; "
                    f"this one is {self.status}."
                )
        self.trigger_event(
            events.Updated,
            fields=fields,
            properties=properties,
            removed_properties=removed_properties,
            tags=tags,
            **cause.facts(),
        )

    def add_tag(self, cause: Cause, tag: str) -> None:
        """Adds a tag; adding one that is there changes nothing."""
        if tag not in self.tags:
            self.trigger_event(events.TagAdded, tag=tag, **cause.facts())

    def remove_tag(self, cause: Cause, tag: str) -> None:
        """Raises NotFound for a tag that is not there."""
        if tag not in self.tags:
            raise NotFound(f"Image {self.image_id} has no tag '{tag}'.")
        self.trigger_event(events.TagRemoved, tag=tag, **cause.facts())

    def check_formats(self) -> None:
        """Raises Invalid while the formats that data needs are not set."""
        for name in ("disk_format", "container_format"):
            if not self.fields[name]:
                raise Invalid(
                    f"Property '{name}' of image {self.image_id} must be set before there is data."
                )

    def start_upload(
        self,
        cause: Cause,
        *,
        upload_id: str,
        store: str,
        url: str,
        holder: str,
        announced_size: int | None = None,
    ) -> None:
        """Records the intent to write at `url`. Raises Conflict unless the image is queued."""
        if self.status != "queued":
            raise Conflict(
                f"Image {self.image_id} is {self.status}; only a queued image takes data."
            )
        self.check_formats()
        self.trigger_event(
            events.UploadStarted,
            upload_id=upload_id,
            store=store,
            url=url,
            holder=holder,
            announced_size=announced_size,
            **cause.facts(),
        )

    def fail_upload(self, cause: Cause, *, upload_id: str, reason: str) -> None:
        """Ends an upload without data; an image that waited for it is queued again.

        No change when that upload has ended already.
        """
        if any(blob.upload_id == upload_id and blob.holder for blob in self.blobs.values()):
            self.trigger_event(
                events.UploadFailed, upload_id=upload_id, reason=reason, **cause.facts()
            )

    def store_data(self, cause: Cause, /, *, upload_id: str, **outcome: Any) -> None:
        """Makes the image active. Raises Gone when it was deleted or the upload given up."""
        if self.status != "saving" or self.upload_id != upload_id:
            raise Gone(f"Image {self.image_id} was deleted or changed while its data came in.")
        self.trigger_event(events.DataStored, upload_id=upload_id, **outcome, **cause.facts())

    def change_locations(self, cause: Cause, **change: Any) -> None:
        """Sets the whole list of places; see `calotype.commands.images.locations` for the rules."""
        if self.status not in ("queued", "active"):
            raise Conflict(f"Image {self.image_id} is {self.status}: its locations cannot change.")
        self.check_formats()
        self.trigger_event(events.LocationsChanged, **change, **cause.facts())

    def deactivate(self, cause: Cause) -> None:
        """active -> deactivated; again is no change; any other status is Forbidden."""
        if self.status == "deactivated":
            return
        if self.status != "active":
            raise Forbidden(f"Not allowed to deactivate image in status '{self.status}'")
        self.trigger_event(events.Deactivated, **cause.facts())

    def reactivate(self, cause: Cause) -> None:
        """deactivated -> active; again is no change; any other status is Forbidden."""
        if self.status == "active":
            return
        if self.status != "deactivated":
            raise Forbidden(f"Not allowed to reactivate image in status '{self.status}'")
        self.trigger_event(events.Reactivated, **cause.facts())

    def delete(self, cause: Cause, *, retention_seconds: float = 0.0) -> None:
        """Deletes from any status; with a retention it can be restored for so long.

        Raises Forbidden while the image is protected.
        """
        if self.fields["protected"]:
            raise Forbidden(f"Image {self.image_id} is protected and cannot be deleted.")
        now = events.Deleted.create_timestamp()
        until = clock_text(now + timedelta(seconds=retention_seconds))
        self.trigger_event(
            events.Deleted,
            timestamp=now,
            retained_until=until if retention_seconds > 0 else None,
            **cause.facts(),
        )

    def note_data_removed(self, cause: Cause, *, url: str, reason: str) -> None:
        """Records that a doomed blob is gone; knows nothing of it: no change."""
        blob = self.blobs.get(url)
        if blob is not None and blob.state == DOOMED:
            self.trigger_event(events.DataRemoved, url=url, reason=reason, **cause.facts())

    def add_member(self, cause: Cause, member: str) -> None:
        """Offers the image to a project. Raises Conflict if it is a member already."""
        if member in self.members:
            raise Conflict(f"Project {member} is already a member of image {self.image_id}.")
        self.trigger_event(events.MemberAdded, member=member, **cause.facts())

    def set_member_status(self, cause: Cause, member: str, status: str) -> None:
        """Sets pending, accepted or rejected. Raises NotFound for somebody who is no member."""
        if member not in self.members:
            raise NotFound(f"Project {member} is not a member of image {self.image_id}.")
        self.trigger_event(events.MemberStatusSet, member=member, status=status, **cause.facts())

    def remove_member(self, cause: Cause, member: str) -> None:
        """Withdraws the offer. Raises NotFound for somebody who is no member."""
        if member not in self.members:
            raise NotFound(f"Project {member} is not a member of image {self.image_id}.")
        self.trigger_event(events.MemberRemoved, member=member, **cause.facts())


def image_uuid(image_id: str) -> UUID:
    """The aggregate's id for an image id from a URL. Raises NotFound for what is no UUID."""
    if len(image_id) == 36:
        try:
            return UUID(image_id)
        except ValueError:
            pass
    raise NotFound(f"No image found with ID {image_id}")


def create(
    cause: Cause,
    *,
    image_id: str,
    fields: dict[str, Any],
    tags: list[str],
    properties: dict[str, str | None],
) -> Image:
    """A new queued image, its event pending."""
    return Image._create(
        events.Created,
        id=UUID(image_id),
        image_id=image_id,
        fields=fields,
        tags=tags,
        properties=properties,
        timestamp=CanCreateTimestamp.create_timestamp(),
        **cause.facts(),
    )
