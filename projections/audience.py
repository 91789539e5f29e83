"""Who may know of an event: decided once, by what the image was when it happened.

The rule. A project is told of an event when right after it the image is its own, or is shared
with it; the changes of one member are nobody's business but the owner's and that member's. A
project that was in this audience before the event and no longer is, is told only that the image
was withdrawn, and nothing of what it became. Administrators and auditors are told everything and
need no rows here. Because the answer is a function of the log alone, what was once handed out
for a position stays true: later changes neither add to the past nor take from it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification, StoredEvent

from calotype.commands.image import EVENT_TYPES, Image
from calotype.projections.spans import stored_of
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change, Column, Index, Put, Table

FOLLOWER = "event_audience_2"
"""The name of the checkpoint of the follower that keeps this table."""

FULL, OWN, SHARED, WITHDRAWN = "full", "own", "shared", "withdrawn"
"""How much of an event is shown: to operators, owners, members, and those who lost sight of it."""

CACHED_IMAGES = 4096

EVENT_AUDIENCE = Table(
    name="event_audience_2",
    columns=(
        Column("position", "integer"),
        Column("project", "text"),
        Column("topic", "text"),
        Column("view", "text"),
    ),
    key=("position", "project"),
    owner="position",
    indexes=(Index("event_audience_2_by_project", ("project", "position", "topic", "view")),),
)
"""One row per event and project that may know of it."""

_OF_IMAGE = (
    "SELECT originator_version, topic, state FROM stored_events "
    "WHERE originator_id = :id AND notification_id < :before ORDER BY originator_version"
)
_OF_ONE_MEMBER = (Image.MemberAdded, Image.MemberStatusSet, Image.MemberRemoved)


def audience_of(image: Image | None) -> dict[str, str]:
    """The projects that are told of changes of the image as it is, each with its view."""
    if image is None:
        return {}
    told = dict.fromkeys(image.members, SHARED) if image.visibility == "shared" else {}
    if image.owner is not None:
        told[image.owner] = OWN
    return told


class EventAudience:
    """Folds pages of the log into rows of EVENT_AUDIENCE, for a `Follower`."""

    def __init__(self, recorder: GroupCommitRecorder, cached_images: int = CACHED_IMAGES) -> None:
        self._recorder = recorder
        self._cached_images = cached_images
        self._mapper = event_mapper()
        self._images: OrderedDict[UUID, Any] = OrderedDict()

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._images.clear()

    def fold(self, page: Sequence[Notification]) -> list[Change]:
        """The rows of these events, the next in the log."""
        rows = [
            (notification.id, project, notification.topic, view)
            for notification in page
            if notification.topic in EVENT_TYPES  # Others are for operators only.
            for project, view in self._told_of(notification).items()
        ]
        while len(self._images) > self._cached_images:
            self._images.popitem(last=False)
        return [Put(EVENT_AUDIENCE, rows)]

    def _told_of(self, notification: Notification) -> dict[str, str]:
        image_id = notification.originator_id
        assert isinstance(image_id, UUID)
        image = self._images.get(image_id)
        if image is None and notification.originator_version > Image.INITIAL_VERSION:
            image = self._load(image_id, notification.id)
        before = audience_of(image)
        event: Any = self._mapper.to_domain_event(stored_of(notification))
        image = event.mutate(image)
        self._images[image_id] = image
        self._images.move_to_end(image_id)
        told = {**dict.fromkeys(before, WITHDRAWN), **audience_of(image)}
        if isinstance(event, _OF_ONE_MEMBER):
            concerned = (image.owner, event.member)
            told = {project: view for project, view in told.items() if project in concerned}
        return told

    def _load(self, image_id: UUID, before: int) -> Any:
        image: Any = None
        rows = self._recorder.fetch_now(_OF_IMAGE, {"id": image_id, "before": before})
        for version, topic, state in rows:
            stored = StoredEvent(image_id, version, topic, bytes(state))
            image = self._mapper.to_domain_event(stored).mutate(image)  # type: ignore[attr-defined]
        return image
