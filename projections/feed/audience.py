"""The audience of an event: decided once, by what the image was when it happened.

The rule: a project gets an event when right after it the image is its own, or is shared with it.
Only the owner and one member get the changes of that member. A project that was in this audience
before the event and no longer is, learns only that the image was withdrawn. Administrators and
auditors get every event and need no rows here. Because the answer is a function of the log alone,
what a feed once gave for a position stays true: later changes neither add to the past nor take
from it.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from eventsourcing.persistence import Notification

from calotype.commands.images.download import DataSent
from calotype.commands.images.events import EVENT_TYPES, MemberAdded, MemberRemoved, MemberStatusSet
from calotype.commands.images.image import Image
from calotype.projections.past.latest import LatestImages
from calotype.stores.log.log import CACHE_BYTES
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import Snapshots
from calotype.stores.log.tables import Change, Column, Index, Put, Table

FOLLOWER = "event_audience_2"
"""The name of the checkpoint of the follower that keeps this table."""

FULL, OWN, SHARED, WITHDRAWN = "full", "own", "shared", "withdrawn"
"""How much of an event is shown: to operators, owners, members, and those who lost sight of it."""

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
"""One row per event and project in its audience."""

_OF_ONE_MEMBER = (MemberAdded, MemberStatusSet, MemberRemoved)


def audience_of(image: Image | None) -> dict[str, str]:
    """The projects that get changes of the image as it is, each with its view."""
    if image is None:
        return {}
    told = dict.fromkeys(image.members, SHARED) if image.visibility == "shared" else {}
    if image.owner is not None:
        told[image.owner] = OWN
    return told


class EventAudience:
    """Folds pages of the log into rows of EVENT_AUDIENCE, for a `Follower`."""

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        *,
        snapshots: Snapshots | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._images = LatestImages(recorder, snapshots=snapshots, cache_bytes=cache_bytes)

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._images.forget()

    def fold(self, page: Sequence[Notification]) -> list[Change]:
        """The rows of these events, the next in the log."""
        rows = [
            (notification.id, project, notification.topic, view)
            for notification in page
            for project, view in self._told_of(notification).items()
        ]
        return [Put(EVENT_AUDIENCE, rows)]

    def _told_of(self, notification: Notification) -> dict[str, str]:
        if notification.topic not in EVENT_TYPES:
            return told_of_others(notification.topic, bytes(notification.state))
        before = audience_of(self._images.before(notification))
        event, image = self._images.after(notification)
        return told_of(before, event, image)


def told_of(before: dict[str, str], event: Any, image: Image) -> dict[str, str]:
    """The audience of an event that made `image`, when the audience was `before`."""
    told = {**dict.fromkeys(before, WITHDRAWN), **audience_of(image)}
    if isinstance(event, _OF_ONE_MEMBER):
        concerned = (image.owner, event.member)
        told = {project: view for project, view in told.items() if project in concerned}
    return told


def told_of_others(topic: str, state: bytes) -> dict[str, str]:
    """The owner of an image gets its downloads; only operators get what is of no image."""
    if topic != DataSent.TOPIC:
        return {}
    owner = orjson.loads(state)["owner"]
    return {} if owner is None else {owner: OWN}
