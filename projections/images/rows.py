"""The images projection: from an image and its latest events to the rows that queries read.

A pure function, run with every append in the same transaction. The fold itself is the
aggregate's own (`Event.apply`), so that there is one meaning of an event and not two.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from calotype.commands.images.events import (
    Created,
    DataRemoved,
    DataStored,
    Deleted,
    ImageEvent,
    LocationsChanged,
    MemberAdded,
    MemberRemoved,
    MemberStatusSet,
    Purged,
    Restored,
    TagAdded,
    TagRemoved,
    Updated,
    UploadFailed,
    UploadStarted,
    api_time,
)
from calotype.commands.images.image import Image
from calotype.commands.policy.protections import Readable
from calotype.projections.images.restorable import restorable_rows
from calotype.projections.images.tables import BLOBS, IMAGES, MEMBERS, PROPERTIES, RESTORABLE, TAGS
from calotype.stores.log.tables import Replace, Table

INDEXED_CHARACTERS = 200
_FACTS = [column.name for column in IMAGES.columns[2:-1]]
"""The columns of an image that are fields or attributes of it, under the same names."""

_COMES_AND_GOES = (Created, Deleted, Restored)
_TOUCHES_TAGS = (*_COMES_AND_GOES, TagAdded, TagRemoved, Updated)
_TOUCHES_PROPERTIES = (*_COMES_AND_GOES, Updated)
_TOUCHES_MEMBERS = (
    MemberAdded,
    MemberStatusSet,
    MemberRemoved,
    Deleted,
    Restored,
)
_TOUCHES_BLOBS = (
    UploadStarted,
    UploadFailed,
    DataStored,
    LocationsChanged,
    Deleted,
    Restored,
    Purged,
    DataRemoved,
)
_SETS = frozenset(("owner", "visibility"))
"""Fields that decide who lists an image; tags and properties have them too."""
_LEAVES_THE_IMAGE = (
    MemberAdded,
    MemberStatusSet,
    MemberRemoved,
    Purged,
    DataRemoved,
)


def rows_of(image: Image, events: Sequence[ImageEvent]) -> list[Replace]:
    """The rows that change when `events`, the latest of `image`, are appended."""
    tables = []
    if not all(isinstance(event, _LEAVES_THE_IMAGE) for event in events):
        tables.append(IMAGES)
    if _touched(events, _TOUCHES_TAGS, "tags") and (image.tags or image.version > 1):
        tables.append(TAGS)
    if _touched(events, _TOUCHES_PROPERTIES, "properties") and (
        image.properties or image.version > 1
    ):
        tables.append(PROPERTIES)
    if any(isinstance(event, _TOUCHES_MEMBERS) for event in events):
        tables.append(MEMBERS)
    if any(isinstance(event, _TOUCHES_BLOBS) for event in events):
        tables.append(BLOBS)
    if any(_touches_restorable(event) for event in events):
        tables.append(RESTORABLE)
    make = _ROWS_OF_DELETED if image.status == "deleted" else _ROWS
    return [Replace(table, image.id, make[table](image)) for table in tables]


def all_rows_of(image: Image) -> Iterator[tuple[Table, tuple[Any, ...]]]:
    """Every row of the image as it is, each with its table."""
    for table, make in (_ROWS_OF_DELETED if image.status == "deleted" else _ROWS).items():
        for row in make(image):
            yield table, row


def _touches_restorable(event: ImageEvent) -> bool:
    # A deletion for good has no row there, and need not look for one.
    if isinstance(event, Deleted):
        return event.retained_until is not None
    return isinstance(event, (Restored, Purged))


def _touched(events: Sequence[ImageEvent], kinds: tuple[type, ...], what: str) -> bool:
    for event in events:
        if isinstance(event, Updated):
            if not _SETS.isdisjoint(event.fields):
                return True
            if what == "tags" and event.tags is not None:
                return True
            if what == "properties" and (event.properties or event.removed_properties):
                return True
        elif isinstance(event, kinds):
            return True
    return False


def image_document(image: Image) -> bytes:
    """The image as the API shows it to everybody: one JSON object."""
    path = f"/v2/images/{image.image_id}"
    return orjson.dumps(
        {
            **image.properties,
            **image.fields,
            "id": image.image_id,
            "status": image.status,
            "size": image.size,
            "virtual_size": image.virtual_size,
            "checksum": image.checksum,
            "os_hash_algo": image.os_hash_algo,
            "os_hash_value": image.os_hash_value,
            "tags": image.tags,
            "created_at": image.created_at,
            "updated_at": api_time(image.changed_on),
            "self": path,
            "file": path + "/file",
            "schema": "/v2/schemas/image",
        }
    )


def readable_document(document: bytes, readable: Readable | None) -> bytes:
    """An image's document with those custom properties alone that the reader may read.

    None: the reader may read all of them, and the document is passed on unparsed.
    """
    if readable is None:
        return document
    facts = orjson.loads(document)
    if readable.holds_all(facts):
        return document
    return orjson.dumps({name: value for name, value in facts.items() if name in readable})


def member_document(image: Image, member: str) -> dict[str, Any]:
    """A membership as the API shows it."""
    known = image.members[member]
    return {
        "member_id": member,
        "image_id": image.image_id,
        "status": known.status,
        "created_at": known.created_at,
        "updated_at": known.updated_at,
        "schema": "/v2/schemas/member",
    }


def _image_rows(image: Image) -> list[tuple[Any, ...]]:
    fields, locations = image.fields, orjson.dumps(image.locations).decode()
    facts = [fields[name] if name in fields else getattr(image, name) for name in _FACTS]
    return [(image.id, image_document(image).decode(), *facts, locations)]


def _tag_rows(image: Image) -> list[tuple[Any, ...]]:
    owner, visibility = image.fields["owner"], image.fields["visibility"]
    return [(image.id, tag, image.created_at, owner, visibility) for tag in image.tags]


def _property_rows(image: Image) -> list[tuple[Any, ...]]:
    born, owner, visibility = image.created_at, image.fields["owner"], image.fields["visibility"]
    return [
        (image.id, name, value, value[:INDEXED_CHARACTERS], born, owner, visibility)
        for name, value in image.properties.items()
        if value is not None
    ]


def _member_rows(image: Image) -> list[tuple[Any, ...]]:
    return [
        (
            image.id,
            member,
            known.status,
            orjson.dumps(member_document(image, member)).decode(),
            position,
            image.created_at,
        )
        for position, (member, known) in enumerate(image.members.items())
    ]


def _blob_rows(image: Image) -> list[tuple[Any, ...]]:
    return [
        (image.id, blob.url, blob.store, blob.state, blob.upload_id, blob.holder)
        for blob in image.blobs.values()
    ]


_ROWS: dict[Table, Callable[[Image], list[tuple[Any, ...]]]] = {
    IMAGES: _image_rows,
    TAGS: _tag_rows,
    PROPERTIES: _property_rows,
    MEMBERS: _member_rows,
    BLOBS: _blob_rows,
    RESTORABLE: restorable_rows,
}
"""How the rows of each table are made of an image."""
_ROWS_OF_DELETED = {
    **dict.fromkeys(_ROWS, lambda image: []),
    BLOBS: _blob_rows,
    RESTORABLE: restorable_rows,
}
"""The same for a deleted image, of which only bytes and the way back are left."""
