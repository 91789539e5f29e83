"""What the fields of an image may hold, for create and update alike.

`check_*` return the value to store or raise Invalid or Forbidden naming the field and the fix.
Limits are those of the Image API's schema (reference: image schema, section 'properties').
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from calotype.commands.errors import Forbidden, Invalid, LimitExceeded

DISK_FORMATS = (
    "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop",
)  # fmt: skip
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")


@dataclass(frozen=True, slots=True)
class Formats:
    """The formats that images of an installation may have."""

    disk: tuple[str, ...] = DISK_FORMATS
    container: tuple[str, ...] = CONTAINER_FORMATS


FORMATS = Formats()
VISIBILITIES = ("community", "public", "private", "shared")
MEMBER_STATUSES = ("pending", "accepted", "rejected")

READ_ONLY = frozenset({
    "status", "size", "virtual_size", "checksum", "created_at", "updated_at",
    "direct_url", "self", "file", "schema", "stores",
})  # fmt: skip
RESERVED = frozenset({"location", "locations", "deleted", "deleted_at"})
HASHES = frozenset({"os_hash_algo", "os_hash_value"})
WRITABLE = frozenset({
    "name", "visibility", "protected", "os_hidden", "owner",
    "disk_format", "container_format", "min_disk", "min_ram",
})  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "name": None,
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "owner": None,
    "disk_format": None,
    "container_format": None,
    "min_disk": 0,
    "min_ram": 0,
}

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UNSTORABLE = re.compile("[\x00\U00010000-\U0010ffff]")
_LARGEST_INTEGER = 2147483647
_KEEP_OR_DELETE = ("on_image_deletion", "do_not_delete")


def check_text(name: str, value: Any, longest: int | None = 255) -> str:
    """Text of at most `longest` characters, without NUL and four-byte characters."""
    if not isinstance(value, str):
        raise Invalid(f"Property '{name}' must be a string, not {_kind(value)}.")
    if longest is not None and len(value) > longest:
        raise Invalid(f"Property '{name}' has {len(value)} characters; at most {longest} fit.")
    if _UNSTORABLE.search(value):
        raise Invalid(
            f"Property '{name}' holds a NUL or a character outside Unicode's basic plane, "
            "which the Image API does not take; remove it."
        )
    return value


def check_id(value: Any) -> str:
    """An image id as given: 8-4-4-4-12 hexadecimal digits in either case."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise Invalid("Property 'id' must be a UUID such as 8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4.")
    return value


def check_tag(value: Any) -> str:
    """A tag: text of at most 255 characters."""
    return check_text("tags", value)


def check_tags(value: Any) -> list[str]:
    """A list of tags; duplicates are merged."""
    if not isinstance(value, list):
        raise Invalid(f"Property 'tags' must be an array of strings, not {_kind(value)}.")
    return list(dict.fromkeys(check_tag(tag) for tag in value))


def check_field(name: str, value: Any, formats: Formats = FORMATS) -> Any:
    """The value of a writable base field (one of WRITABLE)."""
    if name in ("protected", "os_hidden"):
        if not isinstance(value, bool):
            raise Invalid(f"Property '{name}' must be true or false, not {_kind(value)}.")
        return value
    if name in ("min_disk", "min_ram"):
        return _check_integer(name, value)
    if name == "visibility":
        return _check_choice(name, value, VISIBILITIES)
    if value is None:
        return None
    if name == "disk_format":
        return _check_choice(name, value, formats.disk)
    if name == "container_format":
        return _check_choice(name, value, formats.container)
    if name == "owner" and value == "":
        return None
    return check_text(name, value)


def check_property(name: str, value: Any) -> str | None:
    """The value of a custom property: a string, or null for the two that may refer to nothing."""
    if name.startswith("os_glance"):
        raise Forbidden(f"Attribute '{name}' is reserved.")
    if not name:
        raise Invalid("A property needs a name.")
    if len(name) > 255:
        raise Invalid(f"Property name '{name[:40]}...' has over 255 characters.")
    check_text("property name", name)
    if name in ("kernel_id", "ramdisk_id"):
        if value is None or (isinstance(value, str) and _UUID.fullmatch(value)):
            return value
        raise Invalid(f"Property '{name}' must be null or the UUID of an image.")
    if name == "cinder_encryption_key_deletion_policy":
        return _check_choice(name, value, _KEEP_OR_DELETE)
    return check_text(name, value, longest=None)


def refuse_unwritable(name: str) -> None:
    """Raises Forbidden for what only the service itself sets."""
    if name in READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith("os_glance"):
        raise Forbidden(f"Attribute '{name}' is reserved.")


def check_count(what: str, count: int, limit: int) -> None:
    """Raises LimitExceeded when `count` is over a limit; a negative limit is none."""
    if 0 <= limit < count:
        raise LimitExceeded(
            f"The limit has been exceeded on the number of allowed image {what}. "
            f"Attempted: {count}, Maximum: {limit}"
        )


def check_values(properties: Mapping[str, str | None], limit: int) -> None:
    """Raises LimitExceeded for a value of more than so many bytes; a negative limit is none."""
    for name, value in properties.items():
        size = len((value or "").encode())
        if 0 <= limit < size:
            raise LimitExceeded(
                f"Property '{name}' has a value of {size} bytes; at most {limit} fit "
                "(limits.property_value_bytes)."
            )


def check_document(what: str, before: Any, after: Any, limit: int) -> None:
    """Raises LimitExceeded where a part of an image would become too long, as JSON.

    What was too long before may stay, and become shorter. A negative limit is none.
    """
    if limit < 0 or (size := len(orjson.dumps(after))) <= limit:
        return
    if size > len(orjson.dumps(before)):
        raise LimitExceeded(
            f"The {what} of the image would have {size} bytes as JSON; at most {limit} fit "
            "(limits.image_document_bytes)."
        )


def split_body(
    body: Mapping[str, Any], formats: Formats = FORMATS
) -> tuple[dict[str, Any], list[str], dict[str, str | None]]:
    """The base fields (with defaults), tags and custom properties of a create request's body."""
    fields = dict(DEFAULTS)
    tags: list[str] = []
    properties: dict[str, str | None] = {}
    for name, value in body.items():
        refuse_unwritable(name)
        if name in WRITABLE:
            fields[name] = check_field(name, value, formats)
        elif name == "tags":
            tags = check_tags(value)
        elif name in HASHES:
            if value is not None:
                check_text(name, value, 64 if name == "os_hash_algo" else 128)
        elif name != "id":
            properties[name] = check_property(name, value)
    return fields, tags, properties


def _check_integer(name: str, value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer():
        whole, value = True, int(value)
    if not whole:
        raise Invalid(f"Property '{name}' must be an integer, not {_kind(value)}.")
    if not 0 <= value <= _LARGEST_INTEGER:
        raise Invalid(f"Property '{name}' must lie between 0 and {_LARGEST_INTEGER}.")
    return int(value)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices or not isinstance(value, str):
        raise Invalid(f"Property '{name}' must be one of {', '.join(choices)}.")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else kinds.get(type(value), "a number")
