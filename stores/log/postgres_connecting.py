"""Connections to PostgreSQL: their settings, and which errors mean that the database is away."""

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from calotype.stores.log.log import LogUnavailable

_SETTINGS = {
    "application_name": "calotype",
    "connect_timeout": 10,
    # A host that vanished without a word is noticed after half a minute instead of hours.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

_TROUBLE_CLASSES = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes that say nothing about what was asked: connection, deadlock, disk, shutdown."""

_READ_ONLY = "25006"
"""The server has become a standby: after a failover another one takes writes."""


def connection_settings(url: str) -> dict[str, Any]:
    """What to connect with; settings in the URL win over ours.

    Raises ValueError, without the URL's text, when it cannot be understood.
    """
    try:
        return _SETTINGS | conninfo_to_dict(url)
    except psycopg.Error:
        # The driver's own message repeats the URL, and with it the password.
        raise ValueError(
            "the log's URL cannot be read: use postgresql://user:password@host:5432/name"
            " with special characters percent-encoded"
        ) from None


def is_trouble(error: BaseException, connection: Any) -> bool:
    """Whether the database is the cause, and not what was asked of it.

    The class of exception does not tell: an index row that is too long is an OperationalError
    too, and comes back as often as it is tried.
    """
    if isinstance(error, LogUnavailable):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if connection is None or connection.closed:
        return True
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate[:2] in _TROUBLE_CLASSES or error.sqlstate == _READ_ONLY


def unavailable(error: BaseException, settings: dict[str, Any]) -> LogUnavailable:
    """The error for a database that is away, in one line and without the password."""
    if isinstance(error, LogUnavailable):
        return error
    text = " ".join(str(error).split())[:300] or type(error).__name__
    password = settings.get("password")
    return LogUnavailable(text.replace(password, "***") if password else text)
