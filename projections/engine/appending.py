"""Rows that change without an event, and the checkpoint that moves with them."""

import asyncio
from collections.abc import Sequence

from eventsourcing.persistence import Tracking

from calotype.stores.log.append import Append, Fence
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change


async def append_rows(
    recorder: GroupCommitRecorder,
    changes: Sequence[Change],
    *,
    tracking: Tracking | None = None,
    fence: Fence | None = None,
) -> None:
    """Returns when the changes and the checkpoint are written, together.

    Raises Fenced when the lease of the fence has another holder, and IntegrityError when the
    checkpoint is not behind `tracking`; nothing is written then.
    """
    future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    recorder.submit(Append((), lambda: changes, tracking, future, fence=fence))
    await future
