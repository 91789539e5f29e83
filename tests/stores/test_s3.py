"""What only an S3 server, or the network before it, can do to a store.

SeaweedFS answers a plain 500 when it has no room left, whichever limit was hit, so there a full
store cannot be told from a broken one. The answers of servers that do tell it come from a real
HTTP server in front of the real SeaweedFS.
"""

import logging
import os
import time
import traceback
from collections.abc import AsyncIterator, Iterator

import pytest

from calotype.stores.images import pipe
from calotype.stores.images.driver import (
    DataExists,
    Driver,
    StoreError,
    StoreForbidden,
    StoreFull,
    StoreUnavailable,
)
from calotype.stores.images.opening import open_driver
from calotype.stores.images.s3.writing import part_size_bytes

MIB = 1 << 20
XML = "application/xml"
SMALL, IN_PARTS = 10, 11 * MIB


@pytest.fixture
def fronted(s3_store, front) -> Iterator[Driver]:
    """The store `s3_store` as it is seen through `front`."""
    driver = open_driver("s3", {**s3_store.options, "endpoint": front.endpoint})
    yield driver
    driver.close()


def put(driver: Driver, key: str, size_bytes: int) -> str:
    sink = driver.create(key, size_bytes)
    try:
        sink.write(b"x" * size_bytes)
        sink.commit()
    except BaseException:
        sink.abort()
        raise
    return sink.url


def refused(code: str, message: str = "no") -> bytes:
    return (
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        "<Resource>/r</Resource><RequestId>1</RequestId></Error>"
    ).encode()


@pytest.mark.parametrize("size_bytes", [SMALL, IN_PARTS], ids=["small", "in-parts"])
@pytest.mark.parametrize(
    ("status", "body", "content_type", "error"),
    [
        (507, refused("InsufficientStorage"), XML, StoreFull),
        (507, b"<html>full</html>", "text/html", StoreFull),
        (403, refused("QuotaExceeded"), XML, StoreFull),
        (400, refused("XMinioAdminBucketQuotaExceeded"), XML, StoreFull),
        (403, refused("AccessDenied"), XML, StoreForbidden),
        (403, refused("SignatureDoesNotMatch"), XML, StoreForbidden),
        (403, b"go away", "text/plain", StoreForbidden),
        (412, refused("PreconditionFailed"), XML, DataExists),
        (404, refused("NoSuchBucket"), XML, StoreUnavailable),
        (500, refused("InternalError"), XML, StoreUnavailable),
        (500, b"<html>oops</html>", "text/html", StoreUnavailable),
        (503, b"", "", StoreUnavailable),
        (500, b"<Error><Co", XML, StoreUnavailable),
        (500, b"\xff\xfe not text", XML, StoreUnavailable),
        (200, b"<html>a login page</html>", "text/html", StoreUnavailable),
        (301, b"", "", StoreUnavailable),
    ],
)
def test_a_bad_answer_to_a_write_has_its_meaning_and_nothing_is_left(
    fronted, front, s3_store, status, body, content_type, error, size_bytes
):
    location = (("Location", "http://127.0.0.1:1/"), ("Retry-After", "3600"))
    bad = front.reply(status, body, content_type, location)
    front.meddle = lambda method, path: bad if method == "PUT" else None
    began = time.monotonic()
    with pytest.raises(error):
        put(fronted, "k", size_bytes)
    assert time.monotonic() - began < 5
    assert list(s3_store.driver.found()) == []


@pytest.mark.parametrize("body", [refused("InternalError"), b"<html/>", b"", b"not xml"], ids=str)
def test_an_error_behind_status_200_is_no_success(fronted, front, s3_store, body):
    """S3 answers 200 to the finishing request before it knows how it will end."""
    bad = front.reply(200, body, XML)
    front.meddle = lambda method, path: bad if "uploadId" in path and method == "POST" else None
    with pytest.raises(StoreUnavailable):
        put(fronted, "k", IN_PARTS)
    assert list(s3_store.driver.found()) == []


@pytest.mark.parametrize("size_bytes", [SMALL, IN_PARTS], ids=["small", "in-parts"])
@pytest.mark.parametrize("fate", ["lose_answer", "cut"])
def test_one_broken_connection_at_the_finish_does_not_fail_the_write(
    fronted, front, s3_store, size_bytes, fate
):
    """Lost before or after the server did it: one look at the object tells which."""
    finishes: list[str] = []

    def meddle(method: str, path: str) -> str | None:
        finishing = method == ("PUT" if size_bytes == SMALL else "POST") and "uploads" not in path
        if finishing:
            finishes.append(path)
        return getattr(front, fate) if finishing and len(finishes) == 1 else None

    front.meddle = meddle
    put(fronted, "k", size_bytes)
    assert s3_store.get(s3_store.driver.url_of("k")) == b"x" * size_bytes
    assert s3_store.unfinished() == []
    assert len(finishes) == (1 if fate == "lose_answer" else 2)


