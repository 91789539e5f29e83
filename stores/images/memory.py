"""What the C library keeps of memory that was used, told to suit bodies that stream through.

glibc gives large blocks to the kernel as soon as they are free, and takes new ones from it page by
page. For the pieces of a body, which come and go a thousand times a second, that costs more than
everything else that is done to receive them. Keeping them in the heap costs memory instead: many
bodies at once leave it full of holes of all sizes. So the heap keeps the pieces of a few bodies,
and a crowd's go back at once. Elsewhere than on glibc nothing changes.
"""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 32 << 20
_GIVEN_BACK_BYTES = 1 << 16


def share_arenas() -> None:
    """Lets all threads share two heaps; to be called before there are threads.

    A heap for each thread took a quarter more memory.
    """
    _set(_M_ARENA_MAX, 2)


def keep_pieces() -> None:
    """From now on freed memory stays in the heap for the next piece."""
    _set(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    _set(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)


def give_pieces_back() -> None:
    """From now on freed pieces go back to the kernel, and so does what is free already."""
    _set(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)
    _set(_M_TRIM_THRESHOLD, _GIVEN_BACK_BYTES)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(option, value)
