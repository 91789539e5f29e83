"""The settings of `[limits]`."""

import re

from pydantic import Field, field_validator, model_validator

from calotype.ops.settings.table import Table

_STORAGE = re.compile("([0-9]{1,15})(B|KB|MB|GB|TB)?")
_SHIFTS = {"B": 0, "KB": 10, "MB": 20, "GB": 30, "TB": 40}


class Limits(Table):
    """`[limits]`: what one image and one project may have; -1 is no limit."""

    image_size_bytes: int = Field(1 << 40, ge=-1)
    """Bytes of one image."""
    properties: int = Field(128, ge=-1)
    """Custom properties of one image."""
    tags: int = Field(128, ge=-1)
    """Tags of one image."""
    members: int = Field(128, ge=-1)
    """Projects that one image is shared with."""
    locations: int = Field(10, ge=-1)
    """Places of one image."""
    property_value_bytes: int = Field(64 << 10, ge=-1)
    """Bytes of the value of one custom property, as UTF-8."""
    image_document_bytes: int = Field(1 << 20, ge=-1)
    """Bytes of all that one image holds beside its data, as JSON: its properties and tags; apart
    from these its locations with their metadata; and the names of its members, former ones too."""
    list_filters: int = Field(20, ge=1)
    """Filters of one list by tags; as many by custom properties, and by other attributes."""
    filter_values: int = Field(256, ge=1)
    """Values that `in:` of one filter takes."""
    user_storage: str = "0"
    """Image data of one project: a number with B, KB, MB, GB or TB (of 1024); 0 = no limit."""
    project_images: int = Field(-1, ge=-1)
    """Images of one project."""
    project_uploads: int = Field(-1, ge=-1)
    """Images of one project that data is being sent to at the same time."""
    keystone: bool = False
    """Take the limits of projects from Keystone's unified limits, instead of the three above."""
    endpoint_id: str = ""
    """keystone: id of our endpoint, whose service and region the limits are registered for."""
    service: str = "image"
    """keystone: without `endpoint_id`, the type of our service."""
    region: str = ""
    """keystone: without `endpoint_id`, the id of our region; empty = any."""
    system_scope: bool = False
    """keystone: ask with a token for the system, for a Keystone that shows the limits of all
    projects to its readers alone, and not to the role `service`."""
    cache_seconds: float = Field(10.0, ge=0)
    """keystone: how long a limit is used before it is asked for again."""

    @field_validator("user_storage")
    @classmethod
    def _storage(cls, text: str) -> str:
        if not _STORAGE.fullmatch(text):
            raise ValueError("use a number and B, KB, MB, GB or TB without a space, such as 500GB")
        return text

    @property
    def user_storage_bytes(self) -> int:
        """The limit of a project's data; 0: there is none."""
        number, unit = re.fullmatch(_STORAGE, self.user_storage).groups()  # type: ignore[union-attr]
        return int(number) << _SHIFTS[unit or "B"]

    @model_validator(mode="after")
    def _of_one_kind(self) -> "Limits":
        fixed = self.user_storage_bytes or self.project_images >= 0 or self.project_uploads >= 0
        if self.keystone and fixed:
            raise ValueError(
                "user_storage, project_images and project_uploads are not used when keystone = "
                "true: remove them, or register these limits in Keystone"
            )
        return self
