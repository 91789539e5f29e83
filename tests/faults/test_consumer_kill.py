"""Named consumers through crashes: whatever is killed, every event is worked on, and in order."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

CONSUMER = "/log/v1/consumers/cmdb"
LONG = "/log/v1/consumers/long"
MEMBERS = 4
KILLS = 2


@pytest.fixture
def pair(service: Any) -> Any:
    """Two services on one log, both running."""
    second = type(service)(service.folder, service.log_url)
    service.start()
    second.start()
    yield service, second
    if second.process.poll() is None:
        second.kill()


def _post(service: Any, path: str, body: Any) -> Any:
    answer = requests.post(f"{service.url}{path}", json=body, timeout=70)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def _put(service: Any, path: str, body: Any) -> Any:
    answer = requests.put(f"{service.url}{path}", json=body, timeout=30)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def test_after_a_kill_claims_hold_until_they_end_and_nothing_is_lost(service: Any) -> None:
    service.start()
    ids = [_post(service, "/v2/images", {"name": "n"})["id"] for _ in range(3)]
    _put(service, CONSUMER, {})
    _put(service, LONG, {})
    held = _post(service, f"{LONG}/fetch", {"ack_seconds": 600})["deliveries"]
    taken = _post(service, f"{CONSUMER}/fetch", {"ack_seconds": 2})["deliveries"]
    done = _post(service, f"{CONSUMER}/ack", {"tokens": [taken[0]["token"]]})
    assert done["results"][0]["result"] == "acknowledged"
    service.kill()
    service.start()
    assert _post(service, f"{LONG}/fetch", {"member": "other"})["deliveries"] == []
    kept = _post(service, f"{LONG}/ack", {"tokens": [one["token"] for one in held]})
    assert [one["result"] for one in kept["results"]] == ["acknowledged"] * 3
    again: list[Any] = []
    while len(again) < 2:
        asked = {"wait": 30, "ack_seconds": 60, "member": "other"}
        again += _post(service, f"{CONSUMER}/fetch", asked)["deliveries"]
    assert [one["event"]["subject"] for one in again] == ids[1:]
    assert {one["attempt"] for one in again} == {2}
    # The answers of the first claims are late, those of the second count.
    old = _post(service, f"{CONSUMER}/ack", {"tokens": [one["token"] for one in taken]})
    assert [one["status"] for one in old["results"]] == [409, 410, 410]
    new = _post(service, f"{CONSUMER}/ack", {"tokens": [one["token"] for one in again]})
    assert [one["status"] for one in new["results"]] == [200, 200]
    shown = requests.get(f"{service.url}{CONSUMER}", timeout=30).json()
    assert (shown["lag"]["events"], shown["claimed"]) == (0, 0)


class Member:
    """Works like a program that knows of crashes: asks again, at any service that answers."""

    def __init__(self, name: str, services: tuple[Any, Any], work: Callable[[Any], None]) -> None:
        self.name = name
        self.services = services
        self.work = work
        self.acknowledged: list[tuple[str, int]] = []
        self.stopped = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        number = 0
        while not self.stopped:
            number += 1
            try:
                self._step(self.services[number % 2])
            except requests.RequestException:
                time.sleep(0.05)

    def _step(self, service: Any) -> None:
        asked = {"member": self.name, "limit": 5, "ack_seconds": 2, "wait": 1}
        answer = requests.post(f"{service.url}{CONSUMER}/fetch", json=asked, timeout=20)
        if answer.status_code != 200:
            return
        for delivery in answer.json()["deliveries"]:
            self.work(delivery)
            body = {"tokens": [delivery["token"]]}
            answer = requests.post(f"{service.url}{CONSUMER}/ack", json=body, timeout=20)
            if answer.status_code == 200:
                [result] = answer.json()["results"]
                event = delivery["event"]
                if result["result"] == "acknowledged":
                    self.acknowledged.append((event["subject"], event["data"]["version"]))


def test_members_go_on_through_kills_of_the_services_with_every_image_in_order(
    pair: Any, until: Any
) -> None:
    first, second = pair
    _put(second, CONSUMER, {"max_attempts": 100})
    worked: list[tuple[str, int]] = []
    lock = threading.Lock()

    def work(delivery: Any) -> None:
        with lock:
            worked.append((delivery["event"]["subject"], delivery["event"]["data"]["version"]))

    members = [Member(f"m{n}", pair, work) for n in range(MEMBERS)]
    written: dict[str, int] = {}
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            image = _post(second, "/v2/images", {"name": "n"})["id"]
            written[image] = 1
            for tag in range(3):
                url = f"{second.url}/v2/images/{image}/tags/t{tag}"
                assert requests.put(url, timeout=30).status_code == 204
                written[image] += 1

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(KILLS):
        before = len(worked)
        until(lambda before=before: len(worked) > before + 20)
        first.kill()
        before = len(worked)
        until(lambda before=before: len(worked) > before + 20)
        first.start()
    stop.set()
    writer.join()
    everything = {(image, n + 1) for image, count in written.items() for n in range(count)}
    until(lambda: set(worked) == everything, 60)
    url = f"{second.url}{CONSUMER}"
    until(lambda: requests.get(url, timeout=30).json()["lag"]["events"] == 0, 60)
    for member in members:
        member.stopped = True
    for member in members:
        member.thread.join(30)
    # At least once: an answer whose reply was lost counts, but nobody heard of it.
    firsts: dict[str, list[int]] = {}
    for image, version in worked:
        if version not in firsts.setdefault(image, []):
            firsts[image].append(version)
    assert all(versions == sorted(versions) for versions in firsts.values())
    acknowledged = [one for member in members for one in member.acknowledged]
    assert len(set(acknowledged)) == len(acknowledged)


def test_who_hung_up_while_waiting_is_given_nothing(service: Any) -> None:
    service.start()
    _put(service, CONSUMER, {})
    body = b'{"wait": 30, "ack_seconds": 600}'
    with socket.create_connection(("127.0.0.1", service.port), 10) as line:
        line.sendall(
            b"POST /log/v1/consumers/cmdb/fetch HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        url = f"{service.url}{CONSUMER}"
        while not requests.get(url, timeout=30).json()["members"]:
            time.sleep(0.05)
    _post(service, "/v2/images", {"name": "n"})
    [taken] = _post(service, f"{CONSUMER}/fetch", {"wait": 20, "member": "there"})["deliveries"]
    assert taken["attempt"] == 1
