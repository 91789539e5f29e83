"""Following the log into the tables of versions, event by event."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification, StoredEvent

from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.image import Image
from calotype.projections.past import row_version_snapshots
from calotype.projections.past.row_versions import (
    MOMENTS,
    ImageTimeline,
    Noted,
    moment_after,
    stored_of,
    timestamp_in,
    written,
)
from calotype.stores.log.bounded_cache import BoundedCache
from calotype.stores.log.log import CACHE_BYTES, event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change, Put, Table

_OF_IMAGE = (
    "SELECT originator_version, topic, state, notification_id FROM stored_events "
    "WHERE originator_id = :id AND originator_version > :version AND originator_version < :until "
    "ORDER BY originator_version"
)
_LAST_MOMENT = (
    "SELECT clock, newest_created_at FROM {table} "
    "WHERE position < :before ORDER BY position DESC LIMIT 1"
)


class RowVersionFolder:
    """Folds pages of the log into versions, for a `Follower`; in any thread, one at a time."""

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        *,
        moments: Table = MOMENTS,
        snapshots: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """`moments` is where the last moment before a page is looked up.

        With `snapshots` images are read from snapshots, and these are written with the versions;
        without, images that it does not remember are folded from birth.
        """
        self._recorder = recorder
        self._moments = moments
        self._snapshots = snapshots
        self._mapper = event_mapper()
        self._timelines: BoundedCache[UUID, ImageTimeline] = BoundedCache(cache_bytes)
        self._moment: tuple[str, str] | None = None

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._timelines.clear()
        self._moment = None

    def fold(self, page: Sequence[Notification]) -> list[Change]:
        """The versions and moments that these events, the next in the log, make or end."""
        noted: Noted = {}
        # Those of the page are held on to, however large they are: what is noted belongs to them.
        timelines: dict[UUID, ImageTimeline] = {}
        moments = [self._fold_one(notification, timelines, noted) for notification in page]
        changes: list[Change] = [*written(noted), Put(MOMENTS, moments)]
        due = [
            timeline
            for timeline in timelines.values()
            if self._snapshots and row_version_snapshots.due(timeline)
        ]
        if due:
            changes.append(row_version_snapshots.saved(due))
        for image_id, timeline in timelines.items():
            self._timelines.put(image_id, timeline, timeline.about_bytes())
        return changes

    def _fold_one(
        self, notification: Notification, timelines: dict[UUID, ImageTimeline], noted: Noted
    ) -> tuple[int, str, str]:
        if notification.topic in EVENT_TYPES:
            image_id = notification.originator_id
            assert isinstance(image_id, UUID)
            timeline = timelines.get(image_id) or self._timelines.pop(image_id)
            timeline = timelines[image_id] = timeline or self._load(
                image_id, notification.originator_version
            )
            event: Any = self._mapper.to_domain_event(stored_of(notification))
            timeline.apply(event, notification.id, noted)
            timestamp = event.timestamp
        else:
            timestamp = timestamp_in(notification.state)
        before = self._moment or self._moment_before(notification.id)
        self._moment = moment_after(before, notification.topic, timestamp)
        return (notification.id, *self._moment)

    def _moment_before(self, position: int) -> tuple[str, str]:
        sql = _LAST_MOMENT.format(table=self._moments.name)
        rows = self._recorder.fetch_now(sql, {"before": position})
        return (rows[0][0], rows[0][1]) if rows else ("", "")

    def _load(self, image_id: UUID, until: int) -> ImageTimeline:
        if until == Image.INITIAL_VERSION:
            return ImageTimeline()
        fetch, timeline = self._recorder.fetch_now, None
        if self._snapshots:
            timeline = row_version_snapshots.find(fetch, image_id, until)
        timeline = timeline or ImageTimeline()
        noted: Noted = {}
        known = timeline.image.version if timeline.image is not None else 0
        values = {"id": image_id, "version": known, "until": until}
        for version, topic, state, position in fetch(_OF_IMAGE, values):
            stored = StoredEvent(image_id, version, topic, bytes(state))
            timeline.apply(self._mapper.to_domain_event(stored), position, noted)
        written(noted)  # These versions are in the tables already.
        return timeline
