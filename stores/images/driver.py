"""What a store of image data promises, whatever its kind.

A driver is code that speaks to one kind of store; a store is one place that an operator named.
Image bytes are write-once: a key is written one time, in one go, and never changed afterwards.
Every method blocks and is called from worker threads only. A new kind of store is one module with
a class that keeps these promises, and one line in `opening.py`; `tests/stores/test_contract.py`
is the proof that it does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

Chunk = bytes | bytearray | memoryview
"""What a sink takes: any run of bytes; it is only valid until `write` returns."""


class StoreError(Exception):
    """A store could not do what was asked.

    The first argument explains it to an operator: what failed, where, and the fix where one is
    known. It never holds a credential.
    """


class StoreFull(StoreError):
    """There is no space left, or a quota of the store is reached. Nothing was kept."""


class DataMissing(StoreError):
    """The store is reachable and does not have these bytes."""


class StoreUnavailable(StoreError):
    """The store did not answer, broke off, or answered nonsense; trying again later may help."""


class StoreForbidden(StoreError):
    """The store refuses us, or the key or URL is not one of this store. Nothing was touched."""


class DataExists(StoreError):
    """Something stands under that key already; it was left as it is."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One thing that lies in a store.

    `unfinished` marks what a write has not finished: a temporary file, an open multipart upload.
    It may be broken off or still under way, so compare `modified_at` (seconds since the epoch,
    by the store's clock) with the writes known to be running before discarding it. `url` is where
    the bytes stand, or would have stood. `size_bytes` is 0 where the store does not tell the size
    of an unfinished thing. `handle` means something to the driver only.
    """

    url: str
    size_bytes: int
    modified_at: float
    unfinished: bool
    handle: str


class Sink(Protocol):
    """One write under way. Used by one thread at a time, never by two at once."""

    url: str

    def write(self, chunk: Chunk) -> None:
        """Takes the next bytes. Raises StoreFull, StoreUnavailable, StoreForbidden."""

    def commit(self) -> None:
        """Makes the bytes readable under `url`; they survive a power loss once this returns.

        Raises DataExists rather than overwriting, and what `write` raises. After a failure the
        caller calls `abort`.
        """

    def abort(self) -> None:
        """Ends the write and removes what it has left. Never raises; no effect after `commit`.

        What cannot be removed now, because the store is gone, is reported by `found()` later.
        """


class Source(Protocol):
    """One read under way. Used by one thread at a time; `close` may come from any other."""

    length_bytes: int
    """How many bytes `read` gives altogether."""
    offset_bytes: int
    """Where in the stored bytes they begin."""

    def read(self, size_bytes: int) -> bytes:
        """Up to so many of the next bytes; `b""` only when `length_bytes` have been given.

        Raises StoreUnavailable when the store dies or ends the data early, DataMissing when the
        bytes have gone meanwhile.
        """

    def close(self) -> None:
        """Gives everything back. Does not block, may be repeated, and may overtake a `read`."""

    def fileno(self) -> int | None:
        """A descriptor of a regular file positioned at `offset_bytes`, for sendfile, or None.

        It is valid until `close`; nobody may be using it then.
        """


class Driver(Protocol):
    """A store that can be written, read, listed and cleaned.

    URLs never hold a credential. A URL that is not of this very store (another directory, `..`,
    another bucket or host) raises StoreForbidden, and so does a key that is not a plain name;
    nothing is touched then.
    """

    kind: str
    """"file", "s3" ..."""

    base_url: str
    """`url_of(key)` is this and the key, for every plain name."""

    def url_of(self, key: str) -> str:
        """Where `key` will stand; known before anything is written. Asks nobody."""

    def create(self, key: str, size_bytes: int | None) -> Sink:
        """Begins a write; `size_bytes` is what will come, None when that is not known.

        Nothing is readable under the URL until `commit`. Raises DataExists when that can be told
        already, StoreFull, StoreUnavailable, StoreForbidden.
        """

    def open(self, url: str, start: int = 0, length: int | None = None) -> Source:
        """Begins a read of `length` bytes from byte `start`, or of all from there.

        Raises DataMissing, and StoreUnavailable when the stored bytes end before the wanted ones
        do: a short answer is never given for a whole one.
        """

    def size(self, url: str) -> int:
        """How many bytes stand there. Raises DataMissing, StoreUnavailable, StoreForbidden."""

    def exists(self, url: str) -> bool:
        """Whether finished bytes stand there. Raises StoreUnavailable, StoreForbidden."""

    def delete(self, url: str) -> None:
        """Removes finished bytes. Raises DataMissing when they are not there."""

    def break_off(self, url: str) -> None:
        """Removes everything unfinished that lies under `url`; no effect when nothing does.

        It is found without listing the store. A write that was still under way fails with
        DataMissing at its `commit`; only one that the store has not heard of yet cannot be broken
        off, because its bytes come with the commit. Raises StoreUnavailable, StoreForbidden.
        """

    def found(self) -> Iterator[StoredObject]:
        """Everything in the store that is ours, unfinished things too, in bounded memory.

        What is written or deleted meanwhile may be seen or not. Raises StoreUnavailable rather
        than ending early.
        """

    def discard(self, thing: StoredObject) -> None:
        """Removes an unfinished thing; no effect when it has gone already.

        A write that was still under way fails at its `commit`. Raises StoreForbidden for a
        finished thing.
        """

    def read_marker(self) -> bytes | None:
        """What `write_marker` wrote last; None where nothing was ever written.

        Raises StoreUnavailable, StoreForbidden.
        """

    def write_marker(self, content: bytes) -> None:
        """Keeps a few hundred bytes beside the data, whole or not at all, in place of the last.

        They stand under a name that can be no key, so they are never read, listed or removed as
        data. Raises StoreFull, StoreUnavailable, StoreForbidden.
        """

    def check(self) -> None:
        """Raises when the store cannot be used, with the fix; for start-up and readiness.

        A full store passes: it still serves downloads.
        """

    def close(self) -> None:
        """Gives connections back. Reads and writes that are under way may fail."""
