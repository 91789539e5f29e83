"""Snapshots: the state of an aggregate at some of its versions, so that none is folded from birth.

They are a cache that happens to lie in the database: outside the log and its seal, written in the
transaction that appends the events, and used only where their fingerprint is that of the present
code. Nothing that rebuilds, verifies or audits reads them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Mapper, StoredEvent

from calotype.stores.log.tables import Column, Table

SNAPSHOT_EVENTS = 32
"""A snapshot is written whenever an aggregate's version passes a multiple of this."""
LARGE_BYTES = 256 << 10
"""And with every append of so many bytes, so that few bytes have to be read after a snapshot."""
END = 2**62
"""A version that no aggregate reaches."""
MADE_BYTES = 4 << 20
"""So many bytes of missing snapshots are made up for in one step at most, but for the last."""

SNAPSHOTS = Table(
    name="aggregate_snapshots_1",
    columns=(
        Column("originator_id", "uuid"),
        Column("version", "integer"),
        Column("fingerprint", "text"),
        Column("state", "text"),
    ),
    key=("originator_id", "version"),
    owner="originator_id",
    grows=("fingerprint", "state"),
)

Row = tuple[Any, ...]
SNAPSHOT = "snapshot"
"""What stands in the place of a topic in the row of a snapshot."""

_EVENTS = (
    "SELECT originator_version, topic, state, NULL FROM stored_events "
    "WHERE originator_id = :id AND originator_version > :version "
    "AND originator_version < :until ORDER BY 1"
)
_FROM_SNAPSHOT = (
    f"WITH s AS (SELECT version, state FROM {SNAPSHOTS.name} WHERE originator_id = :id "
    "AND version > :version AND version < :until AND fingerprint = :fingerprint "
    "ORDER BY version DESC LIMIT 1) "
    f"SELECT version, '{SNAPSHOT}', NULL, state FROM s UNION ALL "
    "SELECT originator_version, topic, state, NULL FROM stored_events WHERE originator_id = :id "
    "AND originator_version > coalesce((SELECT version FROM s), :version) "
    "AND originator_version < :until ORDER BY 1"
)


VERSION_AT = (
    "WITH RECURSIVE halves (low, high) AS ("
    "SELECT CAST(0 AS bigint), coalesce((SELECT max(originator_version) FROM stored_events "
    "WHERE originator_id = :id), 0) + 1 UNION ALL "
    "SELECT CASE WHEN e.notification_id <= :position THEN e.originator_version ELSE h.low END, "
    "CASE WHEN e.notification_id <= :position THEN h.high ELSE e.originator_version END "
    "FROM halves h JOIN stored_events e ON e.originator_id = :id "
    "AND e.originator_version = (h.low + h.high) / 2 WHERE h.high - h.low > 1) "
    "SELECT max(low) FROM halves"
)
"""The version of the aggregate `:id` at `:position`, 0 before its birth: found by halving, because
versions are numbered without gaps and positions grow with them."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """How the state of one kind of aggregate is written down and read back."""

    fingerprint: str
    """Names the code that makes the state: a snapshot of another one is never used."""
    encode: Callable[[Any], str]
    """The whole state as text; `decode` makes an equal aggregate of it."""
    decode: Callable[[str], Any]

    def row(self, aggregate: Any) -> Row:
        """The row of SNAPSHOTS for the aggregate as it is."""
        return (aggregate.id, aggregate.version, self.fingerprint, self.encode(aggregate))


class Streams:
    """Reads aggregates of one kind: from the newest snapshot that may be used, then event by event.

    Without `snapshots` everything is folded from birth.
    """

    def __init__(self, mapper: Mapper[Any], snapshots: Snapshots | None = None) -> None:
        self._mapper = mapper
        self.snapshots = snapshots

    def since(
        self, aggregate_id: UUID, version: int = 0, until: int = END
    ) -> tuple[str, dict[str, Any]]:
        """The query, for `fetch`, of what `fold` needs beyond `version` and before `until`."""
        values: dict[str, Any] = {"id": aggregate_id, "version": version, "until": until}
        if self.snapshots is None:
            return _EVENTS, values
        return _FROM_SNAPSHOT, values | {"fingerprint": self.snapshots.fingerprint}

    def fold(self, aggregate: Any, aggregate_id: UUID, rows: Iterable[Row]) -> Any:
        """The aggregate after these rows of the query; None if there is nothing at all.

        Every event is checked to follow on the version before it.
        """
        for version, topic, state, snapshot in rows:
            if snapshot is not None:
                assert self.snapshots is not None
                aggregate = self.snapshots.decode(snapshot)
            else:
                stored = StoredEvent(aggregate_id, version, topic, bytes(state))
                aggregate = self._mapper.to_domain_event(stored).mutate(aggregate)  # type: ignore[attr-defined]
        return aggregate

    def fold_and_mend(
        self, aggregate: Any, aggregate_id: UUID, rows: Sequence[Row]
    ) -> tuple[Any, list[Row]]:
        """The same, and the rows of SNAPSHOTS that should have been on the way.

        They are missing in logs that are older than snapshots, and after a change of the code.
        """
        missing: list[Row] = []
        made_bytes = 0
        for row in rows:
            aggregate = self.fold(aggregate, aggregate_id, [row])
            if self.snapshots is not None and row[0] % SNAPSHOT_EVENTS == 0 and row[2] is not None:
                is_last = row[0] > rows[-1][0] - SNAPSHOT_EVENTS
                if made_bytes < MADE_BYTES or is_last:
                    missing.append(self.snapshots.row(aggregate))
                    made_bytes += len(missing[-1][-1])
        return aggregate, missing


def is_due(version: int, events: Sequence[StoredEvent]) -> bool:
    """Whether the append of these events, up to `version`, should leave a snapshot."""
    passed = version // SNAPSHOT_EVENTS > (version - len(events)) // SNAPSHOT_EVENTS
    return passed or sum(len(event.state) for event in events) >= LARGE_BYTES


def bytes_of(rows: Sequence[Row]) -> int:
    """How many bytes of events and snapshots are in rows of the query."""
    return sum(len(row[2] or row[3] or b"") for row in rows)
