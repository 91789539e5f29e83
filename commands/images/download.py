"""A download that was answered with bytes: who got how much of which image.

Each is an aggregate of its own with one event, so that it never stands in the way of a change of
the image, and a popular image does not become a long one.
"""

from typing import Any
from uuid import UUID

from eventsourcing.domain import Aggregate, CanCreateTimestamp

from calotype.commands.errors import Forbidden
from calotype.commands.images.events import EVENT_TYPES, ImageEvent
from calotype.commands.marks import FreeText, Personal, Technical
from calotype.commands.policy.actor import Actor, Cause, Target, refused
from calotype.commands.policy.policy import require


class Download(Aggregate):
    """One answer that carried image data."""

    TOPIC = "download"

    class Created(Aggregate.Created):
        """Image data was sent to a client: all that it asked for, or less when it broke off."""

        TOPIC = "image.data_sent"
        actor: Personal[dict[str, Any]]
        request_id: FreeText[str]
        traceparent: Technical[str | None]
        command_id: Technical[str]
        image_id: Technical[str]
        owner: FreeText[str | None]
        bytes_sent: Technical[int]
        bytes_asked: Technical[int]

    def __init__(self, image_id: str, owner: str | None, bytes_sent: int, bytes_asked: int) -> None:
        """The library calls this with the event's facts."""
        self.image_id = image_id
        self.owner = owner
        self.bytes_sent = bytes_sent
        self.bytes_asked = bytes_asked


DataSent = Download.Created

LOG_EVENT_TYPES: dict[str, type[ImageEvent] | type[DataSent]] = {
    **EVENT_TYPES,
    DataSent.TOPIC: DataSent,
}
"""Every event type that the log may hold by its topic: those of images, and downloads."""


def require_download(actor: Actor, image: Target | None, image_id: UUID | str) -> None:
    """Raises NotFound or Forbidden unless the actor may have the image's data.

    `get_image` is only asked where `download_image` refuses: whether that is a 403 or a 404.
    """
    require(actor, "download_image", image, f"No image found with ID {image_id}")
    assert image is not None
    if image.status == "deactivated" and not actor.is_admin:
        text = "The requested image has been deactivated. Image data download is forbidden."
        raise refused(Forbidden(text), actor, "context_is_admin")


def download(
    cause: Cause,
    download_id: UUID,
    *,
    image_id: str,
    owner: str | None,
    bytes_sent: int,
    bytes_asked: int,
) -> Download:
    """A download that is over, its event pending."""
    return Download._create(
        DataSent,
        id=download_id,
        timestamp=CanCreateTimestamp.create_timestamp(),
        image_id=image_id,
        owner=owner,
        bytes_sent=bytes_sent,
        bytes_asked=bytes_asked,
        **cause.facts(),
    )
