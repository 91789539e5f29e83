"""Image data as files in one directory of a local or mounted file system."""

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from calotype.stores.images.closing import LateRelease
from calotype.stores.images.driver import (
    Chunk,
    DataExists,
    DataMissing,
    Sink,
    Source,
    StoredObject,
    StoreError,
    StoreForbidden,
    StoreFull,
    StoreUnavailable,
)
from calotype.stores.images.keys import MARKER, checked_key, is_key, key_in

_INCOMING = ".incoming"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
# Not blocking, because the open of a named pipe that somebody put there would wait for ever.
_READ_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
_WRITEBACK_BYTES = 8 << 20
"""After each so many bytes the kernel is told to begin with writing them to disk, so that the sync
at the end finds little left to wait for, and large uploads do not fill memory with their bytes."""
_SYNC_FILE_RANGE_WRITE = 2

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux has it.
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def store_error(error: OSError, doing: str) -> StoreError:
    """The promise's error for what the operating system said."""
    text = f"{doing}: {os.strerror(error.errno) if error.errno else type(error).__name__}."
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return StoreFull(f"{text} Free or add space, or raise the quota.")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StoreForbidden(f"{text} Let the service's user write there.")
        case errno.EEXIST:
            return DataExists(text)
        case _:
            return StoreUnavailable(text)


def open_file(options: Mapping[str, Any]) -> "FileDriver":
    """The driver for the option `directory`. Raises ValueError for a wrong option."""
    strange = set(options) - {"directory"}
    if strange:
        raise ValueError(f"{min(strange)}: a file store has no such option; it has 'directory'.")
    directory = options.get("directory")
    if not isinstance(directory, (str, Path)) or not str(directory):
        raise ValueError("directory: give the path of the folder that holds the image data.")
    if not os.path.isabs(directory):
        raise ValueError(f"directory: {str(directory)!r} is relative; give the full path.")
    return FileDriver(Path(directory))


