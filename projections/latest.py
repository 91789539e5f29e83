"""Images as they were at each event, for what follows the log event by event."""

from collections import OrderedDict
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification, StoredEvent

from calotype.commands.image import Image
from calotype.projections.spans import stored_of
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder

CACHED_IMAGES = 1024

_OF_IMAGE = (
    "SELECT originator_version, topic, state FROM stored_events "
    "WHERE originator_id = :id AND notification_id < :before ORDER BY originator_version"
)


class LatestImages:
    """Remembers images between events that are given to it in the order of the log.

    Those that it does not remember are folded from the log. Works in any thread, one at a time.
    """

    def __init__(self, recorder: GroupCommitRecorder, cached_images: int = CACHED_IMAGES) -> None:
        self._recorder = recorder
        self._cached_images = cached_images
        self._mapper = event_mapper()
        self._images: OrderedDict[UUID, Any] = OrderedDict()

    def forget(self) -> None:
        """Drops what it remembers; needed before events that do not follow on the last ones."""
        self._images.clear()

    def before(self, notification: Notification) -> Image | None:
        """The image right before its event; `after` then changes this very object."""
        image_id = notification.originator_id
        assert isinstance(image_id, UUID)
        if notification.originator_version == Image.INITIAL_VERSION:
            return None
        return self.at(image_id, notification.id)

    def at(self, image_id: UUID, position: int) -> Image | None:
        """The image right before the next event in the log, whose position is given."""
        image: Image | None = self._images.get(image_id)
        if image is None:
            image = self._load(image_id, position)
            self._remember(image_id, image)
        return image

    def after(self, notification: Notification) -> tuple[Any, Image]:
        """The event, and the image right after it."""
        image = self.before(notification)
        event: Any = self._mapper.to_domain_event(stored_of(notification))
        changed: Image = event.mutate(image)
        self._remember(changed.id, changed)
        return event, changed

    def _remember(self, image_id: UUID, image: Image | None) -> None:
        self._images[image_id] = image
        self._images.move_to_end(image_id)
        if len(self._images) > self._cached_images:
            self._images.popitem(last=False)

    def _load(self, image_id: UUID, before: int) -> Image | None:
        image: Any = None
        rows = self._recorder.fetch_now(_OF_IMAGE, {"id": image_id, "before": before})
        for version, topic, state in rows:
            stored = StoredEvent(image_id, version, topic, bytes(state))
            image = self._mapper.to_domain_event(stored).mutate(image)  # type: ignore[attr-defined]
        loaded: Image | None = image
        return loaded
