"""What the event log refuses with."""

from typing import Any

from eventsourcing.persistence import IntegrityError, OperationalError


class LogFull(Exception):
    """Too many appends wait already; nothing was written."""


class LogUnavailable(OperationalError):
    """The database cannot be reached; the message holds no credentials."""


class ReadTooLong(LogUnavailable):
    """A read took longer than reads may, and was ended."""


class Fenced(IntegrityError):
    """The lease that an append depends on has another holder by now; nothing was written."""


class OverLimit(Exception):
    """A counter would have grown beyond its limit; nothing was written."""

    def __init__(self, key: Any, column: str, value: int, amount: int, limit: int) -> None:
        super().__init__(f"{column} of {key}: {value} + {amount} is more than {limit}")
        self.key = key
        self.column = column
        self.value = value
        """The counter's value, without this change."""
        self.amount = amount
        """The amount that this change would have added."""
        self.limit = limit


class TooManyConflicts(Exception):
    """Other processes changed the same aggregate each time we tried."""


class AlreadyExists(Exception):
    """An aggregate with this id was created before (it may be deleted since)."""
