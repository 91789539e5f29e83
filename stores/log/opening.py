"""From a URL to the recorder of an event log."""

from typing import Any

from calotype.stores.log.options import LogOptions
from calotype.stores.log.recorder import GroupCommitRecorder


def open_log(url: str, *, only_aggregates: bool = False, **options: Any) -> GroupCommitRecorder:
    """Opens `sqlite:///relative`, `sqlite:////absolute` or `postgresql://...`.

    `options` are those of LogOptions. Connects on first use and creates no tables. Raises
    ValueError naming the fix.
    """
    chosen = LogOptions(**options)
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        path = url.removeprefix("sqlite:///")
        if not url.startswith("sqlite:///") or not path:
            raise ValueError("a SQLite log needs a path: sqlite:///log.sqlite")
        from calotype.stores.log.sqlite.recorder import SQLiteRecorder

        return SQLiteRecorder(path, chosen, only_aggregates=only_aggregates)
    if scheme in ("postgresql", "postgres"):
        from calotype.stores.log.postgres.recorder import PostgresRecorder

        return PostgresRecorder(url, chosen, only_aggregates=only_aggregates)
    raise ValueError(
        f"the log's URL starts with '{scheme}': use sqlite:///path or postgresql://user@host/name"
    )
