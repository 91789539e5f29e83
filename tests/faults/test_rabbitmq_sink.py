"""The notifier and a real RabbitMQ: nothing is lost, whoever dies; and nothing waits for it."""

import json
import os
import signal
import threading
from collections import Counter
from typing import Any

import amqp
import pytest
import requests
from yarl import URL

from calotype.projections.sinks.oslo import OsloEncoder, OsloEnvelope
from calotype.projections.sinks.pages import PAGE_EVENTS, page_after

pytestmark = pytest.mark.slow

SINK = "telemetry"
PREFIX = "CALOTYPE_SINKS__TELEMETRY__"


def with_sink(service: Any, url: str, **more: str) -> str:
    """Gives the service a sink with names of its own; returns those of its queues but the end."""
    topic = f"n{os.urandom(4).hex()}"
    service.environment |= {
        f"{PREFIX}KIND": "rabbitmq",
        f"{PREFIX}URLS": json.dumps([url]),
        f"{PREFIX}EXCHANGE": f"x{topic}",
        f"{PREFIX}TOPICS": json.dumps([topic]),
        f"{PREFIX}DURABLE": "true",
        **{f"{PREFIX}{name}": value for name, value in more.items()},
    }
    return topic


def create(service: Any, **fields: Any) -> str:
    answer = requests.post(f"{service.url}/v2/images", json={"name": "n", **fields}, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def tag(service: Any, image_id: str, name: str) -> None:
    url = f"{service.url}/v2/images/{image_id}/tags/{name}"
    assert requests.put(url, timeout=30).status_code == 204


def number_of(log: Any, message: dict[str, Any]) -> int:
    """The position of the event that the message tells of."""
    return int(log.positions.decode(message["headers"]["calotype-position"]))


def expected_ids(log: Any) -> list[str]:
    """The ids of everything that is to be told of the whole log."""
    telling = OsloEncoder(log.recorder, OsloEnvelope(log.positions))
    ids: list[str] = []
    position = 0
    while (page := page_after(log.recorder, telling, position)) is not None:
        ids += [message.id for _, message in page.messages]
        position = page.last
    return ids


def check_complete(log: Any, messages: list[dict[str, Any]]) -> Counter[str]:
    """Everything is there, and of each image in order; returns how often each id is."""
    ids = Counter(message["message_id"] for message in messages)
    assert set(ids) == set(expected_ids(log))
    first_of: dict[str, list[int]] = {}
    seen: set[str] = set()
    for message in messages:
        assert message["amqp_id"] == message["message_id"]
        assert message["_unique_id"] == message["message_id"].replace("-", "")
        if message["message_id"] not in seen:
            seen.add(message["message_id"])
            first_of.setdefault(message["payload"]["id"], []).append(number_of(log, message))
    assert all(numbers == sorted(numbers) for numbers in first_of.values())
    return ids


def test_nothing_is_lost_and_nobody_waits_while_the_broker_is_down(
    service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    server = rabbitmq.restartable()
    topic = with_sink(service, server.url)
    service.start()
    with log_of(service, SINK) as log:
        assert log.reached() == 0
        image_id = create(service)
        until(log.is_delivered)
        server.stop()
        try:
            tag(service, image_id, "first")
            until(lambda: "cannot connect" in log.trouble())
            shown = service.run("sinks", "status").stdout
            assert "cannot go on since" in shown
            for number in range(30):
                tag(service, image_id, f"t{number}")
                create(service)
            assert log.reached() == 1
        finally:
            server.start()
        until(log.is_delivered)
        messages = rabbitmq.drain(f"{topic}.info")
        assert set(check_complete(log, messages).values()) == {1}
        until(lambda: log.trouble() == "")
    said = "".join(service.lines) + shown
    assert "sink cannot go on" in said
    assert server.password not in said
    assert service.terminate() == 0


def test_a_broker_that_stands_still_holds_up_neither_requests_nor_a_stop(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    server = rabbitmq.restartable()
    service = make_service()
    topic = with_sink(service, server.url)
    service.start()
    with log_of(service, SINK) as log:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            images = [create(service) for _ in range(5)]
            assert service.terminate() == 0
            service.start()
            images.append(create(service))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(log.is_delivered)
        messages = rabbitmq.drain(f"{topic}.info")
        assert {message["payload"]["id"] for message in messages} == set(images)
        check_complete(log, messages)


def test_kill_9_in_the_middle_of_a_page_repeats_at_most_that_page_with_the_same_ids(
    service: Any, second_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    topic = with_sink(service, rabbitmq.url)
    service.start()
    until(lambda: any("sink leads" in line for line in service.lines))
    second_service.start()
    stop = threading.Event()
    threads = [threading.Thread(target=change, args=(second_service, stop)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with log_of(service, SINK) as log:
            messages = kill_in_mid_page(service, rabbitmq, f"{topic}.info", log, until)
            until(lambda: any("sink leads" in line for line in second_service.lines))
            stop.set()
            for thread in threads:
                thread.join()
            until(log.is_delivered)
            messages += rabbitmq.drain(f"{topic}.info")
            ids = check_complete(log, messages)
            repeated = {
                number_of(log, message) for message in messages if ids[message["message_id"]] > 1
            }
    finally:
        stop.set()
    assert repeated, "it was killed before a message of the page had arrived"
    assert max(ids.values()) == 2
    assert max(repeated) - min(repeated) < PAGE_EVENTS
    bodies: dict[str, set[str]] = {}
    for message in messages:
        bodies.setdefault(message["message_id"], set()).add(json.dumps(message["payload"]))
    assert all(len(some) == 1 for some in bodies.values())
    assert second_service.terminate() == 0


def change(service: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        image_id = create(service)
        for number in range(3):
            tag(service, image_id, f"t{number}")


def kill_in_mid_page(
    service: Any, rabbitmq: Any, queue: str, log: Any, until: Any
) -> list[dict[str, Any]]:
    """Freezes the leader until it stands between a confirmed message and its checkpoint."""
    messages: list[dict[str, Any]] = []

    def caught() -> bool:
        service.process.send_signal(signal.SIGSTOP)
        messages.extend(rabbitmq.drain(queue))
        if messages and number_of(log, messages[-1]) > (log.reached() or 0):
            return True
        service.process.send_signal(signal.SIGCONT)
        return False

    until(caught)
    service.kill()
    return messages


def test_what_the_broker_never_takes_is_parked_and_redelivered_when_it_does(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    server = rabbitmq.restartable()
    service = make_service(CALOTYPE_LIMITS__IMAGE_DOCUMENT_BYTES="-1")
    topic = with_sink(service, server.url)
    service.start()
    before = create(service)
    big = create(service, **{f"p{number}": "x" * 60_000 for number in range(20)})
    after = create(service)
    with log_of(service, SINK) as log:
        until(log.is_delivered)
        # Who was on the way beside it may come twice: the broker closed their channel, too.
        told = {message["payload"]["id"] for message in rabbitmq.drain(f"{topic}.info")}
        assert told == {before, after}
        position = log.positions.encode(2)
        parked = service.run("sinks", "parked", SINK).stdout
        assert position in parked
        assert "image.created" in parked
        assert "larger than configured max size" in parked
        still = service.run("sinks", "redeliver", SINK, position)
        assert still.returncode == 1
        assert "stays parked" in still.stdout
        try:
            server.max_message_bytes = 16 << 20
            server.stop()
            server.start()
            done = service.run("sinks", "redeliver", SINK)
        finally:
            server.max_message_bytes = 1 << 20
        assert done.returncode == 0, done.stdout + done.stderr
        (message,) = rabbitmq.drain(f"{topic}.info")
        assert message["payload"]["id"] == big
        assert message["message_id"] in expected_ids(log)
        assert service.run("sinks", "parked", SINK).stdout == ""


def test_a_queue_that_is_deleted_is_made_again_with_the_message_in_it(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    service = make_service()
    dead = "amqp://127.0.0.1:1/"
    topic = with_sink(service, rabbitmq.url, QUORUM="true", URLS=json.dumps([dead, rabbitmq.url]))
    service.start()
    create(service)
    with log_of(service, SINK) as log:
        until(log.is_delivered)
        url = URL(rabbitmq.url)
        with amqp.Connection(f"{url.host}:{url.port}", url.user, url.password) as connection:
            channel, queue = connection.channel(), f"{topic}.info"
            kind = {"x-queue-type": "quorum"}
            # Refused unless it is there with these very properties, or not at all.
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=kind)
            assert channel.queue_delete(queue) == 1
        image_id = create(service)
        until(log.is_delivered)
    (message,) = rabbitmq.drain(f"{topic}.info")
    assert message["payload"]["id"] == image_id


def test_a_queue_that_others_declared_otherwise_stops_the_sink_and_parks_nothing(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    service = make_service()
    topic = with_sink(service, rabbitmq.url, DURABLE="false")
    url, queue = URL(rabbitmq.url), f"{topic}.info"
    with amqp.Connection(f"{url.host}:{url.port}", url.user, url.password) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False)
        service.start()
        images = [create(service) for _ in range(5)]
        with log_of(service, SINK) as log:
            until(lambda: "inequivalent arg 'durable' for queue" in log.trouble())
            assert service.run("sinks", "parked", SINK).stdout == ""
            assert log.reached() == 0
            channel.queue_delete(queue)
            until(log.is_delivered)
            until(lambda: log.trouble() == "")
    told = [message["payload"]["id"] for message in rabbitmq.drain(queue)]
    assert sorted(told) == sorted(images)


def test_replay_counts_first_and_then_tells_again_under_the_same_ids(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    service = make_service()
    topic = with_sink(service, rabbitmq.url)
    service.start()
    image_id = create(service)
    for name in ("a", "b", "c"):
        tag(service, image_id, name)
    with log_of(service, SINK) as log:
        until(log.is_delivered)
        told = [message["message_id"] for message in rabbitmq.drain(f"{topic}.info")]
        second, third = log.positions.encode(2), log.positions.encode(3)
        part = ("replay", "--to", SINK, "--from", second, "--until", third)
        counted = service.run(*part, "--dry-run")
        assert counted.returncode == 0, counted.stderr
        assert "2 messages of 2 events would be sent" in counted.stdout
        assert rabbitmq.drain(f"{topic}.info") == []
        done = service.run(*part)
        assert "2 messages of 2 events sent" in done.stdout
        again = [message["message_id"] for message in rabbitmq.drain(f"{topic}.info")]
        assert again == told[1:3]
        assert log.reached() == 4
        for wrong, text in (
            (("replay", "--to", "nobody", "--from", second), "[sinks.nobody]"),
            (("replay", "--to", SINK, "--from", "p1"), "--from: "),
            (("replay", "--to", SINK), "--from: say the position"),
        ):
            refused = service.run(*wrong)
            assert refused.returncode == 2
            assert text in refused.stderr


def test_a_sink_starts_at_the_head_or_at_the_beginning_as_it_is_told(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    service = make_service()
    service.start()
    first = create(service)
    service.terminate()
    topic = with_sink(service, rabbitmq.url)
    service.start()
    second = create(service)
    with log_of(service, SINK) as log:
        until(log.is_delivered)
        assert [m["payload"]["id"] for m in rabbitmq.drain(f"{topic}.info")] == [second]
    service.terminate()
    for name in list(service.environment):
        if name.startswith(PREFIX):
            value = service.environment.pop(name)
            service.environment[name.replace("TELEMETRY", "ALL")] = value
    service.environment["CALOTYPE_SINKS__ALL__START"] = "beginning"
    service.start()
    told: list[str] = []

    def both() -> bool:
        told.extend(message["payload"]["id"] for message in rabbitmq.drain(f"{topic}.info"))
        return len(told) >= 2

    until(both)
    assert sorted(told) == sorted([first, second])


def test_no_secret_of_a_broker_is_written_anywhere(
    make_service: Any, rabbitmq: Any, log_of: Any, until: Any
) -> None:
    service = make_service()
    with_sink(service, str(URL(rabbitmq.url).with_password("MARKER-SECRET")))
    service.start()
    create(service)
    until(lambda: any("Login was refused" in line for line in service.lines))
    with log_of(service, SINK) as log:
        first = log.positions.encode(1)
    commands = [
        ("sinks", "status"),
        ("sinks", "parked", SINK),
        ("replay", "--to", SINK, "--from", first),
    ]
    runs = [service.run(*command) for command in commands]
    assert "Login was refused" in runs[0].stdout
    assert "Login was refused" in runs[2].stderr
    assert runs[2].returncode == 1
    assert f"--from {first}" in runs[2].stderr
    said = "".join(service.lines) + "".join(run.stdout + run.stderr for run in runs)
    assert "MARKER-SECRET" not in said
    assert create(service)
