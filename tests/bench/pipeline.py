"""The floor of large uploads: write, fsync, md5 and sha512 of bytes that are in memory already.

One thread each for the file and the two hashes, at most eight blocks of 1 MiB under way: what
any server must do at least, without a network, a protocol or a log.
"""

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 20
BLOCKS_UNDER_WAY = 8


@dataclass(frozen=True, slots=True)
class PipelineFloor:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float


def pipeline_floor(folder: Path, size_bytes: int) -> PipelineFloor:
    """Writes a file of `size_bytes` in `folder`, hashing it twice, and removes it.

    Raises OSError when the file cannot be written. The CPU is that of the whole process, so
    nothing else may run in it.
    """
    path = folder / "pipeline-floor"
    blocks = [os.urandom(BLOCK_BYTES) for _ in range(BLOCKS_UNDER_WAY)]
    wall, cpu = time.perf_counter(), time.process_time()
    with path.open("wb", buffering=0) as file:
        try:
            md5, sha512 = hashlib.md5(usedforsecurity=False), hashlib.sha512()
            _run_stages([file.write, md5.update, sha512.update], blocks, size_bytes)
            os.fsync(file.fileno())
            md5.digest(), sha512.digest()
            return PipelineFloor(time.perf_counter() - wall, time.process_time() - cpu)
        finally:
            path.unlink()


def _run_stages(
    consume: list[Callable[[bytes], object]], blocks: list[bytes], size_bytes: int
) -> None:
    room = threading.Semaphore(BLOCKS_UNDER_WAY * len(consume))
    failures: list[BaseException] = []
    stages = [_Stage(function, room, failures) for function in consume]
    left, number = size_bytes, 0
    while left and not failures:
        block = blocks[number % len(blocks)]
        if left < BLOCK_BYTES:
            block = block[:left]
        for stage in stages:
            room.acquire()
            stage.blocks.put(block)
        left -= len(block)
        number += 1
    for stage in stages:
        stage.blocks.put(None)
        stage.join()
    if failures:
        raise failures[0]


class _Stage(threading.Thread):
    """Feeds blocks to one function; after a failure it only drains, so that nobody waits."""

    def __init__(
        self,
        function: Callable[[bytes], object],
        room: threading.Semaphore,
        failures: list[BaseException],
    ) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._room = room
        self._failures = failures
        self.blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while (block := self.blocks.get()) is not None:
            try:
                if not self._failures:
                    self._function(block)
            except BaseException as error:
                self._failures.append(error)
            finally:
                self._room.release()
