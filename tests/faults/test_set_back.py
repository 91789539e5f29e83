"""An event log that was set back, or a store of another log, is noticed before it does harm."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from typer.testing import CliRunner, Result

from calotype.ops.cli.main import app
from calotype.ops.settings.settings import SettingsError
from calotype.projections.engine.positions import positions_now
from calotype.projections.rebuild.epochs import decoded
from calotype.stores.log.opening import open_log
from tests.backends.seaweedfs import SeaweedFS

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


def active(service: Any, data: bytes = b"data") -> str:
    """The id of a new image with data."""
    image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30).json()
    url = f"{service.url}/v2/images/{image['id']}"
    assert requests.put(f"{url}/file", data=data, headers=OCTETS, timeout=30).status_code == 204
    return str(image["id"])


def last_position(service: Any) -> str:
    """The position of the last event, as the feed gives it."""
    recorder = open_log(service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}")
    try:
        return positions_now(recorder).encode(recorder.max_notification_id() or 0)
    finally:
        recorder.close_now()


def number(position: str) -> int:
    return int(position.rpartition("-")[2], 16)


def remembered(file: Path) -> int:
    return decoded(file.read_bytes()).position if file.exists() else 0


def copy_sqlite(service: Any, tmp_path: Path) -> Callable[[], None]:
    """Copies the stopped log, as a backup would; what puts the copy back."""
    source, copy = service.folder / "log.sqlite", tmp_path / "copy.sqlite"
    shutil.copy(source, copy)
    return lambda: shutil.copy(copy, source)


def copy_postgres(service: Any, server: str) -> Callable[[], None]:
    """A copy of the database; what makes the service use it in place of the newer one."""
    name = f"copy_{uuid.uuid4().hex}"
    base = service.log_url.rsplit("/", 1)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{base[1]}"')

    def restore() -> None:
        service.log_url = f"{base[0]}/{name}"

    return restore


@pytest.fixture
def set_back(service: Any, tmp_path: Path, request: Any) -> Any:
    """A stopped service whose log was put back to before its last three images; their ids and the
    positions of the last events, before and after."""
    service.start()
    active(service)
    service.terminate()
    if service.log_url:
        restore = copy_postgres(service, request.getfixturevalue("postgres_server"))
    else:
        restore = copy_sqlite(service, tmp_path)
    kept = last_position(service)
    service.start()
    newer = [active(service, b"newer") for _ in range(3)]
    service.terminate()
    lost = last_position(service)
    restore()
    return service, newer, kept, lost


def refused(service: Any, *verb: str) -> str:
    done = service.run(*verb)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stderr)


def run(service: Any, *verb: str) -> Result:
    """Runs a verb in this process, which takes a tenth of the time."""
    return CliRunner().invoke(app, [*verb, *service.options], env=service.environment)


def feed(service: Any, after: str) -> requests.Response:
    return requests.get(f"{service.url}/log/v1/events?after={after}", timeout=30)


def test_a_log_that_was_set_back_is_not_served_until_a_new_epoch_is_begun(
    set_back: Any, until: Any
) -> None:
    service, newer, kept, lost = set_back
    for verb in (("serve", "--listen", "127.0.0.1:0"), ("reconcile", "--grace-seconds", "-5")):
        said = refused(service, *verb)
        assert f"ends at {kept} and had come to {lost}" in said
        assert "calotype log begin-epoch" in said
    adopting = run(service, "stores", "adopt")
    assert isinstance(adopting.exception, SettingsError)
    assert "calotype log begin-epoch" in str(adopting.exception)
    done = run(service, "audit", "verify")
    assert done.exit_code == 1
    assert f"ends at {kept} and had come to {lost}" in done.stdout
    assert run(service, "log", "begin-epoch").exit_code == 0
    service.start()

    image = active(service)
    first = last_position(service)
    assert first[:13] != kept[:13]
    events = until(lambda: feed(service, kept).json())
    assert number(events[0]["id"]) == number(kept) + 1
    assert {event["subject"] for event in events} == {image}
    answer = feed(service, lost)
    assert answer.status_code == 400
    assert "lost" in answer.json()["detail"]
    assert kept in answer.json()["detail"]
    # Events that were there before keep their ids, which others have.
    oldest = requests.get(f"{service.url}/log/v1/events?limit=1", timeout=30).json()
    assert oldest[0]["id"] == f"{kept[:13]}-1"
    # The only copies of the newer images are not removed, however late.
    found = service.run("reconcile", "--grace-seconds", "-5")
    assert found.returncode == 0, found.stderr
    files = {path.name[:36] for path in (service.folder / "images").glob("[!.]*")}
    assert set(newer) < files
    service.terminate()
    service.start()


def test_a_log_that_lost_its_wal_file_after_a_crash_is_not_served(
    make_service: Any, until: Any
) -> None:
    service = make_service()
    service.start()
    for _ in range(20):
        active(service)
    last = last_position(service)
    until(lambda: remembered(service.folder / "log.sqlite.head") >= number(last))
    service.kill()
    (service.folder / "log.sqlite-wal").unlink()
    (service.folder / "log.sqlite-shm").unlink()
    said = refused(service, "serve", "--listen", "127.0.0.1:0")
    assert f"had come to {last}" in said
    done = run(service, "audit", "verify")
    assert (done.exit_code, f"had come to {last}" in done.stdout) == (1, True), done.stdout


def test_a_log_that_went_on_after_it_was_set_back_has_other_events_there(
    set_back: Any,
) -> None:
    service, _, kept, lost = set_back
    heads = [service.folder / "log.sqlite.head", service.folder / "log.head"]
    heads += [service.folder / "images" / ".calotype"]
    saved = {path: path.read_bytes() for path in heads if path.exists()}
    for path in saved:
        path.unlink()  # An older release, which remembers nothing.
    service.start()
    while number(last_position(service)) < number(lost):
        active(service)
    service.terminate()
    for path, content in saved.items():
        path.write_bytes(content)
    said = refused(service, "serve", "--listen", "127.0.0.1:0")
    assert f"the event at {lost} is another one" in said
    assert run(service, "log", "begin-epoch", "--valid-to", kept).exit_code == 0
    service.start()
    assert [feed(service, position).status_code for position in (kept, lost)] == [200, 400]


def test_a_store_of_another_log_is_refused_until_it_is_adopted(
    make_service: Any, tmp_path: Path
) -> None:
    first = make_service()
    second = make_service(CALOTYPE_STORE__DIRECTORY=str(first.folder / "images"))
    first.start()
    active(first)
    first.terminate()
    assert run(second, "migrate").exit_code == 0
    for verb in (("serve", "--listen", "127.0.0.1:0"), ("reconcile",)):
        said = refused(second, *verb)
        assert "store 'default' belongs to another event log" in said
        assert "calotype stores adopt" in said
    assert run(second, "stores", "adopt").exit_code == 0
    second.start()
    active(second)
    second.terminate()
    assert "belongs to another event log" in refused(first, "serve", "--listen", "127.0.0.1:0")


@pytest.fixture
def on_s3(service: Any, seaweedfs: SeaweedFS) -> Any:
    """A service whose images are in an S3 store of its own."""
    service.environment |= {
        "CALOTYPE_STORE__KIND": "s3",
        "CALOTYPE_STORE__ENDPOINT": seaweedfs.endpoint,
        "CALOTYPE_STORE__BUCKET": "images",
        "CALOTYPE_STORE__ACCESS_KEY": seaweedfs.access_key,
        "CALOTYPE_STORE__SECRET_KEY": seaweedfs.secret_key,
        "CALOTYPE_STORE__CREATE_BUCKET": "true",
        "CALOTYPE_STORE__PREFIX": f"{uuid.uuid4().hex}/",
    }
    return service


def test_an_s3_store_remembers_too_and_the_data_directory_need_not(
    on_s3: Any, set_back: Any
) -> None:
    service, newer, kept, lost = set_back
    for path in (service.folder / "log.sqlite.head", service.folder / "log.head"):
        path.unlink(missing_ok=True)
    said = refused(service, "serve", "--listen", "127.0.0.1:0")
    assert f"ends at {kept} and had come to {lost}, as store 'default' remembers" in said
    assert run(service, "log", "begin-epoch").exit_code == 0
    service.start()
    found = service.run("reconcile", "--grace-seconds", "-5")
    assert found.returncode == 0, found.stderr
    assert all(image in found.stdout for image in newer)
    assert "removed 0" in found.stdout
