"""Streaming into a store: right bytes, right hashes, and nothing left after any failure."""

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.stores.images import pipe
from calotype.stores.images.driver import DataExists, DataMissing
from calotype.stores.images.opening import open_driver

MIB = 1 << 20
SMALL, LARGE = 1000, 13 * MIB + 5


async def pieces(data: bytes, chunk_bytes: int = 100_001) -> AsyncIterator[bytes]:
    for start in range(0, len(data), chunk_bytes):
        yield data[start : start + chunk_bytes]
        await asyncio.sleep(0)


async def given_chunks(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def hexadecimal(name: str, data: bytes) -> str:
    return hashlib.new(name, data).hexdigest()


async def write(store, data: bytes | AsyncIterator[bytes], **more) -> pipe.Written:
    chunks = pieces(data) if isinstance(data, bytes) else data
    return await pipe.write(
        store.driver, "k", chunks, **{"size_bytes": None, "limit_bytes": None, **more}
    )


@pytest.mark.parametrize("known", [True, False], ids=["known-size", "unknown-size"])
@pytest.mark.parametrize("size_bytes", [0, 1, MIB - 1, MIB, MIB + 1, LARGE])
async def test_a_body_is_stored_whole_with_its_hashes(store, size_bytes, known):
    data = os.urandom(size_bytes)
    written = await write(store, data, size_bytes=size_bytes if known else None)
    assert written == pipe.Written(
        store.driver.url_of("k"),
        size_bytes,
        {"md5": hexadecimal("md5", data), "sha512": hexadecimal("sha512", data)},
    )
    assert store.get(written.url) == data


@pytest.mark.parametrize("chunk_bytes", [1, 16384, MIB, 9 * MIB])
async def test_any_size_of_chunks_gives_the_same_bytes(store, chunk_bytes):
    data = os.urandom(20_000 if chunk_bytes == 1 else LARGE)
    written = await write(store, pieces(data, chunk_bytes))
    assert store.get(written.url) == data
    assert written.digests["md5"] == hexadecimal("md5", data)


@settings(max_examples=150, deadline=None)
@given(chunks=st.lists(st.binary(max_size=300), max_size=40), known=st.booleans())
def test_re_chunking_keeps_every_byte_in_order(tmp_path_factory, chunks, known):
    driver = open_driver("file", {"directory": str(tmp_path_factory.mktemp("images"))})
    data = b"".join(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "BLOCK_BYTES", 64)
        size_bytes = len(data) if known else None
        written = asyncio.run(
            pipe.write(driver, "k", given_chunks(chunks), size_bytes=size_bytes, limit_bytes=None)
        )
    source = driver.open(written.url)
    assert source.read(len(data) + 1) == data
    source.close()
    assert written.size_bytes == len(data)
    assert written.digests["sha512"] == hexadecimal("sha512", data)


async def test_other_algorithms_can_be_chosen_and_unknown_ones_fail_before_any_byte(store):
    written = await write(store, b"data", algorithms=("sha256",), expected={"sha1": "A17C9AAA61E80"
        "A1BF71D0D850AF4E5BAA9800BBD"})  # fmt: skip
    assert written.digests == {
        "sha256": hexadecimal("sha256", b"data"),
        "sha1": hexadecimal("sha1", b"data"),
    }
    store.driver.delete(written.url)
    with pytest.raises(ValueError):
        await write(store, b"data", algorithms=("md5", "nonsense"))
    assert list(store.driver.found()) == []


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("wish", "error"),
    [
        (lambda size: {"size_bytes": size - 1}, pipe.SizeMismatch),
        (lambda size: {"size_bytes": size + 1}, pipe.SizeMismatch),
        (lambda size: {"limit_bytes": size - 1}, pipe.TooLarge),
        (lambda size: {"limit_bytes": size - 1, "size_bytes": size}, pipe.TooLarge),
        (lambda size: {"expected": {"md5": "0" * 32}}, pipe.DigestMismatch),
        (lambda size: {"expected": {"sha256": "0" * 64}}, pipe.DigestMismatch),
    ],
    ids=["over-size", "under-size", "over-limit", "announced-over-limit", "wrong-md5", "wrong-sha"],
)
async def test_a_body_unlike_what_was_announced_leaves_nothing(store, size_bytes, wish, error):
    with pytest.raises(error):
        await write(store, os.urandom(size_bytes), **wish(size_bytes))
    assert list(store.driver.found()) == []


