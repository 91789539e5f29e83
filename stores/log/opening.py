"""From a URL to the recorder of an event log."""

from calotype.stores.log.recorder import GroupCommitRecorder


def open_log(
    url: str, *, queue_limit: int = 4096, only_aggregates: bool = False
) -> GroupCommitRecorder:
    """Opens `sqlite:///relative`, `sqlite:////absolute` or `postgresql://...`.

    Connects on first use and creates no tables. Raises ValueError naming the fix.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        path = url.removeprefix("sqlite:///")
        if not url.startswith("sqlite:///") or not path:
            raise ValueError("a SQLite log needs a path: sqlite:///log.sqlite")
        from calotype.stores.log.sqlite import SQLiteRecorder

        return SQLiteRecorder(path, queue_limit=queue_limit, only_aggregates=only_aggregates)
    if scheme in ("postgresql", "postgres"):
        from calotype.stores.log.postgres import PostgresRecorder

        return PostgresRecorder(url, queue_limit=queue_limit, only_aggregates=only_aggregates)
    raise ValueError(
        f"the log's URL starts with '{scheme}': use sqlite:///path or postgresql://user@host/name"
    )
