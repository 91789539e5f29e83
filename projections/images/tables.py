"""The query tables of the images projection. The number in a name is its version.

`pages.py` and `walks.py` have the statements of lists. Every write pays for an index, so values
that most images have (status active, no minimum of memory) are in none: a walk by age meets them
soon.
"""

from calotype.stores.log.tables import Column, Index, Succession, Table

_SORT_END = ("created_at", "id")
_TAGGED_END = ("created_at", "image_id")


def _sorted_by(expression: str, name: str) -> Index:
    return Index(f"images_1_by_{name}", (expression, *_SORT_END))


def _by_set(table: str, *value: str) -> tuple[Index, ...]:
    """The indexes of a table of what images have, in each set of images by age."""
    return (
        Index(f"{table}_age", (*value, *_TAGGED_END)),
        Index(f"{table}_owner", (*value, "owner", *_TAGGED_END)),
        Index(f"{table}_public", (*value, *_TAGGED_END), where="visibility = 'public'"),
        Index(f"{table}_community", (*value, *_TAGGED_END), where="visibility = 'community'"),
    )


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
        Index("images_1_age", ("os_hidden", *_SORT_END)),
        Index("images_1_owner_age", ("owner", "os_hidden", *_SORT_END)),
        Index("images_1_visibility_age", ("visibility", "os_hidden", *_SORT_END)),
        Index("images_1_owner_name", ("owner", "coalesce(name, '')", *_SORT_END)),
        Index(
            "images_1_public_name",
            ("coalesce(name, '')", *_SORT_END),
            where="visibility = 'public'",
        ),
        Index("images_1_owner_status", ("owner", "status", *_SORT_END), where="status <> 'active'"),
        _sorted_by("coalesce(name, '')", "name"),
        _sorted_by("status", "status"),
        _sorted_by("coalesce(container_format, '')", "container_format"),
        _sorted_by("coalesce(disk_format, '')", "disk_format"),
        _sorted_by("coalesce(size, -1)", "size"),
        _sorted_by("updated_at", "updated_at"),
        Index("images_1_checksum", ("checksum", *_SORT_END), where="checksum IS NOT NULL"),
        Index(
            "images_1_os_hash_value",
            ("os_hash_value", *_SORT_END),
            where="os_hash_value IS NOT NULL",
        ),
        Index(
            "images_1_os_hash_algo",
            ("os_hash_algo", *_SORT_END),
            where="os_hash_algo <> 'sha512'",
        ),
        Index(
            "images_1_virtual_size",
            ("virtual_size", *_SORT_END),
            where="virtual_size IS NOT NULL",
        ),
        Index("images_1_min_ram", ("min_ram", *_SORT_END), where="min_ram <> 0"),
        Index("images_1_min_disk", ("min_disk", *_SORT_END), where="min_disk <> 0"),
        Index("images_1_protected", _SORT_END, where="protected"),
        # Images that were changed by a clock behind the one that they were made by: nearly none.
        Index("images_1_before_birth", ("created_at",), where="updated_at < created_at"),
    ),
    dropped_indexes=(
        "images_1_by_age",
        "images_1_by_owner",
        "images_1_public",
        "images_1_community",
        "images_1_hidden",
        "images_1_by_checksum",
        "images_1_by_os_hash_value",
    ),
)
"""One row per image that is not deleted. `document` is its JSON as the API shows it, ready to
send; `locations` a JSON array of `{url, metadata}`."""

MEMBERS = Table(
    name="image_members_2",
    columns=(
        Column("image_id", "uuid"),
        Column("member", "text"),
        Column("status", "text"),
        Column("document", "text"),
        Column("position", "integer"),
        Column("image_created_at", "text"),
    ),
    key=("image_id", "member"),
    owner="image_id",
    indexes=(Index("image_members_2_age", ("member", "status", "image_created_at", "image_id")),),
)
"""Projects that an image is offered to, in the order of joining; with the image's age, so that
what a project was offered is listed in order."""

TAGS = Table(
    name="image_tags_2",
    columns=(
        Column("image_id", "uuid"),
        Column("tag", "text"),
        Column("created_at", "text"),
        Column("owner", "text", nullable=True),
        Column("visibility", "text"),
    ),
    key=("image_id", "tag"),
    owner="image_id",
    indexes=_by_set("image_tags_2", "tag"),
)
"""Tags, with the image's age, owner and visibility, so that one index answers a filtered page of
each set of images in order."""

PROPERTIES = Table(
    name="image_properties_2",
    columns=(
        Column("image_id", "uuid"),
        Column("name", "text"),
        Column("value", "text"),
        Column("value_start", "text"),
        Column("created_at", "text"),
        Column("owner", "text", nullable=True),
        Column("visibility", "text"),
    ),
    key=("image_id", "name"),
    owner="image_id",
    indexes=_by_set("image_properties_2", "name", "value_start"),
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

_OF_IMAGE = f"JOIN {IMAGES.name} i ON i.id = t.image_id"
SUCCESSIONS = (
    Succession(
        MEMBERS, "image_members_1", f"SELECT t.*, i.created_at FROM {{former}} t {_OF_IMAGE}"
    ),
    Succession(
        TAGS, "image_tags_1", f"SELECT t.*, i.owner, i.visibility FROM {{former}} t {_OF_IMAGE}"
    ),
    Succession(
        PROPERTIES,
        "image_properties_1",
        f"SELECT t.*, i.owner, i.visibility FROM {{former}} t {_OF_IMAGE}",
    ),
)
"""Tables of the version before these, and how their rows become rows of today."""
