"""Closing what another thread may be using at that moment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from calotype.stores.images.driver import StoreError


class LateRelease:
    """Calls `release` once: at `close`, or after the use that is under way then.

    A descriptor that is closed while a thread reads from it may be another file a moment later,
    and that thread would read from there. So the close waits for the use, and nobody for the
    close.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._lock = Lock()
        self._in_use = False
        self._closed = False

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keeps the release away meanwhile. Raises StoreError when it has been closed."""
        with self._lock:
            if self._closed:
                raise StoreError("The read was closed.")
            self._in_use = True
        try:
            yield
        finally:
            with self._lock:
                self._in_use = False
                release_now = self._closed
            if release_now:
                self._release()

    def close(self) -> None:
        """Releases now or when the present use ends. May be repeated."""
        with self._lock:
            first = not self._closed
            self._closed = True
            release_now = first and not self._in_use
        if release_now:
            self._release()
