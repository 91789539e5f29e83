"""The counters of what each project's images take up, written with the events that change it."""

from collections.abc import Sequence

from calotype.commands.images.image_state import Usage
from calotype.stores.log.tables import Column, Count, Table

USAGE = Table(
    name="project_usage_1",
    columns=(Column("project", "text"), *(Column(name, "integer") for name in Usage._fields[1:])),
    key=("project",),
    owner="project",
)
"""One row a project that ever owned an image. A row of zeros says the same as none."""

Amounts = tuple[int, ...]
"""Of the columns of USAGE after `project`, in their order."""
Limits = tuple[int | None, ...]
"""What each of them may reach at most; None: there is no limit."""
NOTHING: Amounts = (0,) * (len(USAGE.columns) - 1)


def grown_projects(before: Usage | None, after: Usage) -> list[str]:
    """The projects of which more is taken up after this change than before."""
    return [count.key for count in counts(before, after) if any(a > 0 for a in count.amounts)]


def counts(
    before: Usage | None, after: Usage, limits: dict[str, Limits] | None = None
) -> Sequence[Count]:
    """What the change of one image changes in USAGE, under the limits of its projects.

    `before` is None for a new image. An image that gets another owner leaves one project and
    comes to another.
    """
    if before == after:
        return ()
    if before is None or before.project != after.project:
        amounts: dict[str, Amounts] = {after.project: after[1:]}
        if before is not None:
            amounts[before.project] = tuple(-amount for amount in before[1:])
    else:
        amounts = {
            after.project: tuple(new - old for old, new in zip(before[1:], after[1:], strict=True))
        }
    limits = limits or {}
    return [
        Count(USAGE, project, each, limits.get(project, ()))
        for project, each in amounts.items()
        if any(each)
    ]
