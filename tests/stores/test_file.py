"""What only a file system can do to a store."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calotype.stores.images import pipe
from calotype.stores.images.driver import (
    DataExists,
    StoreForbidden,
    StoreFull,
    StoreUnavailable,
)
from calotype.stores.images.opening import open_driver

MIB = 1 << 20


@contextmanager
def small_file_system(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


if os.getuid() == 0:

    async def test_a_full_file_system_is_said_at_once_and_nothing_is_left(tmp_path):
        """A real one of 8 MiB; what fitted before still fits afterwards."""
        taken = 0

        async def huge() -> AsyncIterator[bytes]:
            nonlocal taken
            for _ in range(400):
                taken += 1
                yield bytes(MIB)

        with small_file_system(tmp_path / "small", "8m") as place:
            driver = open_driver("file", {"directory": str(place)})
            with pytest.raises(StoreFull):
                await pipe.write(driver, "huge", huge(), size_bytes=None, limit_bytes=None)
            assert taken < 30
            assert list(driver.found()) == []
            sink = driver.create("fits", None)
            sink.write(bytes(6 * MIB))
            sink.commit()
            sink = driver.create("does-not-fit", None)
            with pytest.raises(StoreFull):
                sink.write(bytes(3 * MIB))
            sink.abort()
            driver.check()
            assert [thing.size_bytes for thing in driver.found()] == [6 * MIB]

    def test_a_read_only_file_system_refuses_writes_and_fails_the_check(tmp_path):
        with small_file_system(tmp_path / "frozen", "8m") as place:
            driver = open_driver("file", {"directory": str(place)})
            sink = driver.create("k", 4)
            sink.write(b"data")
            sink.commit()
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            for call in (driver.check, lambda: driver.create("other", 1)):
                with pytest.raises(StoreForbidden):
                    call()
            with pytest.raises(StoreForbidden):
                driver.delete(sink.url)
            assert driver.size(sink.url) == 4

    def test_an_unmounted_store_is_unavailable_and_its_data_is_not_called_missing(tmp_path):
        """Else a sweep would take every image for lost."""
        with small_file_system(tmp_path / "volume", "8m") as place:
            driver = open_driver("file", {"directory": str(place)})
            sink = driver.create("k", 4)
            sink.write(b"data")
            sink.commit()
        for call in (driver.open, driver.size, driver.exists, driver.delete):
            with pytest.raises(StoreUnavailable):
                call(sink.url)
        for call in (driver.check, lambda: driver.create("other", 1), lambda: [*driver.found()]):
            with pytest.raises(StoreUnavailable):
                call()


def test_a_limit_on_the_size_of_files_counts_as_full(file_store):
    process = file_store.run(
        "import resource\n"
        "from calotype.stores.images.driver import StoreFull\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "sink = driver.create('k', None)\n"
        "try:\n"
        "    sink.write(bytes(3 << 20))\n"
        "except StoreFull as error:\n"
        "    print('full')\n"
        "sink.abort()\n"
    )
    assert process.communicate()[0] == "full\n"
    assert list(file_store.driver.found()) == []


def test_a_directory_of_another_user_is_refused_with_the_fix(file_store, tmp_path):
    process = file_store.run(
        "import os\n"
        "from calotype.stores.images.driver import StoreForbidden\n"
        "os.chmod(options['directory'] + '/.incoming', 0o500)\n"
        "if os.getuid() == 0:\n"
        "    os.setuid(65534)\n"
        "for call in (driver.check, lambda: driver.create('k', 1)):\n"
        "    try:\n"
        "        call()\n"
        "    except StoreForbidden as error:\n"
        "        print(error)\n"
    )
    lines = process.communicate()[0].splitlines()
    assert len(lines) == 2
    assert all(line.endswith("Let the service's user write there.") for line in lines)


def test_a_removed_directory_fails_the_write_that_is_under_way(file_store):
    sink = file_store.driver.create("k", None)
    sink.write(b"data")
    shutil.rmtree(file_store.options["directory"])
    with pytest.raises(StoreUnavailable):
        sink.commit()
    sink.abort()


def test_data_cut_short_under_a_reader_is_an_error(file_store):
    url = file_store.put("k", bytes(4 * MIB))
    source = file_store.driver.open(url)
    source.read(MIB)
    os.truncate(url.removeprefix("file://"), 2 * MIB)
    source.read(MIB)
    with pytest.raises(StoreUnavailable):
        source.read(MIB)
    source.close()


def test_data_is_on_disk_before_it_gets_its_name_and_the_name_before_commit_returns(
    file_store, monkeypatch
):
    """The order in which the calls reach the operating system; what a power loss relies on."""
    calls: list[str] = []
    sync, link = os.fsync, os.link

    def noted_sync(descriptor: int) -> None:
        calls.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def noted_link(source: str, target: str) -> None:
        calls.append("link " + target)
        link(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "link", noted_link)
    file_store.put("k", b"data")
    directory = file_store.options["directory"]
    assert calls[0].startswith(f"sync {directory}/.incoming/k.")
    assert calls[1:] == [f"link {directory}/k", f"sync {directory}"]


def test_the_descriptor_is_positioned_for_sendfile(file_store):
    source = file_store.driver.open(file_store.put("k", b"0123456789"), 4, 3)
    descriptor = source.fileno()
    assert os.read(descriptor, 3) == b"456"
    assert source.read(10) == b"456"
    source.close()


def test_links_and_folders_in_the_directory_are_no_data_of_ours(file_store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    directory = Path(file_store.options["directory"])
    (directory / "link").symlink_to(secret)
    (directory / "folder").mkdir()
    os.mkfifo(directory / "pipe")
    assert list(file_store.driver.found()) == []
    for name in ("link", "folder", "pipe"):
        with pytest.raises(StoreForbidden):
            file_store.driver.size(file_store.driver.url_of(name))
        with pytest.raises(StoreForbidden):
            file_store.driver.open(file_store.driver.url_of(name))
        with pytest.raises(DataExists):
            file_store.driver.create(name, 1)
    assert secret.read_bytes() == b"secret"


def test_a_directory_with_strange_characters_in_its_name_works(tmp_path):
    driver = open_driver("file", {"directory": str(tmp_path / "ä b%20#?")})
    sink = driver.create("k", 4)
    sink.write(b"data")
    sink.commit()
    assert sink.url.isascii()
    assert "#" not in sink.url
    assert driver.size(sink.url) == 4
    assert [thing.url for thing in driver.found()] == [sink.url]
