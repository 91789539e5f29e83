"""The query tables of the images projection. The number in a name is its version."""

from calotype.stores.log.tables import Column, Index, Table

_SORT_END = ("created_at", "id")


def _sorted_by(expression: str, name: str) -> Index:
    return Index(f"images_1_by_{name}", (expression, *_SORT_END))


IMAGES = Table(
    name="images_1",
    columns=(
        Column("id", "uuid"),
        Column("document", "text"),
        Column("status", "text"),
        Column("visibility", "text"),
        Column("owner", "text", nullable=True),
        Column("name", "text", nullable=True),
        Column("protected", "boolean"),
        Column("os_hidden", "boolean"),
        Column("disk_format", "text", nullable=True),
        Column("container_format", "text", nullable=True),
        Column("size", "integer", nullable=True),
        Column("virtual_size", "integer", nullable=True),
        Column("checksum", "text", nullable=True),
        Column("os_hash_algo", "text", nullable=True),
        Column("os_hash_value", "text", nullable=True),
        Column("min_disk", "integer"),
        Column("min_ram", "integer"),
        Column("created_at", "text"),
        Column("updated_at", "text"),
        Column("locations", "text"),
    ),
    key=("id",),
    owner="id",
    indexes=(
        Index("images_1_by_age", _SORT_END),
        Index("images_1_by_owner", ("owner", *_SORT_END)),
        Index("images_1_public", _SORT_END, where="visibility = 'public'"),
        Index("images_1_community", _SORT_END, where="visibility = 'community'"),
        Index("images_1_hidden", _SORT_END, where="os_hidden"),
        _sorted_by("coalesce(name, '')", "name"),
        _sorted_by("status", "status"),
        _sorted_by("coalesce(container_format, '')", "container_format"),
        _sorted_by("coalesce(disk_format, '')", "disk_format"),
        _sorted_by("coalesce(size, -1)", "size"),
        _sorted_by("updated_at", "updated_at"),
        Index("images_1_by_checksum", ("checksum",)),
        Index("images_1_by_os_hash_value", ("os_hash_value",)),
    ),
)
"""One row per image that is not deleted. `document` is its JSON as the API shows it, ready to
send; `locations` a JSON array of `{url, metadata}`."""

MEMBERS = Table(
    name="image_members_1",
    columns=(
        Column("image_id", "uuid"),
        Column("member", "text"),
        Column("status", "text"),
        Column("document", "text"),
        Column("position", "integer"),
    ),
    key=("image_id", "member"),
    owner="image_id",
    indexes=(Index("image_members_1_by_member", ("member", "status", "image_id")),),
)
"""Projects that an image is offered to, in the order of joining."""

TAGS = Table(
    name="image_tags_1",
    columns=(Column("image_id", "uuid"), Column("tag", "text"), Column("created_at", "text")),
    key=("image_id", "tag"),
    owner="image_id",
    indexes=(Index("image_tags_1_by_tag", ("tag", "created_at", "image_id")),),
)
"""Tags, with the image's age so that one index answers a filtered page in order."""

PROPERTIES = Table(
    name="image_properties_1",
    columns=(
        Column("image_id", "uuid"),
        Column("name", "text"),
        Column("value", "text"),
        Column("value_start", "text"),
        Column("created_at", "text"),
    ),
    key=("image_id", "name"),
    owner="image_id",
    indexes=(
        Index("image_properties_1_by_value", ("name", "value_start", "created_at", "image_id")),
    ),
)
"""Custom properties. `value_start` is what fits an index entry: the first 200 characters."""

BLOBS = Table(
    name="image_blobs_1",
    columns=(
        Column("image_id", "uuid"),
        Column("url", "text"),
        Column("store", "text"),
        Column("state", "text"),
        Column("upload_id", "text", nullable=True),
        Column("holder", "text", nullable=True),
    ),
    key=("image_id", "url"),
    owner="image_id",
    indexes=(
        Index("image_blobs_1_by_url", ("url",)),
        Index("image_blobs_1_unsettled", ("state", "image_id"), where="state <> 'stored'"),
        Index("image_blobs_1_by_holder", ("holder", "url"), where="holder IS NOT NULL"),
    ),
)
"""What should lie in the stores: intended, stored, retained and doomed bytes of every image."""

RESTORABLE = Table(
    name="restorable_images_1",
    columns=(
        Column("id", "uuid"),
        Column("owner", "text", nullable=True),
        Column("deleted_by", "text", nullable=True),
        Column("deleted_at", "text"),
        Column("retained_until", "text"),
        Column("held_bytes", "integer"),
        Column("document", "text"),
    ),
    key=("id",),
    owner="id",
    indexes=(
        Index("restorable_images_1_by_age", ("deleted_at", "id")),
        Index("restorable_images_1_by_owner", ("owner", "deleted_at", "id")),
        Index("restorable_images_1_by_user", ("deleted_by", "deleted_at", "id")),
        Index("restorable_images_1_by_end", ("retained_until", "id")),
    ),
)
"""Deleted images that can be restored. `document` is what the API lists of each; times are RFC
3339 in UTC with microseconds."""

TABLES = (IMAGES, MEMBERS, TAGS, PROPERTIES, BLOBS, RESTORABLE)
