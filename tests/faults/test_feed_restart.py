"""A consumer that follows the feed through a crash of the service misses nothing, twice nothing."""

import json
import threading
import time
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

EVENTS = "/log/v1/events"
PROJECTS = {"CALOTYPE_IDENTITY__KIND": "headers"}
READER = {"X-User-Id": "u", "X-Project-Id": "p1", "X-Roles": "member"}
OPERATOR = {"X-User-Id": "a", "X-Project-Id": "x", "X-Roles": "admin"}


class Consumer:
    """Follows the stream as an EventSource does: comes back with the id that it saw last."""

    def __init__(self, service: Any, headers: dict[str, str]) -> None:
        self.service = service
        self.headers = {**headers, "Accept": "text/event-stream"}
        self.events: list[dict[str, Any]] = []
        self.connections = 0
        self.last_id = ""
        self.stopped = False
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        while not self.stopped:
            try:
                self._read_stream()
            except requests.RequestException:
                time.sleep(0.1)

    def _read_stream(self) -> None:
        headers = {**self.headers, **({"Last-Event-ID": self.last_id} if self.last_id else {})}
        url = self.service.url + EVENTS
        with requests.get(url, headers=headers, stream=True, timeout=20) as answer:
            if answer.status_code != 200:
                time.sleep(0.1)
                return
            self.connections += 1
            position, data = "", ""
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                name, _, value = line.partition(": ")
                if name == "id":
                    position = value
                elif name == "data":
                    data = value
                elif not line:
                    # Only a frame that has ended counts.
                    if data:
                        self.events.append(json.loads(data))
                    self.last_id = position or self.last_id
                    position, data = "", ""


@pytest.fixture
def service_of_projects(service: Any) -> Any:
    service.environment |= PROJECTS
    return service


@pytest.mark.parametrize("headers", [READER, OPERATOR], ids=["project", "operator"])
def test_a_killed_service_leaves_no_gap_and_no_repeat(
    service_of_projects: Any, headers: dict[str, str], until: Any
) -> None:
    service = service_of_projects
    service.start()
    consumer = Consumer(service, headers)
    written: list[str] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            try:
                answer = requests.post(
                    f"{service.url}/v2/images", json={"name": "n"}, headers=READER, timeout=10
                )
                if answer.status_code == 201:
                    written.append(answer.json()["id"])
            except requests.RequestException:
                time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            seen = len(consumer.events)
            until(lambda seen=seen: len(consumer.events) > seen + 20)
            connected = consumer.connections
            service.kill()
            service.start()
            # It may read on for a while what had reached it before the service died.
            until(lambda connected=connected: consumer.connections > connected)
        seen = len(consumer.events)
        until(lambda: len(consumer.events) > seen + 20)
    finally:
        stop.set()
        writer.join()
    until(lambda: set(written) <= {event["subject"] for event in list(consumer.events)})
    consumer.stopped = True
    assert consumer.connections >= 3
    ids = [event["id"] for event in consumer.events]
    numbers = [int(text.rpartition("-")[2], 16) for text in ids]
    # Only creations were asked for, all in one project: nothing else is in the log.
    assert numbers == list(range(1, len(numbers) + 1))
    assert service.terminate() == 0


def test_a_stop_does_not_wait_for_those_who_follow(make_service: Any, until: Any) -> None:
    service = make_service()
    service.start()
    consumer = Consumer(service, {})
    requests.post(f"{service.url}/v2/images", json={"name": "n"}, timeout=10)
    until(lambda: consumer.events)
    start = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - start < 10
    consumer.stopped = True
