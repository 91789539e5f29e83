"""A killed deliverer is replaced within seconds: nothing is lost, images keep their order."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import requests

pytestmark = pytest.mark.slow

WEBHOOKS = "/log/v1/webhooks"
ENVIRONMENT = {
    "CALOTYPE_WEBHOOKS__PLAIN_HTTP": "true",
    "CALOTYPE_WEBHOOKS__ALLOW": '["127.0.0.0/8"]',
    "CALOTYPE_WEBHOOKS__FIRST_RETRY_SECONDS": "0.2",
}
DELIVERS = '"event": "delivers webhooks"'


@pytest.fixture
def pair(service: Any) -> Iterator[list[Any]]:
    """Two processes that serve the same log."""
    service.environment |= ENVIRONMENT
    other = type(service)(service.folder, service.log_url, **ENVIRONMENT)
    service.start()
    other.start()
    yield [service, other]
    if other.process is not None and other.process.poll() is None:
        other.kill()


def leader_of(pair: list[Any]) -> Any:
    return next((one for one in pair if any(DELIVERS in line for line in one.lines)), None)


def make_hook(url: str, receiver: Any, name: str = "ci", **more: str) -> str:
    body = {"url": receiver.url, **more}
    answer = requests.put(f"{url}{WEBHOOKS}/{name}", json=body, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


class Writer:
    """Creates images and tags them, through whichever process answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.images: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            if number % 5 == 1:
                answer = requests.post(f"{self.url}/v2/images", json={"name": "n"}, timeout=30)
                self.images.append(answer.json()["id"])
            path = f"{self.url}/v2/images/{self.images[-1]}/tags/t{number}"
            assert requests.put(path, timeout=30).status_code == 204
            time.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def all_events(url: str) -> list[Any]:
    events: list[Any] = []
    path = "/log/v1/events?limit=1000"
    while True:
        answer = requests.get(url + path, timeout=30)
        events += answer.json()
        if "immutable" not in answer.headers["Cache-Control"]:
            return events
        path = answer.links["next"]["url"]


def first_times(got: list[Any]) -> list[Any]:
    """What came, without what came again."""
    seen: set[str] = set()
    first = []
    for received in got:
        message = received.headers["webhook-id"]
        if message not in seen:
            seen.add(message)
            first.append(received)
    return first


def test_another_process_goes_on_where_a_killed_one_was(
    pair: list[Any], receiver: Any, until: Any
) -> None:
    make_hook(pair[0].url, receiver)
    # Some deliveries are under way at any moment.
    receiver.answer = lambda received: time.sleep(0.05) or 204
    leader = until(lambda: leader_of(pair))
    survivor = next(one for one in pair if one is not leader)
    writer = Writer(survivor.url)
    try:
        until(lambda: len(receiver.got) > 50)
        leader.kill()
        killed_at = time.monotonic()
        until(lambda: any(r.at > killed_at + 1 for r in list(receiver.got)))
        resumed_at = min(r.at for r in list(receiver.got) if r.at > killed_at + 1)
        count = len(receiver.got)
        until(lambda: len(receiver.got) > count + 50)
    finally:
        writer.stop()
    feed = all_events(survivor.url)
    until(lambda: len(first_times(list(receiver.got))) >= len(feed))
    assert resumed_at - killed_at < 20
    got = list(receiver.got)
    first = first_times(got)
    events = {event["id"]: event for event in feed}
    assert sorted(r.event["id"] for r in first) == sorted(events)
    assert all(r.event == events[r.event["id"]] for r in first)
    # The id of a message is a function of its event, whoever sends it.
    ids = {(r.headers["webhook-id"], r.event["id"]) for r in got}
    assert len(ids) == len(events)
    versions: dict[str, list[int]] = {}
    for received in first:
        event = received.event
        versions.setdefault(event["subject"], []).append(event["data"]["version"])
    for of_image in versions.values():
        assert of_image == sorted(of_image)
    # At most what was under way came twice: eight deliveries are made at once.
    assert len(got) - len(first) <= 8
    assert survivor.terminate() == 0