def test_a_broken_connection_in_a_part_is_tried_once_more(fronted, front, s3_store):
    parts: list[str] = []

    def meddle(method: str, path: str) -> str | None:
        if "partNumber=2" in path:
            parts.append(path)
        return front.cut if "partNumber=2" in path and len(parts) == 1 else None

    front.meddle = meddle
    put(fronted, "k", IN_PARTS)
    assert len(parts) == 2
    assert s3_store.driver.size(s3_store.driver.url_of("k")) == IN_PARTS


@pytest.mark.parametrize("size_bytes", [SMALL, IN_PARTS], ids=["small", "in-parts"])
def test_what_got_stored_although_the_write_failed_is_taken_back(
    fronted, front, s3_store, size_bytes
):
    """The server does it, and from then on every look at it fails, until the abort."""
    state = {"stored": False, "looks": 0}

    def meddle(method: str, path: str):
        if method == ("PUT" if size_bytes == SMALL else "POST") and "uploads" not in path:
            state["stored"] = True
            return front.lose_answer
        if method == "HEAD" and state["stored"]:
            state["looks"] += 1
            return front.reply(503, b"", "") if state["looks"] <= 2 else None
        return None

    front.meddle = meddle
    with pytest.raises(StoreError):
        put(fronted, "k", size_bytes)
    assert state["stored"]
    assert list(s3_store.driver.found()) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "body": b"01234", "announced_bytes": 10},
        {"status": 200, "body": b"01234"},
        {"status": 200, "body": b"0123456789abc"},
        {"status": 206, "body": b"0123456789", "headers": (("Content-Range", "bytes 5-14/20"),)},
    ],
    ids=["cut", "short", "long", "another-range"],
)
def test_a_wrong_body_is_never_taken_for_the_right_one(fronted, front, s3_store, answer):
    s3_store.put("k", b"0123456789")
    wrong = front.reply(content_type="application/octet-stream", **answer)
    front.meddle = lambda method, path: wrong if method == "GET" else None

    def read_all() -> None:
        source = fronted.open(fronted.url_of("k"), 0, 10)
        while source.read(4):
            pass

    with pytest.raises(StoreUnavailable):
        read_all()


def test_a_server_that_ignores_ranges_is_noticed(fronted, front, s3_store):
    s3_store.put("k", b"0123456789")
    whole = front.reply(200, b"0123456789", "application/octet-stream")
    front.meddle = lambda method, path: whole if method == "GET" else None
    with pytest.raises(StoreUnavailable):
        fronted.open(fronted.url_of("k"), 2, 5)


def test_a_lost_bucket_makes_the_store_unavailable_and_its_data_not_missing(s3_store):
    lost = open_driver("s3", {**s3_store.options, "bucket": "nowhere", "create_bucket": False})
    for call in (lost.size, lost.exists, lost.delete, lost.open):
        with pytest.raises(StoreUnavailable):
            call(lost.url_of("k"))
    for check in (lost.check, lambda: list(lost.found())):
        with pytest.raises(StoreUnavailable, match="bucket"):
            check()


async def test_a_server_killed_in_mid_write_and_mid_read(seaweedfs_of_its_own):
    """SIGKILL: both sides hear of it soon, and what was acknowledged is intact afterwards."""
    server, store = seaweedfs_of_its_own()
    data = os.urandom(64 * MIB)
    url = store.put("acknowledged", data)
    source = store.driver.open(url)
    assert source.read(MIB) == data[:MIB]
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for number in range(400):
            if number == 20:
                while not store.unfinished():
                    pass
                server.kill()
            taken += 1
            yield bytes(MIB)

    with pytest.raises(StoreUnavailable):
        await pipe.write(store.driver, "broken", body(), size_bytes=None, limit_bytes=None)
    assert taken < 60
    with pytest.raises(StoreUnavailable):
        b"".join(iter(lambda: source.read(MIB), b""))
    source.close()
    for call in (store.driver.check, lambda: store.driver.size(url), store.unfinished):
        with pytest.raises(StoreUnavailable):
            call()
    server.start()
    assert store.get(url) == data
    assert [thing.url for thing in store.finished()] == [url]
    (thing,) = store.unfinished()
    assert thing.url == store.driver.url_of("broken")
    store.driver.discard(thing)
    assert store.unfinished() == []


