"""RabbitMQ as a broker: publisher confirms, and a queue that is declared whenever it is missing."""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import (
    AMQPError,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    InvalidFrameError,
    PublishError,
)
from yarl import URL

from calotype.projections.sinks.contract import Message, Refused, TryLater

CONNECT_SECONDS = 10.0
CONFIRM_SECONDS = 30.0
CLOSE_SECONDS = 2.0
HEARTBEAT_SECONDS = 10
QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}

# Its words would come beside ours, which say the same with the name of the sink.
for name in ("aiormq", "aio_pika"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

_TROUBLE = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Topology:
    """What must be there, with the very properties that consumers declare."""

    exchange: str = "glance"
    durable: bool = False
    quorum: bool = False
    """Queues are quorum queues, which are durable; and so is the exchange then."""


class RabbitMQ:
    """A topic exchange, with a queue named and bound as each routing key that is used."""

    def __init__(
        self,
        urls: Sequence[str],
        topology: Topology | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._urls = [URL(url).update_query(heartbeat=HEARTBEAT_SECONDS) for url in urls]
        self._topology = topology or Topology()
        self._tls = tls
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._declared: set[str] = set()
        self._preparing = asyncio.Lock()

    async def open(self) -> None:
        """Connects to the first of the URLs that takes us. Raises TryLater."""
        if not self._connected:
            await self.close()
            await self._connect()
        await self._ready_for(None)

    async def publish(self, message: Message) -> None:
        """Returns when RabbitMQ has confirmed. Raises TryLater, or Refused for good."""
        exchange = await self._ready_for(message.route)
        try:
            try:
                await self._send(exchange, message)
            except PublishError:
                # It came back because no queue is bound: somebody has deleted it.
                self._declared.discard(message.route)
                await self._send(await self._ready_for(message.route), message)
        except ChannelPreconditionFailed:
            # The broker closed the channel because of one of all that were on their way.
            await self._send_alone(message)
        except _TROUBLE as error:
            raise await self._later(error) from None

    async def close(self) -> None:
        """Ends the connection; what is on its way fails."""
        connection, self._connection = self._connection, None
        self._channel = self._exchange = None
        if connection is not None:
            with suppress(*_TROUBLE):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()

    @property
    def _connected(self) -> bool:
        return self._connection is not None and self._connection.connected.is_set()

    @property
    def _durable(self) -> bool:
        return self._topology.durable or self._topology.quorum

    async def _connect(self) -> None:
        troubles = []
        for url in self._urls:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    self._connection = await aio_pika.connect(url, ssl_context=self._tls)
                return
            except _TROUBLE as error:
                troubles.append(f"{url.host}:{url.port}: {_words(error)}")
        raise TryLater("cannot connect to " + "; ".join(troubles))

    async def _new_channel(self) -> AbstractChannel:
        if self._connection is None or not self._connected:
            raise ConnectionError("the connection is lost")
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize(timeout=CONFIRM_SECONDS)
        return channel

    async def _later(self, error: BaseException) -> TryLater:
        if isinstance(error, TimeoutError):
            await self.close()  # Who does not answer may be gone.
        return TryLater(_words(error))

    async def _ready_for(self, queue: str | None) -> AbstractExchange:
        """The exchange, which is there, on a channel that is open; and the queue is bound to it.

        Raises TryLater, also where one of them is there with other properties: that is no fault
        of a message.
        """
        try:
            async with self._preparing:
                return await self._prepared(queue)
        except _TROUBLE as error:
            raise await self._later(error) from None

    async def _prepared(self, queue: str | None) -> AbstractExchange:
        channel, exchange = self._channel, self._exchange
        if channel is None or exchange is None or channel.is_closed or not self._connected:
            self._declared.clear()
            channel = self._channel = await self._new_channel()
            exchange = self._exchange = await channel.declare_exchange(
                self._topology.exchange,
                aio_pika.ExchangeType.TOPIC,
                durable=self._durable,
                timeout=CONFIRM_SECONDS,
            )
        if queue is not None and queue not in self._declared:
            await self._declare_queue(channel, queue)
        return exchange

    async def _declare_queue(self, channel: AbstractChannel, name: str) -> None:
        arguments = QUORUM if self._topology.quorum else None
        queue = await channel.declare_queue(
            name, durable=self._durable, arguments=arguments, timeout=CONFIRM_SECONDS
        )
        await queue.bind(self._topology.exchange, name, timeout=CONFIRM_SECONDS)
        self._declared.add(name)

    async def _send(self, exchange: AbstractExchange, message: Message) -> None:
        await exchange.publish(self._parcel(message), message.route, timeout=CONFIRM_SECONDS)

    async def _send_alone(self, message: Message) -> None:
        """Sends on a channel of its own: if that is closed as well, it is this message."""
        await self._ready_for(message.route)
        try:
            channel = await self._new_channel()
            try:
                exchange = await channel.get_exchange(self._topology.exchange, ensure=False)
                await self._send(exchange, message)
            finally:
                with suppress(*_TROUBLE):
                    await channel.close()
        except ChannelPreconditionFailed as error:
            raise Refused(_words(error)) from None
        except _TROUBLE as error:
            raise await self._later(error) from None

    def _parcel(self, message: Message) -> aio_pika.Message:
        return aio_pika.Message(
            message.body,
            headers=dict(message.headers),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT if self._durable else None,
            priority=0,
            message_id=message.id,
        )


def _words(error: BaseException) -> str:
    """What went wrong. The library's errors hold what the broker said, and no URL."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, InvalidFrameError):
        return "the broker does not let us into the virtual host of the URL"
    said = [part for part in error.args if isinstance(part, str)]
    return "; ".join(said) or type(error).__name__
