"""Room on the disk that is kept for what makes room, so that a full disk can be emptied.

A file beside the database holds it. When the disk is full, it is given back in steps: to changes
that lead to bytes being removed, such as the deletion of an image, and to what reading needs, since
SQLite keeps an index of its WAL in a file. Until there is room to make it whole again, all other
changes are refused.
"""

import os
import sqlite3
from contextlib import suppress

from calotype.stores.log.errors import LogUnavailable

STEP_BYTES = 256 << 10
NO_SPACE = "there is no space left on the event log's disk; what is deleted makes room"

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TROUBLE = (*_DAMAGE, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)


def is_full(error: BaseException) -> bool:
    """Whether the disk was full; also of an error that was raised instead of SQLite's own."""
    return _code(error) in _FULL


def is_damage(error: BaseException) -> bool:
    """Whether the file is no longer the database that it should be."""
    return _code(error) & 0xFF in _DAMAGE


def is_trouble(error: BaseException) -> bool:
    """Whether the file or its disk is at fault, and not what was to be written."""
    return _code(error) & 0xFF in _TROUBLE


class Reserve:
    """The room that is kept for one database, by all processes together."""

    def __init__(self, path: str, size_bytes: int) -> None:
        """`path` is that of the database; 0 bytes: nothing is kept. Makes nothing: `fill` does."""
        self._size_bytes = size_bytes
        self._whole = f"{path}.reserve"
        self.spent = f"{path}.reserve-spent"
        """The file that is there while some of it is given back: the disk is, or just was, full."""

    def spend(self) -> bool:
        """Gives a step of it back to the disk; False when nothing is left."""
        with suppress(FileNotFoundError):
            os.rename(self._whole, self.spent)
        try:
            size_bytes = os.stat(self.spent).st_size
            if size_bytes == 0:
                return False
            os.truncate(self.spent, max(0, size_bytes - STEP_BYTES))
            return True
        except OSError:
            return False

    def fill(self) -> None:
        """Makes it whole where the disk has that room, and as much again."""
        if not self._size_bytes:
            self._forget()
            return
        if os.path.exists(self._whole):
            return
        spent = os.path.exists(self.spent)
        try:
            held_bytes = os.stat(self.spent).st_size if spent else 0
            disk = os.statvfs(os.path.dirname(self._whole) or ".")
            if disk.f_bavail * disk.f_frsize < 2 * self._size_bytes - held_bytes:
                return
            self._allocate(self.spent if spent else f"{self._whole}-new")
        except OSError:
            return  # Somebody else took the room, or made it whole.

    def _forget(self) -> None:
        for path in (self._whole, self.spent):
            with suppress(OSError):
                os.unlink(path)

    def _allocate(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
            os.rename(path, self._whole)
        except OSError:
            if path != self.spent:
                os.unlink(path)
            raise
        finally:
            os.close(descriptor)


def _code(error: BaseException) -> int:
    if isinstance(error, LogUnavailable):
        error = error.__context__ or error
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code
