"""Reading image data ahead of whoever sends it."""

import asyncio
from collections.abc import AsyncIterator

from calotype.stores.images.driver import Source
from calotype.stores.images.threads import StoreThreads


async def blocks(
    source: Source, threads: StoreThreads, block_bytes: int = 1 << 20
) -> AsyncIterator[bytes]:
    """The bytes of `source` in blocks of up to `block_bytes`, the next one read meanwhile.

    Holds two blocks at most. Closes `source` whatever happens. Raises what `Source.read` raises;
    ending without an error means that every byte was given. Raises StoreUnavailable also when a
    block does not come within the store's deadline.
    """
    left_bytes = source.length_bytes
    try:
        pending = _read(threads, source, block_bytes) if left_bytes else None
        while pending is not None:
            block = await pending
            left_bytes -= len(block)
            pending = _read(threads, source, block_bytes) if left_bytes > 0 else None
            yield block
    finally:
        source.close()


def _read(threads: StoreThreads, source: Source, block_bytes: int) -> asyncio.Future[bytes]:
    pending = asyncio.ensure_future(threads.read(source.read, block_bytes))
    # The consumer may leave before it looks at this block; its failure is then nobody's concern.
    pending.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return pending