async def test_exactly_the_limit_is_allowed(store):
    written = await write(store, bytes(LARGE), size_bytes=LARGE, limit_bytes=LARGE)
    assert written.size_bytes == LARGE


@pytest.mark.parametrize("wish", [{"size_bytes": 3 * MIB}, {"limit_bytes": 3 * MIB}])
async def test_too_many_bytes_are_noticed_when_they_come_and_not_at_the_end(store, wish):
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += MIB
            yield bytes(MIB)

    with pytest.raises((pipe.SizeMismatch, pipe.TooLarge)):
        await write(store, endless(), **wish)
    assert taken == 4 * MIB
    assert list(store.driver.found()) == []


@pytest.mark.parametrize("given_bytes", [0, SMALL, LARGE])
async def test_a_client_that_vanishes_leaves_nothing(store, given_bytes):
    class ClientVanished(Exception):
        pass

    async def breaking() -> AsyncIterator[bytes]:
        async for chunk in pieces(bytes(given_bytes)):
            yield chunk
        raise ClientVanished

    with pytest.raises(ClientVanished):
        await write(store, breaking())
    assert list(store.driver.found()) == []


@pytest.mark.parametrize("given_bytes", [0, SMALL, LARGE])
async def test_a_cancelled_write_leaves_nothing(store, given_bytes):
    given_all = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for chunk in pieces(bytes(given_bytes)):
            yield chunk
        given_all.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(write(store, stalling()))
    await given_all.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(store.driver.found()) == []


@pytest.mark.parametrize("after_seconds", [0.0, 0.001, 0.003, 0.01, 0.03, 0.06, 0.1])
@pytest.mark.parametrize("size_bytes", [MIB, LARGE])
async def test_a_write_cancelled_at_any_moment_is_whole_or_not_there(
    store, size_bytes, after_seconds
):
    data = os.urandom(size_bytes)
    task = asyncio.create_task(write(store, pieces(data, MIB)))
    await asyncio.sleep(after_seconds)
    task.cancel()
    try:
        written = await task
    except asyncio.CancelledError:
        assert list(store.driver.found()) == []
    else:
        assert store.get(written.url) == data


class _Gate:
    """Holds the real driver's commit back until it is opened."""

    def __init__(self, driver) -> None:
        self._driver = driver
        self.reached, self.opened = threading.Event(), threading.Event()

    def url_of(self, key):
        return self._driver.url_of(key)

    def create(self, key, size_bytes):
        sink = self._driver.create(key, size_bytes)
        commit = sink.commit

        def late_commit() -> None:
            self.reached.set()
            assert self.opened.wait(10)
            commit()

        sink.commit = late_commit
        return sink

    def delete(self, url) -> None:
        self._driver.delete(url)


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE], ids=["small", "large"])
async def test_a_cancellation_during_the_commit_takes_the_committed_bytes_back(store, size_bytes):
    gate = _Gate(store.driver)
    data = pieces(bytes(size_bytes))
    task = asyncio.create_task(pipe.write(gate, "k", data, size_bytes=None, limit_bytes=None))
    await asyncio.to_thread(gate.reached.wait, 10)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()  # A second one, as of a server that shuts down, must not break the first.
    assert not task.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(store.driver.found()) == []


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE], ids=["small", "large"])
async def test_a_taken_key_fails_the_write_and_keeps_the_first_bytes(store, size_bytes):
    url = store.put("k", b"first")
    with pytest.raises(DataExists):
        await write(store, bytes(size_bytes))
    assert store.get(url) == b"first"
    assert store.unfinished() == []


async def test_a_write_that_somebody_discards_fails_and_leaves_nothing(store):
    async def discarded() -> AsyncIterator[bytes]:
        yield bytes(9 * MIB)
        yield bytes(9 * MIB)
        deadline = time.monotonic() + 10
        while not (things := store.unfinished()):
            assert time.monotonic() < deadline
        store.driver.discard(things[0])
        yield bytes(9 * MIB)

    with pytest.raises(DataMissing):
        await write(store, discarded())
    assert list(store.driver.found()) == []


