"""Second sets of query tables: filled beside those in use, then put in their place while serving.

A spare table has the name of the table that it will replace, and a generation. Nobody reads it,
so it can be filled without the care that tables in use need. The switch is one transaction under
the log's lock: the next append and the next read find the new tables under the old names.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calotype.stores.log.append import Fence
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Change, Table, former, is_spare, of_generation

Rows = Mapping[Table, Sequence[tuple[Any, ...]]]
_TRACK = (
    "INSERT INTO tracking (application_name, notification_id) VALUES (:name, :position) "
    "ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id"
)


class SwitchRefused(Exception):
    """Readers held the tables all the time; nothing has changed, and it can be tried again."""


@dataclass(frozen=True, slots=True)
class Switch:
    """What changes together with the names of the tables."""

    fence: Fence
    """The lease of the process that switches."""
    finish: Callable[[], tuple[Sequence[Change], int]]
    """The last changes of the spare tables, and the position that they have reached with them.

    Called while nobody can append; may be called again when a try has failed.
    """
    built: str
    """The name under which the spare tables are tracked; it vanishes."""
    follower: str | None = None
    """The follower that keeps these tables: it continues from that position."""
    lease: str | None = None
    """The follower's lease. Its epoch grows, so that what its holder has begun is not written."""


class TableSet(ABC):
    """The tables of one projection, and their spare ones of one generation."""

    def __init__(self, tables: Sequence[Table], generation: int) -> None:
        self.tables = tuple(tables)
        self.generation = generation
        self.spare = {table: of_generation(table, generation) for table in tables}

    @abstractmethod
    def make(self) -> None:
        """Creates the spare tables, empty and without indexes."""

    @abstractmethod
    def add(self, rows: Rows) -> None:
        """Adds new rows, given by the table that they are of, to the spare tables."""

    @abstractmethod
    def index(self) -> Iterator[str]:
        """Makes the indexes of the spare tables; names each that is made, when it is made."""

    @abstractmethod
    def switch(self, switch: Switch) -> int:
        """Puts the spare tables in the place of those in use; the position at which they stand.

        Raises Fenced when the lease is gone, and SwitchRefused; nothing has changed then.
        """

    def remove_others(self) -> Iterator[str]:
        """Drops former tables and those of other generations, little by little; names them."""
        mine = {table.name for table in self.spare.values()}
        for name in self._there():
            if is_spare(name, self.tables) and name not in mine:
                self._drop(name)
                yield name

    def remove(self) -> None:
        """Drops the spare tables of this generation."""
        for table in self.spare.values():
            self._drop(table.name)

    def _put_in_place(self, fetch: Fetch, switch: Switch, position: int) -> None:
        """Renames the tables, and moves their follower to the position; in the open transaction."""
        for table, spare in self.spare.items():
            fetch(f"ALTER TABLE {table.name} RENAME TO {former(table).name}")
            fetch(f"ALTER TABLE {spare.name} RENAME TO {table.name}")
        fetch("DELETE FROM tracking WHERE application_name = :name", {"name": switch.built})
        if switch.follower is not None:
            fetch(_TRACK, {"name": switch.follower, "position": position})
        if switch.lease is not None:
            fetch("UPDATE leases SET epoch = epoch + 1 WHERE name = :name", {"name": switch.lease})

    @abstractmethod
    def _there(self) -> list[str]:
        """The names of all tables."""

    @abstractmethod
    def _drop(self, name: str) -> None:
        """Drops a table that nobody uses, if it is there."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection that it works on."""
