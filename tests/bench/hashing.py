"""The floor of small uploads: the CPU of hashing the same bytes twice, and nothing else."""

import hashlib
import os
import time


def hashing_cpu_seconds(size_bytes: int, *, repeats: int = 30) -> float:
    """CPU seconds of one md5 and one sha512 over `size_bytes` bytes, on this machine now."""
    data = os.urandom(size_bytes)
    started = time.thread_time()
    for _ in range(repeats):
        hashlib.md5(data, usedforsecurity=False).digest()
        hashlib.sha512(data).digest()
    return (time.thread_time() - started) / repeats
