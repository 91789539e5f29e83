"""The judge of the ledger sees what it is there to see: each kind of damage in its column."""

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ledger.accounts import Account, Books, State, sha512
from tests.faults.ledger.judge import Judge
from tests.faults.ledger.load import Load
from tests.faults.ledger.plan import plan
from tests.faults.ledger.wire import ask

pytestmark = pytest.mark.slow


class Installation:
    """As much of a stand as the judge looks at, on a service of the tests."""

    def __init__(self, service: Any) -> None:
        self.ports = [service.port]
        self.data = service.folder
        self.log_url = f"sqlite:///{service.folder / 'log.sqlite'}"
        self.position = 0
        self.images: dict[str, State] = {}
        self.files: set[str] = set()
        self.strays: set[str] = set()


@pytest.fixture
def installation(make_service: Any) -> Installation:
    service = make_service()
    service.start()
    return Installation(service)


@pytest.fixture
def load(installation: Installation) -> Load:
    return Load(installation.ports, next(plan("judge", "sqlite", ["none"])).rng(), 0.1)


async def _image(load: Load, content: bytes | None) -> Account:
    account = await load.create()
    assert account is not None
    if content is not None:
        account.content = content
        path = f"/v2/images/{account.image_id}/file"
        octets = "application/octet-stream"
        answer = await ask(load.port(), "PUT", path, content, content_type=octets)
        load.books.count("upload", account, answer)
        assert account.note(answer, data=sha512(content))
    return account


async def _columns(installation: Any, books: Books) -> dict[str, int]:
    findings = await Judge(installation, books).judge()
    print(findings)  # Shown where a test fails.
    return dict(Counter(column for column, _ in findings))


async def test_what_is_as_it_was_acknowledged_is_no_finding(installation: Any, load: Load) -> None:
    await _image(load, None)
    await _image(load, b"x" * 100_000)
    assert await _columns(installation, load.books) == {}
    assert load.books.acknowledged == 3


async def test_what_was_acknowledged_and_is_not_there_is_lost(
    installation: Any, load: Load
) -> None:
    changed, gone = await _image(load, None), await _image(load, None)
    changed.possible = [State(True, "another name")]
    await ask(load.port(), "DELETE", f"/v2/images/{gone.image_id}")
    load.books.requests["req-never-written"] = "a command"
    assert await _columns(installation, load.books) == {"lost": 3}


async def test_an_event_that_stands_in_the_log_twice_is_doubled_and_a_missing_position_a_gap(
    installation: Any, load: Load
) -> None:
    await _image(load, None)
    with sqlite3.connect(installation.data / "log.sqlite") as log:
        log.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state,"
            " notification_id) SELECT originator_id, originator_version + 1, topic, state,"
            " notification_id + 2 FROM stored_events"
        )
    assert await _columns(installation, load.books) == {"doubled": 1, "gaps": 1}


async def test_other_bytes_in_the_store_are_wrong_bytes(installation: Any, load: Load) -> None:
    account = await _image(load, b"x" * 1000)
    (path,) = (installation.data / "images").glob(f"{account.image_id}-*")
    path.write_bytes(b"y" * 1000)
    assert await _columns(installation, load.books) == {"wrong_bytes": 1}


async def test_files_that_no_image_stands_on_are_left_behind_and_reported_once(
    installation: Any, load: Load
) -> None:
    account = await _image(load, b"x" * 1000)
    images: Path = installation.data / "images"
    (images / f"{account.image_id}-000000000000").write_bytes(b"another of that image")
    (images / "11111111-2222-4333-8444-555555555555-000000000000").write_bytes(b"of none")
    (images / ".incoming" / "unfinished").write_bytes(b"")
    assert await _columns(installation, load.books) == {"left_behind": 3}
    assert await _columns(installation, Books()) == {}


async def test_an_image_that_is_saving_is_stuck_and_its_file_left_behind(
    installation: Any, load: Load
) -> None:
    account = await _image(load, None)
    sent = asyncio.Event()

    async def body() -> Any:
        yield b"x" * (3 << 20)
        sent.set()
        await asyncio.sleep(60)

    path = f"/v2/images/{account.image_id}/file"
    options: dict[str, Any] = {"size_bytes": 4 << 20, "content_type": "application/octet-stream"}
    uploading = asyncio.create_task(ask(load.port(), "PUT", path, body(), **options))
    await sent.wait()
    incoming = installation.data / "images" / ".incoming"
    async with asyncio.timeout(10):
        while not list(incoming.iterdir()):  # noqa: ASYNC110 - it is a folder that changes
            await asyncio.sleep(0.02)
    assert await _columns(installation, load.books) == {"stuck": 1, "left_behind": 1}
    uploading.cancel()


async def test_the_same_seed_plans_the_same_rounds_with_each_kind_as_often(load: Load) -> None:
    def rounds(seed: str) -> list[Any]:
        planned = plan(seed, "sqlite", ["a", "b", "c"])
        return [next(planned) for _ in range(9)]

    assert rounds("7") == rounds("7") != rounds("8")
    assert Counter(one.kind for one in rounds("7")) == {"a": 3, "b": 3, "c": 3}
