"""Images for tests that append to the log without commands."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Cause

CAUSE = Cause({"user": "u", "project": "p", "roles": []}, "req-1", None, "c")
FIELDS: dict[str, Any] = {
    "name": "n",
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "owner": "p",
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 0,
    "min_ram": 0,
}


def new_image(
    *,
    image_id: str = "",
    tags: Sequence[str] = (),
    properties: dict[str, str] | None = None,
    **fields: Any,
) -> Image:
    """A new image of project p, private to its members, that is not in the log yet."""
    return create(
        CAUSE,
        image_id=image_id or str(uuid4()),
        fields={**FIELDS, **fields},
        tags=list(tags),
        properties={"k": "1"} if properties is None else properties,
    )
