"""Settings of the event log."""

from typing import Annotated

from pydantic import Field

from calotype.ops.settings.table import Table, url_of

_POSTGRESQL = ("postgresql://", "postgres://")
_SERVER = "postgresql://user:password@host/database"
_LogUrl = Annotated[str, url_of("sqlite:///", *_POSTGRESQL, form=f"sqlite:///path or {_SERVER}")]
_ListenUrl = Annotated[str, url_of(*_POSTGRESQL, form=_SERVER)]


class Log(Table):
    """`[log]`: the event log."""

    url: _LogUrl = ""
    """sqlite:///path or postgresql://...; empty = SQLite in the data directory."""
    queue_limit: int = Field(4096, ge=1)
    """Changes waiting to be written; more are refused with 503."""
    batch_seconds: float = Field(10.0, ge=1)
    """How long the database may take to write or to answer before it counts as hung: what waited
    is settled on another connection, or gets 503. On SQLite, how long to wait for its lock."""
    reserve_bytes: int = Field(8 << 20, ge=0)
    """SQLite: room on the disk that is kept for deleting images when it is full; 0 = none."""
    connect_seconds: int = Field(5, ge=2)
    """PostgreSQL: how long each host of the URL may take to accept a connection."""
    prepared_statements: bool = True
    """PostgreSQL: false behind PgBouncer in transaction mode, which then needs `listen_url` too."""
    listen_url: _ListenUrl = ""
    """PostgreSQL: URL that leads to the server itself, for notifications; empty = the URL above."""
    read_seconds: float = Field(8.0, gt=0)
    """How long a read may take, and as long wait for a connection; then it is ended, with 503. At
    most four fifths of `batch_seconds`, since what is silent for longer counts as hung."""
    scan_connections: int = Field(2, ge=1, le=64)
    """Lists that no index serves which a process reads at once; see [lists.md](lists.md)."""
    cache_bytes: int = Field(16 << 20, ge=0)
    """What the images that a process remembers take, about: for commands, and for each follower."""
