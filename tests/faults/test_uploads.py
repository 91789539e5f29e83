"""Uploads when processes die or stand still and the log is away: none stuck, none lost, no litter.

Nobody calls reconcile here, except where it is what is tested.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.backends.postgres import Postgres

pytestmark = pytest.mark.slow

MIB = 1 << 20
LEASE = 2.0


@pytest.fixture
def two(service: Any, second_service: Any, uploading: ModuleType) -> Iterator[tuple[Any, Any]]:
    """Two services on one log and one store, whose leases are short."""
    for one in (service, second_service):
        one.environment = uploading.SHORT_LEASES
        one.start()
    return service, second_service


def _begun(uploading: ModuleType, service: Any, until: Any) -> Any:
    """An upload of which half has come and lies in the store."""
    upload = uploading.SlowUpload(service, uploading.create(service), 6 * MIB)
    upload.send(3 * MIB)
    key = upload.image_id
    until(lambda: any(path.name.startswith(key) for path in uploading.files(service)))
    return upload


def test_what_a_killed_process_was_writing_is_queued_again_and_removed(
    two: tuple[Any, Any], uploading: ModuleType, until: Any
) -> None:
    dies, stays = two
    uploads = [_begun(uploading, dies, until) for _ in range(3)]
    kept = _begun(uploading, stays, until)
    dies.kill()
    killed_at = time.monotonic()
    until(lambda: {uploading.status(stays, upload.image_id) for upload in uploads} == {"queued"})
    assert time.monotonic() - killed_at < 4 * LEASE
    until(lambda: len(uploading.files(stays)) == 1)
    kept.finish()
    assert kept.answer() == 204
    assert uploading.status(stays, kept.image_id) == "active"


def test_a_pause_of_all_processes_kills_no_upload(
    two: tuple[Any, Any], uploading: ModuleType, until: Any
) -> None:
    uploads = [_begun(uploading, service, until) for service in two for _ in range(2)]
    for service in two:
        os.kill(service.process.pid, signal.SIGSTOP)
    time.sleep(2.5 * LEASE)  # The pause itself: all leases run out.
    for service in reversed(two):
        os.kill(service.process.pid, signal.SIGCONT)
    time.sleep(LEASE)  # A sweep that believed the leases alone would have come by now.
    for upload in uploads:
        upload.finish()
    assert [upload.answer() for upload in uploads] == [204] * 4


def test_a_frozen_process_whose_uploads_were_given_up_leaves_nothing_when_it_goes_on(
    two: tuple[Any, Any], uploading: ModuleType, until: Any
) -> None:
    frozen, stays = two
    uploads = [_begun(uploading, frozen, until) for _ in range(3)]
    os.kill(frozen.process.pid, signal.SIGSTOP)
    until(lambda: {uploading.status(stays, upload.image_id) for upload in uploads} == {"queued"})
    until(lambda: not uploading.files(stays))
    os.kill(frozen.process.pid, signal.SIGCONT)
    for upload in uploads:
        upload.finish()
    assert {upload.answer() for upload in uploads} <= {410, 503}
    until(lambda: not uploading.files(stays))
    again = _begun(uploading, frozen, until)
    again.finish()
    assert again.answer() == 204


def test_uploads_that_end_while_the_log_is_away_are_queued_again(
    make_service: Any, tmp_path_factory: pytest.TempPathFactory, uploading: ModuleType, until: Any
) -> None:
    with Postgres(Path(tmp_path_factory.mktemp("log"))) as server:
        service = make_service(**uploading.SHORT_LEASES)
        service.log_url = server.url()
        service.start()
        uploads = [_begun(uploading, service, until) for _ in range(4)]
        server.kill()
        for upload in uploads[:2]:
            upload.finish()
        for upload in uploads[2:]:
            upload.close()
        assert [upload.answer() for upload in uploads[:2]] == [503, 503]
        server.start()
        until(
            lambda: {uploading.status(service, upload.image_id) for upload in uploads} == {"queued"}
        )
        until(lambda: not uploading.files(service))
        service.terminate()


def test_reconcile_leaves_alone_what_a_living_process_writes(
    two: tuple[Any, Any], uploading: ModuleType, until: Any
) -> None:
    upload = _begun(uploading, two[0], until)
    done = two[1].run("reconcile", "--grace-seconds", "0")
    assert done.returncode == 0, done.stderr
    assert uploading.files(two[0])
    upload.finish()
    assert upload.answer() == 204
