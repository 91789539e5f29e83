"""The schema documents that clients fetch before they create or update anything."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from calotype.commands.images.fields import FORMATS, MEMBER_STATUSES, VISIBILITIES, Formats

_UUID_PATTERN = (
    "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
)
_STATUSES = (
    "queued", "saving", "active", "killed", "deleted", "uploading", "importing",
    "pending_delete", "deactivated",
)  # fmt: skip


def _property(kind: str, description: str, **more: Any) -> dict[str, Any]:
    """`kind` is a JSON type, or several with blanks between them."""
    kinds = kind.split()
    return {"type": kind if len(kinds) == 1 else kinds, "description": description, **more}


def _read_only(kind: str, description: str, **more: Any) -> dict[str, Any]:
    """A field that only the service sets."""
    return _property(kind, description, readOnly=True, **more)


_COUNT = {"maximum": 2147483647, "minimum": 0}
_LOCATION = {
    "type": "object",
    "required": ["url", "metadata"],
    "properties": {
        "url": {"type": "string", "maxLength": 255},
        "metadata": {"type": "object"},
        "validation_data": {
            "description": "What the data at this place must turn out to be.",
            "type": "object",
            "writeOnly": True,
            "additionalProperties": False,
            "properties": {
                "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
                "os_hash_algo": {"type": "string", "maxLength": 64},
                "os_hash_value": {"type": "string", "maxLength": 128},
            },
            "required": ["os_hash_algo", "os_hash_value"],
        },
    },
}

BASE_PROPERTIES: dict[str, Any] = {
    "id": _property("string", "Identifies the image; a UUID.", maxLength=36, pattern=_UUID_PATTERN),
    "name": _property("null string", "What people call the image.", maxLength=255),
    "status": _read_only("string", "Where the image is in its life.", enum=_STATUSES),
    "visibility": _property("string", "Who may see the image.", enum=VISIBILITIES),
    "protected": _property("boolean", "Refuses deletion while true."),
    "os_hidden": _property("boolean", "Keeps the image out of ordinary lists."),
    "checksum": _read_only("null string", "MD5 of the data, in hexadecimal.", maxLength=32),
    "os_hash_algo": _read_only("null string", "The algorithm of os_hash_value.", maxLength=64),
    "os_hash_value": _read_only("null string", "Hash of the data, in hexadecimal.", maxLength=128),
    "owner": _property("null string", "The project that the image belongs to.", maxLength=255),
    "size": _read_only("null integer", "Bytes of data."),
    "virtual_size": _read_only("null integer", "Bytes of the disk that the data describes."),
    "container_format": _property(
        "null string", "What is wrapped around the disk.", enum=[None, *FORMATS.container]
    ),
    "disk_format": _property(
        "null string", "How the disk is written down.", enum=[None, *FORMATS.disk]
    ),
    "created_at": _read_only("string", "When the image was registered."),
    "updated_at": _read_only("string", "When the image was last changed."),
    "tags": _property("array", "Labels.", items={"type": "string", "maxLength": 255}),
    "direct_url": _read_only("string", "Where the data is, for those who may fetch it themselves."),
    "min_ram": _property(
        "integer", "MiB of memory that a server needs to boot the image.", **_COUNT
    ),
    "min_disk": _property(
        "integer", "GiB of disk that a server needs to boot the image.", **_COUNT
    ),
    "self": _read_only("string", "Path of the image."),
    "file": _read_only("string", "Path of the image's data."),
    "stores": _read_only("string", "The stores that hold the data, separated by commas."),
    "schema": _read_only("string", "Path of this schema."),
    "locations": _property("array", "All places that hold the data.", items=_LOCATION),
}
"""The fields that every image has."""

SITE_PROPERTIES: dict[str, Any] = {
    "kernel_id": _property(
        "null string",
        "The image with the kernel to boot, for an AMI-style image.",
        pattern=_UUID_PATTERN,
    ),
    "ramdisk_id": _property(
        "null string",
        "The image with the ramdisk to boot, for an AMI-style image.",
        pattern=_UUID_PATTERN,
    ),
    "instance_uuid": _property("string", "The server that this image was made of."),
    "architecture": _property("string", "The processor architecture that the image needs."),
    "os_distro": _property("string", "The operating system's distribution, in lower case."),
    "os_version": _property("string", "The operating system's version."),
    "description": _property("string", "What the image is, for people."),
    "cinder_encryption_key_id": _property(
        "string", "The key of an encrypted volume that was uploaded as this image."
    ),
    "cinder_encryption_key_deletion_policy": _property(
        "string",
        "Whether that key goes when the image goes.",
        enum=["on_image_deletion", "do_not_delete"],
    ),
}
"""Custom properties whose form is agreed on everywhere."""

READ_ONLY = frozenset(name for name, schema in BASE_PROPERTIES.items() if schema.get("readOnly"))
"""The fields that only the service sets."""

_MEMBER_PROPERTIES = {
    "created_at": _property("string", "When the project was invited."),
    "image_id": _property("string", "The shared image.", pattern=_UUID_PATTERN),
    "member_id": _property("string", "The invited project."),
    "schema": {"type": "string", "readOnly": True},
    "status": _property("string", "What the project answered.", enum=MEMBER_STATUSES),
    "updated_at": _property("string", "When that last changed."),
}


def image_schema(site_properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an image, with the installation's own properties.

    `site_properties` is what a schema-image.json holds: schemas by property name, or an object
    with these as `properties` and perhaps a list `required`. Raises ValueError for one that
    gives another meaning to a field that every image has.
    """
    required: list[str] = []
    if "properties" in site_properties and set(site_properties) <= {"properties", "required"}:
        required = list(site_properties.get("required", []))
        site_properties = site_properties["properties"]
    for name, schema in site_properties.items():
        if name in BASE_PROPERTIES and schema != BASE_PROPERTIES[name]:
            raise ValueError(f"Property '{name}' belongs to every image; define it no other way.")
    # glanceclient adds what is not base, and replaces what is.
    site = {name: {**schema, "is_base": False} for name, schema in site_properties.items()}
    return {
        "name": "image",
        "properties": {**site, **BASE_PROPERTIES},
        "additionalProperties": {"type": "string"},
        **({"required": required} if required else {}),
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


@lru_cache(maxsize=8)
def _documents(formats: Formats) -> dict[str, bytes]:
    image = image_schema(SITE_PROPERTIES)
    for name, known in (("disk_format", formats.disk), ("container_format", formats.container)):
        image["properties"][name] = {**image["properties"][name], "enum": [None, *known]}
    member = {"name": "member", "properties": _MEMBER_PROPERTIES}
    link = {"type": "string"}
    documents = {
        "image": image,
        "member": member,
        "images": {
            "name": "images",
            "properties": {
                "images": {"type": "array", "items": image},
                "first": link,
                "next": link,
                "schema": link,
            },
            "links": [
                {"rel": "first", "href": "{first}"},
                {"rel": "next", "href": "{next}"},
                {"rel": "describedby", "href": "{schema}"},
            ],
        },
        "members": {
            "name": "members",
            "properties": {"members": {"type": "array", "items": member}, "schema": link},
            "links": [{"rel": "describedby", "href": "{schema}"}],
        },
    }
    return {name: orjson.dumps(document) for name, document in documents.items()}


def schema_document(name: str, formats: Formats = FORMATS) -> bytes | None:
    """The JSON schema called `name`, with the formats that images may have; or None."""
    return _documents(formats).get(name)
