"""Reading image data ahead of whoever sends it."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from calotype.stores.images.driver import Source

_READERS = ThreadPoolExecutor(32, thread_name_prefix="image-read")


async def blocks(source: Source, block_bytes: int = 1 << 20) -> AsyncIterator[bytes]:
    """The bytes of `source` in blocks of up to `block_bytes`, the next one read meanwhile.

    Holds two blocks at most. Closes `source` whatever happens. Raises what `Source.read` raises;
    ending without an error means that every byte was given.
    """
    loop = asyncio.get_running_loop()
    left_bytes = source.length_bytes
    try:
        pending = _read(loop, source, block_bytes) if left_bytes else None
        while pending is not None:
            block = await pending
            left_bytes -= len(block)
            pending = _read(loop, source, block_bytes) if left_bytes > 0 else None
            yield block
    finally:
        source.close()


def _read(
    loop: asyncio.AbstractEventLoop, source: Source, block_bytes: int
) -> asyncio.Future[bytes]:
    pending = loop.run_in_executor(_READERS, source.read, block_bytes)
    # The consumer may leave before it looks at this block; its failure is then nobody's concern.
    pending.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return pending