@pytest.mark.parametrize("size_bytes", [SMALL, IN_PARTS], ids=["small", "in-parts"])
async def test_a_server_without_room_refuses_the_write_and_keeps_nothing(
    seaweedfs_of_its_own, size_bytes
):
    """A real one whose volumes are used up: it says InternalError, so we cannot say `full`."""
    _, store = seaweedfs_of_its_own(volumes=7, volume_megabytes=4)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(size_bytes)

    with pytest.raises(StoreError):
        await pipe.write(store.driver, "k", body(), size_bytes=None, limit_bytes=None)
    assert list(store.driver.found()) == []


def test_no_credential_is_in_any_url_error_representation_or_log_line(
    s3_store, fronted, front, caplog
):
    """Markers as keys, and a server that echoes all it was sent, as some do."""
    caplog.set_level(logging.DEBUG)
    access_key, secret_key = "MARKERaccess", "MARKERsecret"
    texts: list[str] = []
    for endpoint in (s3_store.options["endpoint"], front.endpoint, "http://127.0.0.1:9"):
        options = {**s3_store.options, "endpoint": endpoint}
        driver = open_driver("s3", options | {"access_key": access_key, "secret_key": secret_key})
        echo = refused(f"{access_key} {secret_key}", f"{access_key} {secret_key}")
        replies = [front.reply(400, echo, XML), front.reply(500, echo, f"text/{secret_key}")]
        for reply in replies:
            front.meddle = lambda method, path, reply=reply: reply
            url = driver.url_of("k")
            texts += [url, repr(driver), str(vars(driver))]
            for call in (
                driver.check,
                lambda driver=driver: list(driver.found()),
                lambda driver=driver: put(driver, "k", SMALL),
                lambda driver=driver, url=url: driver.open(url),
                lambda driver=driver, url=url: driver.delete(url),
            ):
                with pytest.raises(StoreError) as caught:
                    call()
                texts += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
    for name in ("endpoint", "bucket", "prefix", "region", "part_size_bytes"):
        with pytest.raises(ValueError) as refusal:
            open_driver("s3", {**s3_store.options, name: f"http://{secret_key}@h:1/ x"})
        if name != "part_size_bytes":
            texts.append(str(refusal.value))
    texts += [record.getMessage() for record in caplog.records]
    assert len(texts) > 60
    assert not [text for text in texts if "MARKER" in text]


def test_ten_thousand_parts_are_enough_and_memory_stays_modest():
    for size_bytes in (1, 80_000 * MIB, 80_000 * MIB + 1, 5 << 40):
        part = part_size_bytes(1, 8 * MIB, size_bytes)
        assert part * 10_000 >= size_bytes
        assert part == part_size_bytes(10_000, 8 * MIB, size_bytes)
        assert 8 * MIB <= part <= 600 * MIB
    growing = [part_size_bytes(number, 8 * MIB, None) for number in range(1, 10_001)]
    assert growing == sorted(growing)
    assert growing[999] == 8 * MIB
    assert sum(growing) >= 1 << 40
    assert growing[-1] <= 256 * MIB


def test_growing_parts_come_together_in_order(s3_store, monkeypatch):
    from calotype.stores.images.s3 import writing

    monkeypatch.setattr(writing, "_PARTS_A_STEP", 1)
    data = os.urandom(40 * MIB + 3)
    sink = s3_store.driver.create("k", None)
    for start in range(0, len(data), 3 * MIB):
        sink.write(data[start : start + 3 * MIB])
    sink.commit()
    assert s3_store.get(sink.url) == data


def test_more_open_uploads_than_a_page_are_all_found(s3_store, monkeypatch):
    from minio import Minio

    listing = Minio._list_multipart_uploads
    pages: list[object] = []

    def two_at_a_time(self, *arguments, **names):
        pages.append(names)
        return listing(self, *arguments, max_uploads=2, **names)

    monkeypatch.setattr(Minio, "_list_multipart_uploads", two_at_a_time)
    sinks = [s3_store.driver.create(f"k{number // 3}", None) for number in range(9)]
    for sink in sinks:
        sink.write(bytes(6 * MIB))
    assert sorted(thing.url[-2:] for thing in s3_store.unfinished()) == sorted(
        ["k0", "k1", "k2"] * 3
    )
    assert len(pages) >= 5
    for sink in sinks:
        sink.abort()
    assert s3_store.unfinished() == []


def test_objects_of_other_prefixes_and_nested_names_are_not_ours(s3_store):
    other = open_driver("s3", {**s3_store.options, "prefix": s3_store.options["prefix"] + "in/"})
    put(other, "k", SMALL)
    url = s3_store.put("k", b"data")
    assert [thing.url for thing in s3_store.driver.found()] == [url]
    assert [thing.url for thing in other.found()] == [other.url_of("k")]
    with pytest.raises(StoreForbidden):
        s3_store.driver.delete(other.url_of("k"))
    assert other.exists(other.url_of("k"))
