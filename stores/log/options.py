"""How an event log is used: how long it may take, and how its database is reached."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What an operator may choose; see `[log]` in the settings."""

    queue_limit: int = 4096
    """Appends that wait; more are refused."""
    batch_seconds: float = 10.0
    """How long one transaction, or one answer, may take before the database counts as hung."""
    reserve_bytes: int = 0
    """SQLite: room on the disk that is kept for changes that make room."""
    connect_seconds: float = 5.0
    """How long one host may take to accept a connection."""
    prepared_statements: bool = True
    """PostgreSQL: false behind a pooler that gives each transaction another session."""
    read_seconds: float = 8.0
    """How long a read may take, and as long wait for a connection."""
    scan_connections: int = 2
    """How many reads that no index serves a process does at once."""
    listen_url: str = ""
    """PostgreSQL: where notifications come from, if the log's own URL cannot deliver them."""

    @property
    def longest_read_seconds(self) -> float:
        """A read is ended before its database, which does not answer, would count as hung."""
        return min(self.read_seconds, 0.8 * self.batch_seconds)

    @property
    def late_seconds(self) -> float:
        """A write that takes longer is reported as trouble, while it is still waited for."""
        return self.batch_seconds / 2
