"""What an image remembers: of itself, of its bytes and of the projects it is offered to."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

INTENDED, STORED, RETAINED, DOOMED = "intended", "stored", "retained", "doomed"


@dataclass(slots=True)
class Blob:
    """Bytes in a store that this image put there, or was about to.

    `state` is `intended` from the intent event until the outcome is known, `stored` while the
    image uses it, `retained` while a deleted image can still be restored with it, `doomed` from
    then on until the bytes are known to be gone. Nothing leads back from `doomed`.
    """

    url: str
    store: str
    state: str
    upload_id: str | None = None
    holder: str | None = None
    """The process that is writing it; None once the upload has ended. Nobody else touches the
    bytes while it holds a lease."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deleted image knows of its deletion, and of what happened to its data since."""

    version: int
    """The number of the deletion among the image's events."""
    deleted_at: str
    """RFC 3339 in UTC with microseconds, as are the other times here."""
    actor: dict[str, Any]
    restores_to: str
    """The status that the image has again when it is restored."""
    retained_until: str | None
    """The end of the window in which it can be restored; None: it never could be."""
    purged_at: str | None = None
    """When its data was given up for good."""
    purge_reason: str | None = None


@dataclass(slots=True)
class Member:
    """A project that a shared image is offered to."""

    status: str
    created_at: str
    updated_at: str


class ImageState:
    """All that an image remembers. Only the `apply` of an event changes it."""

    def __init__(
        self,
        image_id: str,
        fields: dict[str, Any],
        tags: list[str],
        properties: dict[str, str | None],
        timestamp: datetime,
    ) -> None:
        """The state right after `image.created`; the library calls this with the event's facts."""
        self.image_id = image_id
        self.status = "queued"
        self.fields = dict(fields)
        self.tags = list(tags)
        self.properties = dict(properties)
        self.created_at = ""
        self.changed_on = timestamp
        self.size: int | None = None
        self.virtual_size: int | None = None
        self.checksum: str | None = None
        self.os_hash_algo: str | None = None
        self.os_hash_value: str | None = None
        self.upload_id: str | None = None
        self.announced_size: int | None = None
        self.members: dict[str, Member] = {}
        self.former_members: dict[str, str] = {}
        self.blobs: dict[str, Blob] = {}
        self.locations: list[dict[str, Any]] = []
        self.deletion: Deletion | None = None


class Usage(NamedTuple):
    """What an image uses of what its project may have.

    A deleted image uses nothing, whether it can be restored or not.
    """

    project: str
    """The image's owner; empty for an image that nobody owns."""
    images: int
    uploading: int
    """Images that data is being sent to."""
    bytes: int
    """The size for each place of its data, and what an upload that is under way has announced."""
    reserved_bytes: int
    """The part of these bytes that is only announced."""
    staged_bytes: int
    """Bytes that wait to be imported."""
