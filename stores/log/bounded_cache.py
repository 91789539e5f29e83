"""A cache that is bounded by the bytes that its values take, not by their number."""

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

ENTRY_BYTES = 4096
"""What an entry takes beside the bytes that are said of it: objects, keys, short strings."""


class BoundedCache(Generic[Key, Value]):
    """Keeps the values that were put last, as many as fit into `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value, which stays in the cache and counts as used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def pop(self, key: Key) -> Value | None:
        """The value, which is no longer in the cache."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.held_bytes -= entry[1]
        return entry[0]

    def put(self, key: Key, value: Value, value_bytes: int) -> None:
        """Keeps a value of about so many bytes, in the place of those not used for longest."""
        size = value_bytes + ENTRY_BYTES
        former = self._entries.pop(key, None)
        self._entries[key] = (value, size)
        self.held_bytes += size if former is None else size - former[1]
        while self.held_bytes > self._limit_bytes:
            _, (_, size) = self._entries.popitem(last=False)
            self.held_bytes -= size

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.held_bytes = 0
