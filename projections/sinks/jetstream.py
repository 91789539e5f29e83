"""NATS JetStream as a broker: CloudEvents, each under its position, which removes duplicates."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import nats
import orjson
from eventsourcing.persistence import Notification
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError
from yarl import URL

from calotype.commands.images.download import DataSent
from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS
from calotype.projections.engine.positions import Positions
from calotype.projections.feed.audience import FULL
from calotype.projections.feed.cloudevents import encoded_event
from calotype.projections.past.latest import LatestImages
from calotype.projections.sinks.contract import Message, Refused, TryLater
from calotype.stores.log.recorder import GroupCommitRecorder

CONNECT_SECONDS = 5.0
CONFIRM_SECONDS = 5.0
CLOSE_SECONDS = 2.0
NOBODY = "_"
"""The project in the subject of what belongs to none."""
_TOO_LARGE = 10054
"""JetStream's code for a message that is larger than the stream takes."""
_TROUBLE = (NatsError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream that takes the subjects. One that is there stays as it is."""

    name: str = "CALOTYPE"
    prefix: str = "calotype"
    """What every subject begins with."""
    replicas: int = 1
    duplicate_window_seconds: float = 3600.0
    """For how long the stream remembers the ids of messages."""


class JetStreamEncoder:
    """Tells every event as the CloudEvent that operators see, under `PREFIX.TYPE.PROJECT`.

    The project is the image's owner right after the event.
    """

    def __init__(self, recorder: GroupCommitRecorder, positions: Positions, prefix: str) -> None:
        self._images = LatestImages(recorder, snapshots=IMAGE_SNAPSHOTS)
        self._positions = positions
        self._prefix = prefix

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._images.forget()

    def messages(self, event: Notification) -> list[Message]:
        """The one message of the event."""
        owner, ordering_key = self._owner_and_lane(event)
        row = (event.id, event.originator_id, event.originator_version, event.topic, event.state)
        return [
            Message(
                id=self._positions.encode(event.id),
                ordering_key=ordering_key,
                route=f"{self._prefix}.{event.topic}.{subject_token(owner)}",
                kind=event.topic,
                body=encoded_event(self._positions, (*row, FULL)),
            )
        ]

    def _owner_and_lane(self, event: Notification) -> tuple[str | None, str]:
        if event.topic in EVENT_TYPES:
            _, image = self._images.after(event)
            return image.owner, image.image_id
        if event.topic == DataSent.TOPIC:
            state = orjson.loads(bytes(event.state))
            return state["owner"], state["image_id"]
        return None, str(event.originator_id)


class JetStream:
    """Publishes to a stream, which it makes where there is none that takes the subjects."""

    def __init__(
        self,
        urls: Sequence[str],
        stream: Stream | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        credentials_file: str = "",
    ) -> None:
        self._urls = list(urls)
        self._stream = stream or Stream()
        self._options: dict[str, Any] = {}
        if tls is not None:
            self._options["tls"] = tls
        if credentials_file:
            self._options["user_credentials"] = credentials_file
        self._client: Client | None = None
        self._context: JetStreamContext | None = None

    async def open(self) -> None:
        """Connects to one of the servers, and sees to it that there is a stream."""
        if self._client is None or not self._client.is_connected:
            await self.close()
            await self._connect()
        if self._context is None:
            assert self._client is not None
            context = self._client.jetstream(timeout=CONFIRM_SECONDS)
            try:
                await self._make_stream(context)
            except _TROUBLE as error:
                raise TryLater(f"stream {self._stream.name}: {_words(error)}") from None
            self._context = context

    async def publish(self, message: Message) -> None:
        """Returns when the stream holds the message. Raises TryLater, or Refused for good."""
        if self._context is None:
            raise TryLater("the connection is lost")
        headers = {**message.headers, "Nats-Msg-Id": message.id}
        headers["Content-Type"] = "application/cloudevents+json"
        try:
            await self._context.publish(
                message.route, message.body, timeout=CONFIRM_SECONDS, headers=headers
            )
        except MaxPayloadError:
            raise Refused(f"{len(message.body)} bytes are more than the server takes") from None
        except NoStreamResponseError:
            self._context = None  # The stream is gone: `open` makes it again.
            raise TryLater(f"no stream takes {message.route}") from None
        except _TROUBLE as error:
            if isinstance(error, APIError) and error.err_code == _TOO_LARGE:
                raise Refused(_words(error)) from None
            raise TryLater(_words(error)) from None

    async def close(self) -> None:
        """Ends the connection; what is on its way fails."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            with suppress(*_TROUBLE):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.close()

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS * len(self._urls)):
                self._client = await nats.connect(
                    self._urls,
                    name="calotype",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_SECONDS,
                    error_cb=_say_nothing,
                    **self._options,
                )
        except _TROUBLE as error:
            places = ", ".join(f"{url.host}:{url.port}" for url in map(URL, self._urls))
            raise TryLater(f"cannot connect to {places}: {_words(error)}") from None

    async def _make_stream(self, context: JetStreamContext) -> None:
        try:
            await context.stream_info(self._stream.name)
        except NotFoundError:
            wanted = StreamConfig(
                name=self._stream.name,
                subjects=[f"{self._stream.prefix}.>"],
                storage=StorageType.FILE,
                num_replicas=self._stream.replicas,
                duplicate_window=self._stream.duplicate_window_seconds,
            )
            await context.add_stream(wanted)


def subject_token(project: str | None) -> str:
    """A project as one part of a subject: what is not plain is percent-encoded."""
    if not project:
        return NOBODY
    if project == NOBODY:
        return "%5F"
    return quote(project, safe="").replace(".", "%2E")


async def _say_nothing(error: Exception) -> None:
    """The library would log it beside us."""


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, APIError) and error.description:
        return error.description
    return str(error) or type(error).__name__