async def test_writes_that_wait_for_slow_clients_hold_no_thread_and_delay_nobody(store):
    """Many more slow uploads than threads, each with half of its bytes queued and stored."""
    slow, all_wait, stalled = 120, asyncio.Event(), asyncio.Event()
    waiting, before = 0, threading.active_count()

    async def stalling() -> AsyncIterator[bytes]:
        nonlocal waiting
        yield bytes(MIB + 1)
        waiting += 1
        if waiting == slow:
            all_wait.set()
        await stalled.wait()
        yield b"end"

    tasks = [
        asyncio.create_task(
            pipe.write(store.driver, f"slow-{n}", stalling(), size_bytes=None, limit_bytes=None)
        )
        for n in range(slow)
    ]
    await all_wait.wait()
    async with asyncio.timeout(20):  # It would never end while every thread is held.
        written = await write(store, os.urandom(3 * MIB))
    assert store.driver.size(written.url) == 3 * MIB
    assert threading.active_count() - before < slow
    stalled.set()
    sizes = {each.size_bytes for each in await asyncio.gather(*tasks)}
    assert sizes == {MIB + 4}


async def test_many_writes_at_once_all_end_with_their_own_bytes(store):
    bodies = {f"k{n}": os.urandom(n * 400_000) for n in range(12)}

    async def one(key: str) -> pipe.Written:
        body = pieces(bodies[key], 65536)
        return await pipe.write(store.driver, key, body, size_bytes=None, limit_bytes=None)

    for written in await asyncio.gather(*map(one, bodies)):
        key = written.url.rsplit("/", 1)[1]
        assert store.get(written.url) == bodies[key]
        assert written.digests["md5"] == hexadecimal("md5", bodies[key])


def test_memory_stays_bounded_while_512_mib_go_through(store):
    """Peak memory of a process that streams 512 MiB up and down, beyond one of 2 MiB."""
    process = store.run(
        "import asyncio, resource\n"
        "from calotype.stores.images import pipe, read_ahead\n"
        "from calotype.stores.images.threads import threads_of\n"
        "async def body(count):\n"
        "    for _ in range(count):\n"
        "        yield bytes(65536)\n"
        "async def round_trip(key, count):\n"
        "    written = await pipe.write(driver, key, body(count), size_bytes=None,\n"
        "                               limit_bytes=None)\n"
        "    read = 0\n"
        "    async for block in read_ahead.blocks(driver.open(written.url), threads_of(driver)):\n"
        "        read += len(block)\n"
        "    driver.delete(written.url)\n"
        "    assert read == count * 65536\n"
        "def peak():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "asyncio.run(round_trip('small', 32))\n"
        "before = peak()\n"
        "asyncio.run(round_trip('large', 8192))\n"
        "print(peak() - before, flush=True)\n"
    )
    grown_kib = int(process.communicate()[0])
    assert grown_kib < 48 * 1024


def test_memory_of_a_crowd_of_writes_stays_bounded(file_store):
    """Peak memory of a process in which 64 bodies come at once, beyond one that had a single."""
    process = file_store.run(
        "import asyncio, resource\n"
        "from calotype.stores.images import memory, pipe\n"
        "memory.share_arenas()\n"
        "memory.keep_pieces()\n"
        "async def body(count):\n"
        "    for _ in range(count):\n"
        "        yield bytes(bytearray(256_000))\n"
        "async def one(key, count):\n"
        "    written = await pipe.write(driver, key, body(count), size_bytes=None,\n"
        "                               limit_bytes=None)\n"
        "    driver.delete(written.url)\n"
        "async def crowd():\n"
        "    await asyncio.gather(*(one(f'k{n}', 32) for n in range(64)))\n"
        "def peak():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "asyncio.run(one('single', 32))\n"
        "before = peak()\n"
        "asyncio.run(crowd())\n"
        "print(peak() - before, flush=True)\n"
    )
    grown_kib = int(process.communicate()[0])
    assert grown_kib < 32 * 1024
