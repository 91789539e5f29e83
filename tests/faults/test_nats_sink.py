"""The sink for NATS and a real server: every event once in the stream, whoever dies."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import nats
import pytest
import requests
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

pytestmark = pytest.mark.slow

SINK = "bus"
PREFIX = "CALOTYPE_SINKS__BUS__"


class Stream:
    """The stream of one test, read by a consumer."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.name = f"S{os.urandom(4).hex()}"

    def environment(self) -> dict[str, str]:
        return {
            f"{PREFIX}KIND": "nats",
            f"{PREFIX}URLS": json.dumps(["nats://127.0.0.1:1", self.server.url]),
            f"{PREFIX}STREAM": self.name,
            f"{PREFIX}SUBJECT": self.name.lower(),
        }

    def ask(self, question: Callable[[JetStreamContext], Coroutine[Any, Any, Any]]) -> Any:
        async def go() -> Any:
            client = await nats.connect(self.server.url)
            try:
                return await question(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(go())

    def messages(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Subject, id and CloudEvent of all that is in it."""

        async def read(context: JetStreamContext) -> list[tuple[str, str, dict[str, Any]]]:
            try:
                count = (await context.stream_info(self.name)).state.messages
            except NotFoundError:
                return []
            subscription = await context.subscribe(f"{self.name.lower()}.>", ordered_consumer=True)
            found = [await subscription.next_msg(timeout=10) for _ in range(count)]
            return [(m.subject, m.headers["Nats-Msg-Id"], json.loads(m.data)) for m in found]

        return self.ask(read)


@pytest.fixture
def stream(nats_server: Any) -> Stream:
    return Stream(nats_server)


def create(service: Any) -> str:
    answer = requests.post(f"{service.url}/v2/images", json={"name": "n"}, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def change(service: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        url = f"{service.url}/v2/images/{create(service)}"
        for number in range(3):
            assert requests.put(f"{url}/tags/t{number}", timeout=30).status_code == 204


def check_complete(log: Any, stream: Stream) -> None:
    """Every event once, as the feed gives it; and of each image in order."""
    messages = stream.messages()
    numbers = [log.positions.decode(event["id"]) for _, _, event in messages]
    assert sorted(numbers) == list(range(1, log.head() + 1))
    assert all(identity == event["id"] for _, identity, event in messages)
    prefix = stream.name.lower()
    # Subjects have the short names of types.
    assert all(
        f"{prefix}.{event['type']}.default" == subject.replace(".image.", ".org.calotype.image.")
        for subject, _, event in messages
    )
    of_image: dict[str, list[int]] = {}
    for number, (_, _, event) in zip(numbers, messages, strict=True):
        of_image.setdefault(event["subject"], []).append(number)
    assert all(some == sorted(some) for some in of_image.values())


def test_a_server_that_is_stopped_in_the_middle_gets_everything_once(
    service: Any, stream: Stream, log_of: Any, until: Any
) -> None:
    service.environment |= stream.environment()
    service.start()
    stop = threading.Event()
    threads = [threading.Thread(target=change, args=(service, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        with log_of(service, SINK) as log:
            until(lambda: (log.reached() or 0) > 20)
            stream.server.stop()
            try:
                head = log.head()
                until(lambda: log.head() > head + 40)
            finally:
                stream.server.start()
            reached = log.reached()
            until(lambda: log.reached() > reached + 40)
            stop.set()
            for thread in threads:
                thread.join()
            until(log.is_delivered)
            check_complete(log, stream)
            feed = requests.get(f"{service.url}/log/v1/events?limit=3", timeout=30).json()
            told = {event["id"]: event for _, _, event in stream.messages()}
            assert [told[event["id"]] for event in feed] == feed
    finally:
        stop.set()
    assert stream.server.password not in "".join(service.lines)
    assert service.terminate() == 0


@pytest.mark.parametrize("service", ["postgresql"], indirect=True)
def test_what_a_killed_leader_had_published_is_not_there_twice(
    service: Any, second_service: Any, stream: Stream, log_of: Any, until: Any
) -> None:
    service.environment |= stream.environment()
    service.start()
    until(lambda: any("sink leads" in line for line in service.lines))
    second_service.start()
    stop = threading.Event()
    threads = [threading.Thread(target=change, args=(second_service, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()

    async def count(context: JetStreamContext) -> int:
        return (await context.stream_info(stream.name)).state.messages

    try:
        with log_of(service, SINK) as log:

            def caught() -> bool:
                service.process.send_signal(signal.SIGSTOP)
                if log.reached() and stream.ask(count) > log.reached():
                    return True
                service.process.send_signal(signal.SIGCONT)
                return False

            until(caught)
            service.kill()
            until(lambda: any("sink leads" in line for line in second_service.lines))
            stop.set()
            for thread in threads:
                thread.join()
            until(log.is_delivered)
            check_complete(log, stream)
    finally:
        stop.set()


def test_a_stream_that_is_deleted_is_made_again_and_replay_fills_it(
    make_service: Any, stream: Stream, log_of: Any, until: Any
) -> None:
    service = make_service(**stream.environment())
    service.start()
    first = create(service)
    with log_of(service, SINK) as log:
        until(log.is_delivered)
        stream.ask(lambda context: context.delete_stream(stream.name))
        second = create(service)
        until(log.is_delivered)
        assert [event["subject"] for _, _, event in stream.messages()] == [second]
        beginning = log.positions.encode(1)
        done = service.run("replay", "--to", SINK, "--from", beginning)
        assert "2 messages of 2 events sent" in done.stdout, done.stderr
        # The stream remembers the second, and takes only what it has not.
        assert [event["subject"] for _, _, event in stream.messages()] == [second, first]


def test_an_event_larger_than_the_server_takes_is_parked(
    make_service: Any, stream: Stream, log_of: Any, until: Any
) -> None:
    unbounded = {"CALOTYPE_LIMITS__IMAGE_DOCUMENT_BYTES": "-1"}
    service = make_service(**stream.environment(), **unbounded)
    service.start()
    big = {f"p{number}": "x" * 60_000 for number in range(20)}
    answer = requests.post(f"{service.url}/v2/images", json=big, timeout=30)
    assert answer.status_code == 201
    small = create(service)
    with log_of(service, SINK) as log:
        until(log.is_delivered)
    assert [event["subject"] for _, _, event in stream.messages()] == [small]
    assert "more than the server takes" in service.run("sinks", "parked", SINK).stdout
