"""Reading ahead of a sender."""

import asyncio
import os

import pytest

from calotype.stores.images.driver import StoreError, StoreUnavailable
from calotype.stores.images.read_ahead import blocks
from calotype.stores.images.threads import threads_of

MIB = 1 << 20


@pytest.mark.parametrize("size_bytes", [0, 1, MIB, 3 * MIB + 1])
async def test_every_byte_comes_in_order(store, size_bytes):
    data = os.urandom(size_bytes)
    source = store.driver.open(store.put("k", data))
    given = [block async for block in blocks(source, threads_of(store.driver))]
    assert b"".join(given) == data
    assert all(0 < len(block) <= MIB for block in given)


async def test_a_range_in_small_blocks(store):
    source = store.driver.open(store.put("k", b"0123456789"), 3, 6)
    threads = threads_of(store.driver)
    assert [block async for block in blocks(source, threads, 4)] == [b"3456", b"78"]


async def test_the_source_is_closed_at_the_end(store):
    source = store.driver.open(store.put("k", b"data"))
    async for _ in blocks(source, threads_of(store.driver)):
        pass
    with pytest.raises(StoreError):
        source.read(1)


async def test_the_source_is_closed_when_the_consumer_leaves_early(store):
    source = store.driver.open(store.put("k", bytes(4 * MIB)))
    reading = blocks(source, threads_of(store.driver))
    assert len(await anext(reading)) == MIB
    await reading.aclose()
    with pytest.raises(StoreError):
        source.read(1)


async def test_the_source_is_closed_when_the_consumer_is_cancelled_in_mid_read(store):
    source = store.driver.open(store.put("k", bytes(4 * MIB)))

    async def consume() -> None:
        async for _ in blocks(source, threads_of(store.driver)):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(StoreError):
        source.read(1)


async def test_data_that_ends_early_is_an_error_and_not_an_end(file_store):
    url = file_store.put("k", bytes(4 * MIB))
    source = file_store.driver.open(url)
    os.truncate(url.removeprefix("file://"), 2 * MIB)
    with pytest.raises(StoreUnavailable):
        async for _ in blocks(source, threads_of(file_store.driver)):
            pass