class FileDriver:
    """A directory: finished data under its key, unfinished data in the folder `.incoming`.

    The folder is in the same file system, so that a finished file gets its name in one step. It
    also tells the store from an empty mount point: while it is not there nothing is `missing`,
    the whole store is unavailable.
    """

    kind = "file"

    def __init__(self, directory: Path) -> None:
        """Uses `directory` and makes it if needed. Raises StoreForbidden, StoreUnavailable."""
        self._directory = os.path.abspath(directory)
        self._incoming = os.path.join(self._directory, _INCOMING)
        self.base_url = f"file://{quote(self._directory.rstrip('/'))}/"
        try:
            os.makedirs(self._directory, _FOLDER_MODE, exist_ok=True)
            os.makedirs(self._incoming, _FOLDER_MODE, exist_ok=True)
        except OSError as error:
            raise store_error(error, f"Cannot make the directory {self._directory}") from error

    def url_of(self, key: str) -> str:
        return self.base_url + checked_key(key)

    def create(self, key: str, size_bytes: int | None) -> Sink:
        final = os.path.join(self._directory, checked_key(key))
        if os.path.lexists(final):
            raise DataExists(f"{final} exists already.")
        temporary = self._temporary(key)
        try:
            descriptor = os.open(temporary, _NEW_FILE, _FILE_MODE)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise DataExists(f"{final} is being written already.") from error
            raise store_error(error, f"Cannot create a file in {self._incoming}") from error
        return _FileSink(self.base_url + key, descriptor, temporary, final)

    def open(self, url: str, start: int = 0, length: int | None = None) -> Source:
        path = self._path(url)
        try:
            descriptor = os.open(path, _READ_FILE)
        except OSError as error:
            raise self._unreadable(error, path) from error
        try:
            size_bytes = self._size_of(os.fstat(descriptor), path)
            wanted = size_bytes - start if length is None else length
            if start < 0 or wanted < 0 or start + wanted > size_bytes:
                raise StoreUnavailable(
                    f"{path} has {size_bytes} bytes; bytes {start} to {start + wanted} were wanted."
                )
            os.lseek(descriptor, start, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return _FileSource(descriptor, path, start, wanted)

    def size(self, url: str) -> int:
        path = self._path(url)
        try:
            return self._size_of(os.lstat(path), path)
        except OSError as error:
            raise self._unreadable(error, path) from error

    def exists(self, url: str) -> bool:
        try:
            self.size(url)
        except DataMissing:
            return False
        return True

    def delete(self, url: str) -> None:
        path = self._path(url)
        try:
            os.unlink(path)
            _sync_folder(self._directory)
        except OSError as error:
            raise self._unreadable(error, path, "Cannot delete") from error

    def break_off(self, url: str) -> None:
        temporary = self._temporary(key_in(url, self.base_url))
        try:
            os.unlink(temporary)
        except FileNotFoundError as error:
            if not os.path.isdir(self._incoming):
                raise self._unreadable(error, temporary) from error
        except OSError as error:
            raise store_error(error, f"Cannot discard a file in {self._incoming}") from error

    def found(self) -> Iterator[StoredObject]:
        yield from self._found_in(self._incoming, unfinished=True)
        yield from self._found_in(self._directory, unfinished=False)

    def discard(self, thing: StoredObject) -> None:
        name = os.path.basename(thing.handle)
        if not thing.unfinished or name != thing.handle or not is_key(name):
            raise StoreForbidden("Only an unfinished file of this store can be discarded.")
        try:
            os.unlink(os.path.join(self._incoming, name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(error, f"Cannot discard a file in {self._incoming}") from error

    def read_marker(self) -> bytes | None:
        path = os.path.join(self._directory, MARKER)
        try:
            return Path(path).read_bytes()
        except FileNotFoundError as error:
            if os.path.isdir(self._incoming):
                return None
            raise self._unreadable(error, path) from error
        except OSError as error:
            raise store_error(error, f"Cannot read {path}") from error

    def write_marker(self, content: bytes) -> None:
        path = os.path.join(self._directory, MARKER)
        unfinished = f"{path}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(unfinished, _NEW_FILE, _FILE_MODE)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(unfinished, path)
            except BaseException:
                os.unlink(unfinished)
                raise
            _sync_folder(self._directory)
        except OSError as error:
            raise store_error(error, f"Cannot write {path}") from error

    def check(self) -> None:
        probe = os.path.join(self._incoming, f"check.{secrets.token_hex(8)}")
        try:
            os.close(os.open(probe, _NEW_FILE, _FILE_MODE))
            try:
                # The one thing asked of the file system beyond the ordinary; see `commit`.
                os.link(probe, probe + "-link")
                os.unlink(probe + "-link")
            finally:
                os.unlink(probe)
        except OSError as error:
            refusal = store_error(error, f"The store {self._directory} cannot be written")
            if not isinstance(refusal, StoreFull):
                raise refusal from error

    def close(self) -> None:
        """Nothing is held between calls."""

    def _temporary(self, key: str) -> str:
        """Made from the key alone, so that whoever breaks off a write finds it."""
        return os.path.join(self._incoming, f"{key}.part")

    def _path(self, url: str) -> str:
        return os.path.join(self._directory, key_in(url, self.base_url))

    def _size_of(self, status: os.stat_result, path: str) -> int:
        if not stat.S_ISREG(status.st_mode):
            raise StoreForbidden(f"{path} is not a regular file.")
        return status.st_size

    def _unreadable(self, error: OSError, path: str, doing: str = "Cannot read") -> StoreError:
        if isinstance(error, FileNotFoundError):
            if os.path.isdir(self._incoming):
                return DataMissing(f"{path} is not there.")
            return StoreUnavailable(
                f"The store {self._directory} has lost its folder {_INCOMING}: is it mounted?"
            )
        if error.errno == errno.ELOOP:
            return StoreForbidden(f"{path} is a symbolic link.")
        return store_error(error, f"{doing} {path}")

    def _found_in(self, folder: str, *, unfinished: bool) -> Iterator[StoredObject]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if thing := self._found_entry(entry, unfinished):
                        yield thing
        except OSError as error:
            raise store_error(error, f"Cannot list {folder}") from error

    def _found_entry(self, entry: os.DirEntry[str], unfinished: bool) -> StoredObject | None:
        key = entry.name.rpartition(".")[0] if unfinished else entry.name
        if not is_key(key) or not is_key(entry.name):
            return None
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # It was finished or removed since the listing.
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        url = self.base_url + key
        return StoredObject(url, status.st_size, status.st_mtime, unfinished, entry.name)


class _FileSink:
    def __init__(self, url: str, descriptor: int, temporary: str, final: str) -> None:
        self.url = url
        self._descriptor: int | None = descriptor
        self._temporary: str | None = temporary
        self._final = final
        self._size_bytes = 0
        self._begun_bytes = 0

    def write(self, chunk: Chunk) -> None:
        view = memoryview(chunk)
        assert self._descriptor is not None
        try:
            while view:
                count = os.write(self._descriptor, view)
                self._size_bytes += count
                view = view[count:]
        except OSError as error:
            raise store_error(error, f"Cannot write {self._final}") from error
        if (
            _sync_file_range is not None
            and self._size_bytes - self._begun_bytes >= _WRITEBACK_BYTES
        ):
            # What goes wrong here the sync at the end will tell.
            left = self._size_bytes - self._begun_bytes
            _sync_file_range(self._descriptor, self._begun_bytes, left, _SYNC_FILE_RANGE_WRITE)
            self._begun_bytes = self._size_bytes

    def commit(self) -> None:
        assert self._descriptor is not None
        assert self._temporary is not None
        try:
            os.fsync(self._descriptor)
            self._close()
            # A link, unlike a rename, refuses a name that is taken.
            os.link(self._temporary, self._final)
        except FileNotFoundError as error:
            if os.path.isdir(os.path.dirname(self._temporary)):
                raise DataMissing(f"{self._temporary} was removed while written.") from error
            raise store_error(error, f"Cannot finish {self._final}") from error
        except OSError as error:
            raise store_error(error, f"Cannot finish {self._final}") from error
        temporary, self._temporary = self._temporary, None
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            _sync_folder(os.path.dirname(self._final))
        except OSError as error:
            # It is not certain to survive a power loss, so it must not count as stored.
            with suppress(OSError):
                os.unlink(self._final)
            raise store_error(error, f"Cannot finish {self._final}") from error

    def abort(self) -> None:
        with suppress(OSError):
            self._close()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _FileSource:
    def __init__(self, descriptor: int, path: str, start: int, length: int) -> None:
        self.offset_bytes = start
        self.length_bytes = length
        self._descriptor = descriptor
        self._path = path
        self._next = start
        self._stop = start + length
        self._life = LateRelease(lambda: os.close(descriptor))

    def read(self, size_bytes: int) -> bytes:
        wanted = min(size_bytes, self._stop - self._next)
        with self._life.use():
            try:
                block = os.pread(self._descriptor, wanted, self._next)
            except OSError as error:
                raise store_error(error, f"Cannot read {self._path}") from error
        if not block and wanted:
            raise StoreUnavailable(f"{self._path} ended early, at byte {self._next}.")
        self._next += len(block)
        return block

    def close(self) -> None:
        self._life.close()

    def fileno(self) -> int | None:
        return self._descriptor


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
