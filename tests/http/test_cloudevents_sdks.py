"""Events of every way out of the service are read by the SDKs for Python and for JavaScript."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.ops.wiring.composition import versions_follower
from calotype.projections.feed.catalogue import sample_event
from calotype.projections.feed.cloudevents import SNAPSHOT, type_of
from calotype.projections.sinks.jetstream import JetStreamEncoder

JAVASCRIPT = Path(__file__).parent.parent / "clients" / "cloudevents_js"
ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"


@dataclass(frozen=True)
class Message:
    """One or more events as they leave the service."""

    media: str
    body: bytes

    @property
    def events(self) -> list[Any]:
        read = orjson.loads(self.body)
        return read if self.media == MANY else [read]


def read_by_javascript(messages: list[Message]) -> list[dict[str, Any]]:
    """What the SDK (npm: cloudevents) makes of each event. Fails where it refuses one."""
    assert shutil.which("node"), "make tools"
    assert (JAVASCRIPT / "node_modules").is_dir(), "`make test` installs the SDK"
    lines = [
        json.dumps({"headers": {"content-type": message.media}, "body": message.body.decode()})
        for message in messages
    ]
    done = subprocess.run(
        ["node", "read.mjs"],
        cwd=JAVASCRIPT,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_by_python(messages: list[Message]) -> list[dict[str, Any]]:
    """The same by the SDK for Python (PyPI: cloudevents)."""
    return [
        {
            "id": event.get_id(),
            "type": event.get_type(),
            "source": event.get_source(),
            "dataschema": event.get_dataschema(),
            "subject": event.get_subject(),
            "data": event.get_data(),
        }
        for message in messages
        for sent in message.events
        for event in [from_structured_event(HTTPMessage({"content-type": ONE}, orjson.dumps(sent)))]
    ]


def assert_both_read(messages: list[Message]) -> list[str]:
    """Both SDKs find in the messages what stands there; the types that do."""
    sent = [event for message in messages for event in message.events]
    assert sent
    names = ("id", "type", "source", "dataschema", "subject", "data")
    expected = [{name: event[name] for name in names if name in event} for event in sent]
    assert read_by_javascript(messages) == expected
    by_python = [
        {name: value for name, value in event.items() if value is not None}
        for event in read_by_python(messages)
    ]
    assert by_python == expected
    return [event["type"] for event in sent]


@pytest.mark.slow
def test_an_event_of_every_type_is_read_by_both() -> None:
    topics = sorted(LOG_EVENT_TYPES)
    messages = [Message(ONE, orjson.dumps(sample_event(topic))) for topic in topics]
    assert assert_both_read(messages) == [type_of(topic) for topic in topics]


@pytest.mark.slow
async def test_feed_stream_snapshot_consumer_webhook_and_nats_are_read_by_both(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    cloud = await open_hooks()
    admin = cloud.admin
    await admin.hook(receiver.url)
    await admin.create_active(name="a", os_distro="debian")
    await becomes(lambda: len(receiver.got) == 3)
    assert (await admin("POST", "/log/v1/webhooks/ci/test")).json["delivered"]
    await admin("PUT", "/log/v1/consumers/c", json={})
    fetched = (await admin("POST", "/log/v1/consumers/c/fetch", json={})).json["deliveries"]
    feed = await admin("GET", "/log/v1/events")
    snapshot = await _snapshot(cloud)
    recorder = cloud.context.log.recorder
    telling = JetStreamEncoder(recorder, await cloud.api.feed.positions(), "calotype")
    to_nats = [
        message.body
        for event in recorder.select_notifications(1, 10)
        for message in telling.messages(event)
    ]
    messages = [
        Message(feed.headers["Content-Type"], feed.body),
        Message(snapshot.headers["Content-Type"], snapshot.body),
        *(Message(ONE, line) for line in await _stream(cloud, 3)),
        *(Message(ONE, orjson.dumps(one["event"])) for one in fetched),
        *(Message(got.headers["content-type"], got.body) for got in receiver.got),
        *(Message(ONE, body) for body in to_nats),
    ]
    types = assert_both_read(messages)
    assert SNAPSHOT in types
    assert type_of("webhook.test") in types
    assert types.count(type_of("image.data_stored")) == 4
    assert len(to_nats) == 3


async def _snapshot(cloud: Any) -> Any:
    await versions_follower(cloud.context).catch_up()
    return await cloud.admin("GET", "/log/v1/events?snapshot=true")


async def _stream(cloud: Any, count: int) -> list[bytes]:
    """The first events of the feed as Server-Sent Events."""
    lines: list[bytes] = []
    headers = {"Accept": "text/event-stream"}
    async with cloud.client.get("/log/v1/events", headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                lines.append(line.removeprefix(b"data: ").strip())
            if len(lines) == count:
                return lines
    raise AssertionError("the stream ended")
