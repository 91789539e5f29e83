"""Glance's notifications: what is told of an event to consumers that know OpenStack.

A pure function of the image before, the event, and the image after it. One event becomes none,
one or several notifications, in the order in which Glance sends them.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from calotype.commands.images.download import DataSent
from calotype.commands.images.events import (
    Created,
    DataStored,
    Deactivated,
    Deleted,
    ImageEvent,
    LocationsChanged,
    MemberAdded,
    MemberRemoved,
    MemberStatusSet,
    Reactivated,
    Restored,
    TagAdded,
    TagRemoved,
    Updated,
    UploadFailed,
    UploadStarted,
    api_time,
)
from calotype.commands.images.image import Image

INFO, ERROR = "INFO", "ERROR"

_OF_IMAGE = (
    "id", "name", "status", "created_at", "updated_at", "min_disk", "min_ram", "protected",
    "checksum", "owner", "disk_format", "container_format", "size", "virtual_size", "visibility",
)  # fmt: skip
_NO_PROPERTY = frozenset(
    {*_OF_IMAGE, "tags", "os_hidden", "os_hash_algo", "os_hash_value", "self", "file", "schema"}
)
_NO_IMPORT: dict[str, Any] = {"os_glance_importing_to_stores": [], "os_glance_failed_import": []}


@dataclass(frozen=True, slots=True)
class GlanceNotification:
    """One notification without its envelope."""

    event_type: str
    payload: dict[str, Any] | str
    priority: str = INFO


def kept(image: Image | None) -> Image | None:
    """The image as it is, untouched by the next event, as far as notifications look at it."""
    if image is None:
        return None
    before = copy(image)
    before.members = dict(image.members)
    return before


def notifications_of(
    before: Image | None, event: ImageEvent, image: Image
) -> list[GlanceNotification]:
    """What is told of an event of an image."""
    tell = _TOLD.get(type(event))
    return list(tell(before, event, image)) if tell is not None else []


def sent(event: DataSent) -> GlanceNotification:
    """What is told of a download that is over."""
    return GlanceNotification(
        "image.send",
        {
            "bytes_sent": event.bytes_sent,
            "image_id": event.image_id,
            "owner_id": event.owner,
            "receiver_tenant_id": event.actor["project"],
            "receiver_user_id": event.actor["user"],
        },
        INFO if event.bytes_sent == event.bytes_asked else ERROR,
    )


def exists(document: Mapping[str, Any], beginning: str, ending: str) -> GlanceNotification:
    """What is told at the end of a period of an image, given as the API showed it then."""
    properties = {name: value for name, value in document.items() if name not in _NO_PROPERTY}
    payload = _payload(document, properties)
    period = {"audit_period_beginning": beginning, "audit_period_ending": ending}
    return GlanceNotification("image.exists", payload | period)


def is_disabled(event_type: str, disabled: Iterable[str]) -> bool:
    """Whether the list names the event type, or a beginning of it that ends before a dot."""
    return any(event_type == name or event_type.startswith(f"{name}.") for name in disabled)


def _payload(facts: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: facts[name] for name in _OF_IMAGE},
        "is_public": facts["visibility"] == "public",
        "properties": dict(properties),
        "tags": list(facts["tags"]),
        "deleted": False,
        "deleted_at": None,
    }


def _image(image: Image) -> dict[str, Any]:
    return _payload(image.facts(), image.properties)


def _updated(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    return [GlanceNotification("image.update", _image(image))]


def _created(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    return [GlanceNotification("image.create", _image(image))]


def _upload_started(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    payload = _image(image)
    preparing = payload | _NO_IMPORT | {"backend": event.store}
    return [
        GlanceNotification("image.update", payload),
        GlanceNotification("image.prepare", preparing),
    ]


def _data_stored(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    payload = _image(image)
    return [
        GlanceNotification("image.upload", payload | _NO_IMPORT),
        GlanceNotification("image.activate", payload),
        GlanceNotification("image.update", payload),
    ]


def _upload_failed(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    failed = GlanceNotification("image.upload", event.reason, ERROR)
    if before is not None and (before.status, image.status) == ("saving", "queued"):
        return [failed, *_updated(before, event, image)]
    return [failed]  # Of an image that was deleted meanwhile there is nothing more to tell.


def _deleted(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    gone = {"deleted": True, "deleted_at": api_time(event.timestamp)}
    return [GlanceNotification("image.delete", _image(image) | gone)]


def _member(image: Image, project: str) -> dict[str, Any]:
    member = image.members[project]
    return {
        "image_id": image.image_id,
        "member_id": project,
        "status": member.status,
        "created_at": member.created_at,
        "updated_at": member.updated_at,
        "deleted": False,
        "deleted_at": None,
    }


def _member_added(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    return [GlanceNotification("image.member.create", _member(image, event.member))]


def _member_set(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    return [GlanceNotification("image.member.update", _member(image, event.member))]


def _member_removed(before: Image | None, event: Any, image: Image) -> list[GlanceNotification]:
    assert before is not None
    gone = {"deleted": True, "deleted_at": api_time(event.timestamp)}
    return [GlanceNotification("image.member.delete", _member(before, event.member) | gone)]


_Tell = Callable[[Image | None, Any, Image], list[GlanceNotification]]

_TOLD: dict[type[ImageEvent], _Tell] = {
    Created: _created,
    Updated: _updated,
    TagAdded: _updated,
    TagRemoved: _updated,
    UploadStarted: _upload_started,
    DataStored: _data_stored,
    UploadFailed: _upload_failed,
    LocationsChanged: _updated,
    Deactivated: _updated,
    Reactivated: _updated,
    Deleted: _deleted,
    Restored: _updated,
    MemberAdded: _member_added,
    MemberStatusSet: _member_set,
    MemberRemoved: _member_removed,
}
"""The end of a retention and the removal of garbage are told to nobody, as Glance does."""
