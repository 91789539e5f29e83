"""Quotas: how much a project may have, asked in the transaction that gives it more.

Whatever adds to what a project has (a new image, an upload, a place of data, a restored image, an
image of another owner) carries the project's limits into the transaction that appends it, and the
log itself refuses what does not fit. So nothing rests on a number that was read before.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from calotype.commands.errors import Decision, LimitExceeded
from calotype.commands.images.image_state import Usage
from calotype.commands.images.usage import NOTHING, USAGE, Limits, counts, grown_projects
from calotype.stores.log.errors import OverLimit
from calotype.stores.log.recorder import GroupCommitRecorder

_COUNTED = f"SELECT {', '.join(Usage._fields[1:])} FROM {USAGE.name} WHERE project = :project"
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """What one project may have at most; None is no limit."""

    images: int | None = None
    uploading: int | None = None
    """Images that data is being sent to at the same time."""
    bytes: int | None = None
    """Bytes of image data, those included that uploads under way have announced."""
    staged_bytes: int | None = None

    def in_order(self) -> Limits:
        """The same in the order of the table's columns."""
        return tuple(getattr(self, name, None) for name in Usage._fields[1:])


NO_LIMITS = ProjectLimits()


class LimitsOf(Protocol):
    """Knows the limits of projects, or whom to ask for them."""

    async def __call__(self, project: str) -> ProjectLimits:
        """The limits of a project. Raises Unavailable while they cannot be found out."""

    async def close(self) -> None:
        """Gives back what asking took."""


class SameForAll:
    """The same limits for every project."""

    def __init__(self, limits: ProjectLimits) -> None:
        self._limits = limits

    async def __call__(self, project: str) -> ProjectLimits:
        return self._limits

    async def close(self) -> None:
        """Nothing was taken."""


_SAID = {
    "images": "The project may have {limit} images, and has {value}.",
    "uploading": "The project may upload {limit} images at a time, and uploads {value}.",
    "bytes": "The project may have {limit} bytes of image data. It has {value}, what running "
    "uploads have announced included, and this takes {amount} more.",
    "staged_bytes": "The project may have {limit} staged bytes. It has {value}, and this takes "
    "{amount} more.",
}


class Quotas:
    """Counts what images take up, and finds out what their projects may have.

    Without `limits_of` everything is counted and nothing is limited. An image counts for its
    owner, whoever makes the change; what nobody owns has no limits.
    """

    def __init__(self, recorder: GroupCommitRecorder, limits_of: LimitsOf | None = None) -> None:
        self._recorder = recorder
        self.limits_of = limits_of
        self.limited = limits_of is not None

    async def limits(self, project: str | None) -> ProjectLimits:
        """What the project may have. Raises Unavailable while that cannot be found out."""
        if self.limits_of is None or not project:
            return NO_LIMITS
        return await self.limits_of(project)

    async def counted(self, project: str | None) -> Usage:
        """What the project has now."""
        rows = await self._recorder.fetch(_COUNTED, {"project": project or ""})
        return Usage(project or "", *(rows[0] if rows else NOTHING))

    async def room_bytes(self, project: str | None) -> int | None:
        """How many more bytes the project may have now; None: any number."""
        limit = (await self.limits(project)).bytes
        return None if limit is None else max(0, limit - (await self.counted(project)).bytes)

    async def close(self) -> None:
        """Gives back what asking for limits took."""
        if self.limits_of is not None:
            await self.limits_of.close()

    # ---- for the log ----

    counts = staticmethod(counts)

    async def limits_of_change(self, before: Usage | None, after: Usage) -> dict[str, Limits]:
        """The limits of the projects that have more after this change."""
        grown = grown_projects(before, after)
        return {project: (await self.limits(project)).in_order() for project in grown}

    def refusal(self, over: OverLimit, event: Any) -> LimitExceeded:
        """The answer to a change that does not fit."""
        text = _SAID[over.column].format(limit=over.limit, value=over.value, amount=over.amount)
        refusal = LimitExceeded(text)
        refusal.decision = Decision(f"quota:{over.column}", event.actor)
        return refusal
