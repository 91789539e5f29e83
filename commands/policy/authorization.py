"""What the command behind an event had asked: the same questions again, by whatever rules.

So that rules can be tried on what has happened. Each event type stands here with the questions of
its command; the functions that ask are those of the commands. What a command asked but did not do
in the end, such as adding a place and removing it in one PATCH, leaves no trace to ask again.
"""

from collections.abc import Callable
from typing import Any

from calotype.commands.images.deletion import require_deleted
from calotype.commands.images.download import DataSent, require_download
from calotype.commands.images.events import (
    Created,
    DataRemoved,
    DataStored,
    Deactivated,
    Deleted,
    LocationsChanged,
    MemberAdded,
    MemberRemoved,
    MemberStatusSet,
    Purged,
    Reactivated,
    Restored,
    TagAdded,
    TagRemoved,
    Updated,
    UploadFailed,
    UploadStarted,
)
from calotype.commands.images.image import Image
from calotype.commands.images.members import require_answer, require_member_rule, require_removal
from calotype.commands.images.metadata import (
    require_creation,
    require_owner_change,
    require_visibility,
)
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import require
from calotype.commands.policy.protections import require_change

Ask = Callable[[Actor, Any, Any], None]
"""Called with who wanted it, the event, and the image before it (None: there was none)."""


def _about(rule: str) -> Ask:
    return lambda actor, event, image: require(actor, rule, image)


def _about_deleted(rule: str) -> Ask:
    return lambda actor, event, image: require_deleted(actor, rule, image.image_id, image)


def _nothing(actor: Actor, event: Any, image: Any) -> None:
    """What follows from an earlier event by itself."""


def _created(actor: Actor, event: Created, image: Any) -> None:
    require_creation(actor, event.fields, event.properties)


def _updated(actor: Actor, event: Updated, image: Image) -> None:
    if "owner" in event.fields:
        require_owner_change(actor)
    if "visibility" in event.fields:
        require_visibility(actor, image, event.fields["visibility"])
    for name in event.properties:
        exists = name in image.properties
        require_change(actor, "replace" if exists else "add", name, exists=exists)
    for name in event.removed_properties:
        require_change(actor, "remove", name, exists=True)


def _locations_changed(actor: Actor, event: LocationsChanged, image: Image) -> None:
    """Places that are gone were removed; for all other differences places were set."""
    urls = {place["url"] for place in event.locations}
    kept = [place for place in image.locations if place["url"] in urls]
    if len(kept) < len(image.locations):
        require(actor, "delete_image_location", image)
    if kept != event.locations:
        require(actor, "set_image_location", image)


def _data_sent(actor: Actor, event: DataSent, image: Image | None) -> None:
    # The event is written after the last byte; the image may have been deleted meanwhile.
    if image is not None and image.status != "deleted":
        require_download(actor, image, event.image_id)


QUESTIONS: dict[type[Any], Ask] = {
    Created: _created,
    Updated: _updated,
    TagAdded: _about("modify_image"),
    TagRemoved: _about("modify_image"),
    UploadStarted: _about("upload_image"),
    UploadFailed: _nothing,
    DataStored: _nothing,
    LocationsChanged: _locations_changed,
    Deactivated: _about("deactivate"),
    Reactivated: _about("reactivate"),
    Deleted: _about("delete_image"),
    Restored: _about_deleted("restore_image"),
    Purged: _about_deleted("purge_image"),
    DataRemoved: _nothing,
    MemberAdded: lambda actor, event, image: require_member_rule(actor, "add_member", image),
    MemberStatusSet: lambda actor, event, image: require_answer(actor, event.member, image),
    MemberRemoved: lambda actor, event, image: require_removal(actor, event.member, image),
    DataSent: _data_sent,
}
"""The questions of each event type. A new type needs its own."""
_PARTS_OF_A_PATCH = (LocationsChanged, Updated)


def reauthorize(actor: Actor, event: Any, image: Image | None, *, first: bool = True) -> None:
    """Asks what the command that wanted the event asked of the image as it was before.

    `first`: the event is the first of its command. The actor's policy judges. Raises Forbidden,
    NotFound or Conflict where the command would be refused today, with the rule as its `decision`.
    """
    if first and isinstance(event, _PARTS_OF_A_PATCH):
        require(actor, "modify_image", image)
    QUESTIONS[type(event)](actor, event, image)
