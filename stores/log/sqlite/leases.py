"""Leases in SQLite end by the machine's monotonic clock, which all of its processes share.

A lease of an earlier boot is over, and so is one whose end lies further ahead than twice its
length: where boots cannot be told apart, it was written before the clock began again.
"""

import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

LIVES = "boot IS :boot AND expires_at >= :now AND expires_at <= :now + 2 * coalesce(seconds, 0)"
HOLD = (
    "INSERT INTO leases (name, holder, epoch, expires_at, seconds, boot) "
    "VALUES (:name, :holder, 1, :now + :seconds, :seconds, :boot) "
    "ON CONFLICT (name) DO UPDATE SET holder = :holder, expires_at = excluded.expires_at, "
    "seconds = :seconds, boot = :boot, epoch = epoch + (holder <> :holder) "
    f"WHERE holder = :holder OR NOT ({LIVES}) RETURNING epoch"
)


def clock() -> dict[str, Any]:
    """The monotonic clock, which all processes of the machine share, and which boot it is of."""
    return {"now": time.monotonic(), "boot": _boot_id()}


@cache
def _boot_id() -> str:
    """Names this boot of the machine, which the monotonic clock began with; empty: unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
