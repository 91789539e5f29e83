"""What every driver promises, proved on the real thing."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from calotype.stores.images.driver import (
    DataExists,
    DataMissing,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
)
from calotype.stores.images.opening import open_driver

MIB = 1 << 20
SIZES = [0, 1, MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 11 * MIB + 7]


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("known", [True, False], ids=["known-size", "unknown-size"])
def test_bytes_come_back_as_they_were_written(store, size_bytes, known):
    data = os.urandom(size_bytes)
    sink = store.driver.create("some-key", size_bytes if known else None)
    for start in range(0, size_bytes, 700_001):
        sink.write(memoryview(data)[start : start + 700_001])
    sink.commit()
    assert sink.url == store.driver.url_of("some-key")
    assert store.get(sink.url) == data
    assert store.driver.size(sink.url) == size_bytes
    assert [(thing.url, thing.size_bytes, thing.unfinished) for thing in store.driver.found()] == [
        (sink.url, size_bytes, False)
    ]


def test_a_block_may_be_reused_by_its_owner_once_it_was_written(store):
    block = bytearray(b"a" * 1000)
    sink = store.driver.create("k", 2000)
    sink.write(block)
    block[:] = b"b" * 1000
    sink.write(block)
    sink.commit()
    assert store.get(sink.url) == b"a" * 1000 + b"b" * 1000


def test_nothing_is_readable_before_the_commit(store):
    sink = store.driver.create("k", None)
    sink.write(os.urandom(6 * MIB))
    assert not store.driver.exists(sink.url)
    with pytest.raises(DataMissing):
        store.driver.open(sink.url)
    with pytest.raises(DataMissing):
        store.driver.size(sink.url)
    sink.commit()
    assert store.driver.exists(sink.url)


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, None), (5, 10), (5 * MIB - 1, 2), (6 * MIB, None), (6 * MIB + 7, None), (9, 0)],
)
def test_a_range_gives_exactly_the_wanted_bytes(store, start, length):
    data = os.urandom(6 * MIB + 7)
    url = store.put("k", data)
    stop = len(data) if length is None else start + length
    source = store.driver.open(url, start, length)
    assert (source.offset_bytes, source.length_bytes) == (start, stop - start)
    source.close()
    assert store.get(url, start, length) == data[start:stop]


@pytest.mark.parametrize(("start", "length"), [(0, 11), (5, 6), (11, None), (10, 1), (-1, 2)])
def test_bytes_beyond_the_end_are_an_error_and_never_a_short_answer(store, start, length):
    url = store.put("k", b"0123456789")
    with pytest.raises(StoreUnavailable):
        store.driver.open(url, start, length)


def test_small_reads_add_up_and_the_end_is_an_empty_block(store):
    url = store.put("k", b"0123456789")
    source = store.driver.open(url, 2, 5)
    assert [source.read(2) for _ in range(4)] == [b"23", b"45", b"6", b""]
    source.close()


def test_deleted_bytes_are_missing_and_the_second_delete_says_so(store):
    url = store.put("k", b"data")
    store.driver.delete(url)
    assert not store.driver.exists(url)
    for call in (store.driver.open, store.driver.size, store.driver.delete):
        with pytest.raises(DataMissing):
            call(url)
    assert list(store.driver.found()) == []


def test_a_key_is_free_again_after_its_deletion(store):
    store.driver.delete(store.put("k", b"old"))
    assert store.get(store.put("k", b"new")) == b"new"


def test_a_second_write_of_a_key_is_refused_at_once(store):
    url = store.put("k", b"first")
    with pytest.raises(DataExists):
        store.driver.create("k", 6)
    assert store.get(url) == b"first"


@pytest.mark.parametrize("size_bytes", [3, 6 * MIB], ids=["small", "in-parts"])
def test_of_two_writers_of_one_key_one_gets_through(store, size_bytes):
    first = store.driver.create("k", size_bytes)
    first.write(b"1" * size_bytes)
    try:
        second = store.driver.create("k", size_bytes)
    except DataExists:
        first.commit()  # A store that can tell already did.
    else:
        second.write(b"2" * size_bytes)
        first.commit()
        with pytest.raises(DataExists):
            second.commit()
        second.abort()
    assert store.get(first.url) == b"1" * size_bytes
    assert store.unfinished() == []


@pytest.mark.parametrize("size_bytes", [0, 3, 6 * MIB])
def test_an_aborted_write_leaves_nothing(store, size_bytes):
    sink = store.driver.create("k", None)
    if size_bytes:
        sink.write(b"x" * size_bytes)
    sink.abort()
    sink.abort()
    assert list(store.driver.found()) == []


def test_an_abort_after_the_commit_changes_nothing(store):
    sink = store.driver.create("k", 4)
    sink.write(b"data")
    sink.commit()
    sink.abort()
    assert store.get(sink.url) == b"data"


def test_found_tells_finished_from_unfinished_things(store):
    before = time.time()
    url = store.put("done", b"data")
    sink = store.driver.create("under-way", None)
    sink.write(b"x" * 6 * MIB)
    things = {thing.url: thing for thing in store.driver.found()}
    assert {address: thing.unfinished for address, thing in things.items()} == {
        url: False,
        store.driver.url_of("under-way"): True,
    }
    assert things[url].size_bytes == 4
    assert all(before - 5 < thing.modified_at < time.time() + 5 for thing in things.values())
    sink.abort()


def test_an_unfinished_thing_can_be_discarded_and_its_writer_notices(store):
    sink = store.driver.create("k", None)
    sink.write(b"x" * 6 * MIB)
    (thing,) = store.unfinished()
    store.driver.discard(thing)
    store.driver.discard(thing)
    assert list(store.driver.found()) == []
    with pytest.raises(StoreError):
        sink.commit()
    sink.abort()
    assert list(store.driver.found()) == []


@pytest.mark.parametrize("size_bytes", [0, 3, 6 * MIB])
def test_a_write_that_is_broken_off_leaves_nothing_and_cannot_be_finished(store, size_bytes):
    other = store.driver.create("k2", None)
    other.write(b"y" * 6 * MIB)
    sink = store.driver.create("k", None)
    sink.write(b"x" * size_bytes)
    heard_of = len(store.unfinished()) == 2
    store.driver.break_off(store.driver.url_of("k"))
    store.driver.break_off(store.driver.url_of("k"))
    assert [thing.url for thing in store.driver.found()] == [store.driver.url_of("k2")]
    if heard_of:
        with pytest.raises(DataMissing):
            sink.commit()
    sink.abort()
    other.commit()
    assert [thing.url for thing in store.driver.found()] == [store.driver.url_of("k2")]


def test_what_a_killed_writer_left_is_broken_off_by_its_key_alone(store):
    process = store.run(
        "sink = driver.create('killed', None)\n"
        "for _ in range(12):\n"
        "    sink.write(bytes(1 << 20))\n"
        "print('half', flush=True)\n"
        "sys.stdin.read()\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert len(store.unfinished()) == 1
    store.driver.break_off(store.driver.url_of("killed"))
    assert list(store.driver.found()) == []


def test_breaking_off_touches_nothing_that_is_finished(store):
    url = store.put("k", b"data")
    store.driver.break_off(url)
    assert store.get(url) == b"data"


def test_a_finished_thing_cannot_be_discarded(store):
    url = store.put("k", b"data")
    (thing,) = store.finished()
    with pytest.raises(StoreForbidden):
        store.driver.discard(thing)
    assert store.get(url) == b"data"


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\0b", "a\n", "a b", "ä", "x" * 201]
    + ["%2e%2e", "a?b", "a#b", "-x"],
)
def test_a_key_that_is_no_plain_name_is_refused(store, key):
    with pytest.raises(StoreForbidden):
        store.driver.create(key, None)
    with pytest.raises(StoreForbidden):
        store.driver.url_of(key)
    assert list(store.driver.found()) == []


def test_a_url_of_another_place_is_refused_and_nothing_is_touched(store, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    own = store.driver.url_of("k")
    place = own.removesuffix("k")
    for url in (
        "",
        "k",
        place,
        f"{place}../outside",
        f"{place}%2e%2e/outside",
        f"{place}./k",
        f"{place}k/",
        f"{place}k?versionId=1",
        f"{place}.incoming/k",
        f"file://{outside}",
        "file:///etc/passwd",
        own.replace("://", "://user@", 1),
        own.upper(),
        "s3+http://elsewhere:1/bucket/k",
        "http://127.0.0.1/k",
    ):
        for call in (
            store.driver.open,
            store.driver.size,
            store.driver.exists,
            store.driver.delete,
            store.driver.break_off,
        ):
            with pytest.raises(StoreForbidden):
                call(url)
    assert outside.read_bytes() == b"precious"


def test_sixteen_readers_at_once_all_get_the_same_bytes(store):
    data = os.urandom(3 * MIB + 5)
    url = store.put("k", data)
    barrier = threading.Barrier(16)

    def read(number: int) -> bool:
        barrier.wait()
        return store.get(url, number) == data[number:]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))


def test_a_close_may_overtake_a_read_and_be_repeated(store):
    """A descriptor freed under a reader could be another file by the time that it reads."""
    data = os.urandom(4 * MIB)
    url = store.put("k", data)
    for _ in range(20):
        source = store.driver.open(url)
        got: list[bytes] = []

        def read(source=source, got=got) -> None:
            try:
                while block := source.read(65536):
                    got.append(block)
            except StoreError:
                pass

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.001)
        source.close()
        source.close()
        reader.join()
        assert data.startswith(b"".join(got))
        with pytest.raises(StoreError):
            source.read(1)


def test_a_second_driver_on_the_same_store_sees_the_same_bytes(store):
    url = store.put("k", b"data")
    other = open_driver(store.kind, store.options)
    assert other.size(url) == 4
    assert [thing.url for thing in other.found()] == [url]
    other.close()


def test_a_store_in_order_passes_its_check_and_stays_empty(store):
    store.driver.check()
    assert list(store.driver.found()) == []


def test_a_killed_writer_leaves_only_what_found_reports_as_unfinished(store):
    """kill -9 in the middle of a write; discard removes the rest of it."""
    process = store.run(
        "sink = driver.create('killed', None)\n"
        "for _ in range(12):\n"
        "    sink.write(bytes(1 << 20))\n"
        "print('half', flush=True)\n"
        "sys.stdin.read()\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert store.finished() == []
    (thing,) = store.unfinished()
    assert thing.url == store.driver.url_of("killed")
    assert not store.driver.exists(thing.url)
    store.driver.discard(thing)
    assert list(store.driver.found()) == []


def test_a_marker_is_kept_beside_the_data_and_is_none_of_it(store: Any) -> None:
    assert store.driver.read_marker() is None
    for content in (b"of this log", b"of that log, and longer"):
        store.driver.write_marker(content)
        assert store.driver.read_marker() == content
    assert list(store.driver.found()) == []
    with pytest.raises(StoreForbidden):
        store.driver.size(store.driver.base_url + ".calotype")
