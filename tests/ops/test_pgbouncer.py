"""A real PgBouncer between the service and its PostgreSQL, in the modes that it has."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
import requests

from calotype.ops.settings.settings import SettingsError
from calotype.ops.wiring.composition import check_way
from calotype.stores.log.opening import open_log
from tests.backends.pgbouncer import PgBouncer

pytestmark = pytest.mark.slow

DIRECT = {"CALOTYPE_LOG__PREPARED_STATEMENTS": "false"}


@contextmanager
def pooler(url: str, mode: Literal["session", "transaction"]) -> Iterator[PgBouncer]:
    with tempfile.TemporaryDirectory(prefix="calotype-") as folder:
        with PgBouncer(Path(folder), url, mode) as bouncer:
            yield bouncer


async def _change_much(service: Any) -> None:
    """Creates, changes and lists from many clients at once; every answer is right."""
    async with aiohttp.ClientSession() as session:

        async def work() -> None:
            for _ in range(6):
                url = f"{service.url}/v2/images"
                async with session.post(url, json={"tags": ["t"]}) as answer:
                    assert answer.status == 201, await answer.text()
                    image = await answer.json()
                async with session.put(f"{url}/{image['id']}/tags/more") as answer:
                    assert answer.status == 204, await answer.text()
                async with session.get(f"{url}?tag=more&limit=3") as answer:
                    assert answer.status == 200, await answer.text()

        await asyncio.gather(*(work() for _ in range(16)))


def _check(service: Any) -> None:
    asyncio.run(_change_much(service))
    # Who waits is woken by a notification: polling would take longer.
    head = requests.get(f"{service.url}/log/v1/events?limit=1000", timeout=30)
    assert head.status_code == 200
    assert len(head.json()) == 192
    assert requests.get(f"{service.url}/healthcheck", timeout=30).status_code == 200
    verified = service.run("projections", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_session_mode_is_as_good_as_no_pooler(
    postgres_url: str, service_class: Any, tmp_path: Path
) -> None:
    with pooler(postgres_url, "session") as bouncer:
        service = service_class(tmp_path, bouncer.url)
        service.start()
        try:
            _check(service)
        finally:
            service.kill()


def test_transaction_mode_needs_two_settings_and_a_start_without_them_names_them(
    postgres_url: str, service_class: Any, tmp_path: Path
) -> None:
    with pooler(postgres_url, "transaction") as bouncer:
        for options, missing in (
            ({}, "log.prepared_statements"),
            ({"prepared_statements": False}, "log.listen_url"),
            ({"prepared_statements": False, "listen_url": bouncer.url}, "log.listen_url"),
        ):
            recorder = open_log(bouncer.url, **options)
            with pytest.raises(SettingsError, match=missing):
                check_way(recorder)
            recorder.close_now()
        refused = service_class(tmp_path, bouncer.url).run("serve", "--listen", "127.0.0.1:0")
        assert refused.returncode != 0
        assert "log.prepared_statements" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_with_them_transaction_mode_serves_without_an_error(
    postgres_url: str, service_class: Any, tmp_path: Path
) -> None:
    with pooler(postgres_url, "transaction") as bouncer:
        settings = DIRECT | {"CALOTYPE_LOG__LISTEN_URL": postgres_url}
        service = service_class(tmp_path, bouncer.url, **settings)
        service.start()
        try:
            _check(service)
            assert service.run("projections", "rebuild", "images").returncode == 0
        finally:
            service.kill()
