"""Starting, sharing a port, draining and stopping real processes."""

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
import requests

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


def test_sigterm_lets_a_running_upload_finish_and_exits_with_0(service: Any, until: Any) -> None:
    service.start()
    image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30).json()
    codes: list[int] = []

    def slowly() -> Any:
        for _ in range(20):
            yield b"x" * 100_000
            time.sleep(0.1)

    def upload() -> None:
        answer = requests.put(
            f"{service.url}/v2/images/{image['id']}/file", data=slowly(), headers=OCTETS, timeout=60
        )
        codes.append(answer.status_code)

    uploading = threading.Thread(target=upload)
    uploading.start()
    show = f"{service.url}/v2/images/{image['id']}"
    until(lambda: requests.get(show, timeout=30).json()["status"] == "saving")
    assert service.terminate() == 0
    uploading.join()
    assert codes == [204]
    service.start()
    again = requests.get(f"{service.url}/v2/images/{image['id']}", timeout=30).json()
    assert (again["status"], again["size"]) == ("active", 2_000_000)


def test_health_says_no_at_once_while_draining_still_serves(make_service: Any) -> None:
    service = make_service(CALOTYPE_HTTP__DRAIN_SECONDS="2")
    service.start()
    assert requests.get(f"{service.url}/healthcheck", timeout=30).text == "OK"
    stopping = threading.Thread(target=service.terminate)
    stopping.start()
    time.sleep(0.5)
    health = requests.get(f"{service.url}/healthcheck", timeout=30)
    assert (health.status_code, "DRAINING" in health.text) == (503, True)
    assert requests.get(f"{service.url}/v2/images", timeout=30).status_code == 200
    stopping.join()
    assert service.process.returncode == 0


def test_every_worker_sees_every_write_on_the_next_request(service: Any) -> None:
    service.start("--workers", "3")
    # Each request opens a new connection, so that the kernel spreads them over the workers.
    image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30).json()
    url = f"{service.url}/v2/images/{image['id']}"
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    for number in range(40):
        change = [{"op": "replace", "path": "/name", "value": f"n{number}"}]
        assert requests.patch(url, json=change, headers=media, timeout=30).status_code == 200
        assert requests.get(url, timeout=30).json()["name"] == f"n{number}"
        listed = requests.get(f"{service.url}/v2/images?name=n{number}", timeout=30).json()
        assert [found["id"] for found in listed["images"]] == [image["id"]]


def test_workers_that_change_one_image_at_once_all_succeed_or_conflict(service: Any) -> None:
    service.start("--workers", "2")
    image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30).json()

    def tag(number: int) -> int:
        url = f"{service.url}/v2/images/{image['id']}/tags/t{number}"
        return requests.put(url, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(tag, range(40)))
    tags = requests.get(f"{service.url}/v2/images/{image['id']}", timeout=30).json()["tags"]
    said = {f"t{number}": code for number, code in enumerate(codes)}
    assert set(codes) <= {204, 409}, (said, service.lines)
    assert set(tags) == {tag for tag, code in said.items() if code == 204}, (said, service.lines)


def test_a_worker_that_dies_is_replaced_and_all_stop_with_their_parent(
    make_service: Any, until: Any
) -> None:
    service = make_service()
    service.start("--workers", "2")
    until(lambda: len([line for line in service.lines if '"ready"' in line]) == 2)

    def workers() -> list[int]:
        path = f"/proc/{service.process.pid}/task/{service.process.pid}/children"
        with open(path) as children:
            return [int(child) for child in children.read().split()]

    before = workers()
    assert len(before) == 2
    subprocess.run(["kill", "-9", str(before[0])], check=True)
    until(lambda: len(workers()) == 2 and before[0] not in workers())
    assert requests.get(f"{service.url}/v2/images", timeout=30).status_code == 200
    children = workers()
    service.kill_parent()  # Even a parent that cannot say anything takes its workers along.
    until(lambda: not any(_alive(pid) for pid in children))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_many_processes_may_start_at_once_on_an_empty_database(service: Any) -> None:
    def migrate(_: int) -> subprocess.CompletedProcess[str]:
        return service.run("migrate")

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(migrate, range(6)))
    assert [done.returncode for done in results] == [0] * 6, results
    assert sum("applied 0001_log" in done.stdout for done in results) == 1


def test_a_taken_port_is_a_message_and_not_a_traceback(make_service: Any) -> None:
    service = make_service()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = service.run("serve", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert "http.listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_postgresql_log_that_was_not_migrated_names_the_command(
    make_service: Any, postgres_url: str
) -> None:
    service = make_service()
    command = [sys.executable, "-m", "calotype.ops", "serve", "--log-url", postgres_url]
    done = subprocess.run(
        [*command, "--data", str(service.folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "calotype migrate" in done.stderr


def test_a_query_table_that_is_missing_is_made_or_named_with_the_command(service: Any) -> None:
    """As after an upgrade that adds one: SQLite mends itself, PostgreSQL waits for `migrate`."""
    assert service.run("migrate").returncode == 0
    if service.log_url is None:
        with closing(sqlite3.connect(service.folder / "log.sqlite")) as database:
            database.execute("DROP TABLE image_tags_2")
    else:
        with psycopg.connect(service.log_url, autocommit=True) as database:
            database.execute("DROP TABLE image_tags_2")
        refused = service.run("serve", "--listen", "127.0.0.1:0")
        assert refused.returncode == 2
        assert "calotype migrate" in refused.stderr
        assert "Traceback" not in refused.stderr
    service.start()
    image = requests.post(f"{service.url}/v2/images", json={**FORMATS, "tags": ["a"]}, timeout=30)
    assert image.status_code == 201, service.lines
    listed = requests.get(f"{service.url}/v2/images?tag=a", timeout=30).json()["images"]
    assert [found["id"] for found in listed] == [image.json()["id"]]
