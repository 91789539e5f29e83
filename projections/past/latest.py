"""Images as they were at each event, for what follows the log event by event."""

from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification

from calotype.commands.images.image import Image
from calotype.commands.images.snapshots import encode_image
from calotype.projections.past.row_versions import stored_of
from calotype.stores.log.bounded_cache import BoundedCache
from calotype.stores.log.log import CACHE_BYTES, event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import VERSION_AT, Snapshots, Streams


class LatestImages:
    """Remembers images between events that are given to it in the order of the log.

    Those that it does not remember are folded from the log, from a snapshot where `snapshots` are
    given. Works in any thread, one at a time.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        *,
        snapshots: Snapshots | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._recorder = recorder
        self._mapper = event_mapper()
        self._streams = Streams(self._mapper, snapshots)
        self._images: BoundedCache[UUID, Image] = BoundedCache(cache_bytes)

    def forget(self) -> None:
        """Drops what it remembers; needed before events that do not follow on the last ones."""
        self._images.clear()

    def before(self, notification: Notification) -> Image | None:
        """The image right before its event; `after` then changes this very object."""
        image_id, version = notification.originator_id, notification.originator_version
        assert isinstance(image_id, UUID)
        if version == Image.INITIAL_VERSION:
            return None
        return self._images.get(image_id) or self._load(image_id, version)

    def at(self, image_id: UUID, position: int) -> Image | None:
        """The image right before the next event in the log, whose position is given."""
        image = self._images.get(image_id)
        if image is None:
            values = {"id": image_id, "position": position - 1}
            version = self._recorder.fetch_now(VERSION_AT, values)[0][0]
            image = self._load(image_id, version + 1)
        return image

    def after(self, notification: Notification) -> tuple[Any, Image]:
        """The event, and the image right after it."""
        image = self.before(notification)
        event: Any = self._mapper.to_domain_event(stored_of(notification))
        changed: Image = event.mutate(image)
        self._remember(changed)
        return event, changed

    def _remember(self, image: Image) -> None:
        self._images.put(image.id, image, len(encode_image(image)))

    def _load(self, image_id: UUID, until: int) -> Image | None:
        rows = self._recorder.fetch_now(*self._streams.since(image_id, until=until))
        image: Image | None = self._streams.fold(None, image_id, rows)
        if image is not None:
            self._remember(image)
        return image