@pytest.mark.parametrize("service", ["postgresql"], indirect=True)
def test_a_deliverer_that_stood_still_repeats_what_it_had_in_hand_and_no_more(
    pair: list[Any], receiver: Any, until: Any
) -> None:
    url = pair[0].url
    images = [requests.post(f"{url}/v2/images", json={}, timeout=30).json()["id"] for _ in range(8)]
    for tag in "abcdefghijklmnop":
        for image in images:
            assert (
                requests.put(f"{url}/v2/images/{image}/tags/{tag}", timeout=30).status_code == 204
            )
    receiver.answer = lambda received: time.sleep(0.2) or 204
    make_hook(url, receiver, start="beginning")
    leader = until(lambda: leader_of(pair))
    survivor = next(one for one in pair if one is not leader)
    until(lambda: len(receiver.got) > 16)
    leader.process.send_signal(signal.SIGSTOP)
    stopped = len(receiver.got)
    until(lambda: len(receiver.got) > stopped + 8, 60)
    leader.process.send_signal(signal.SIGCONT)
    until(lambda: len(first_times(list(receiver.got))) == 8 * 17, 60)
    of_image: dict[str, list[int]] = {}
    for received in first_times(receiver.got):
        of_image.setdefault(received.event["subject"], []).append(received.event["data"]["version"])
    assert all(versions == list(range(1, 18)) for versions in of_image.values())
    assert len(receiver.got) - 8 * 17 <= 8
    assert survivor.terminate() == 0
    assert leader.terminate() == 0


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_a_deliverer_that_is_told_to_stop_repeats_nothing(
    pair: list[Any], receiver: Any, until: Any
) -> None:
    make_hook(pair[0].url, receiver)
    receiver.answer = lambda received: time.sleep(0.05) or 204
    leader = until(lambda: leader_of(pair))
    survivor = next(one for one in pair if one is not leader)
    writer = Writer(survivor.url)
    try:
        until(lambda: len(receiver.got) > 30)
        started = time.monotonic()
        assert leader.terminate() == 0
        stopped_at = time.monotonic()
        assert stopped_at - started < 10
        until(lambda: any(r.at > stopped_at + 0.5 for r in list(receiver.got)))
        resumed_at = min(r.at for r in list(receiver.got) if r.at > stopped_at)
        assert resumed_at - stopped_at < 5  # The lease was given back.
    finally:
        writer.stop()
    feed = all_events(survivor.url)
    until(lambda: len(receiver.got) >= len(feed))
    assert [r.event["id"] for r in first_times(receiver.got)] == [
        r.event["id"] for r in receiver.got
    ]
    assert survivor.terminate() == 0


@pytest.mark.parametrize("service", ["postgresql"], indirect=True)
def test_a_database_that_throws_everybody_out_costs_no_message(
    service: Any, receiver: Any, until: Any
) -> None:
    service.environment |= ENVIRONMENT
    service.start()
    make_hook(service.url, receiver)
    receiver.answer = lambda received: time.sleep(0.02) or 204
    until(lambda: leader_of([service]))
    images = []
    for _ in range(4):
        for _ in range(10):
            answer = requests.post(f"{service.url}/v2/images", json={}, timeout=60)
            if answer.status_code == 201:
                images.append(answer.json()["id"])
        with psycopg.connect(service.log_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    assert len(images) > 20
    until(lambda: len(first_times(list(receiver.got))) >= len(all_events(service.url)))
    assert set(images) <= {received.event["subject"] for received in receiver.got}
    assert service.terminate() == 0


def test_an_unreachable_endpoint_never_slows_the_service(
    make_service: Any, receiver: Any, until: Any
) -> None:
    service = make_service(**ENVIRONMENT, CALOTYPE_WEBHOOKS__TIMEOUT_SECONDS="120")
    service.start()
    release = threading.Event()
    receiver.answer = lambda received: release.wait(60) and 204
    for number in range(10):
        make_hook(service.url, receiver, f"n{number}")
    try:
        seconds = []
        for _ in range(60):
            started = time.monotonic()
            answer = requests.post(f"{service.url}/v2/images", json={"name": "n"}, timeout=30)
            assert answer.status_code == 201
            seconds.append(time.monotonic() - started)
        until(lambda: len(receiver.got) >= 10)
        assert sorted(seconds)[len(seconds) // 2] < 0.5
        started = time.monotonic()
        assert service.terminate() == 0
        assert time.monotonic() - started < 15
    finally:
        release.set()
    assert not any("Traceback" in line for line in service.lines)
