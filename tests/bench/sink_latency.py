"""How long a change takes to its subscribers: from the answer of the API to the message in hand.

Run as a module, `python -m tests.bench.sink_latency [CHANGES]`, it starts a server on each
log with a sink for a real RabbitMQ and one for a real NATS, creates images one after the other, and
prints the median and the 99th percentile for both consumers.
"""

import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles

import aio_pika
import aiohttp
import nats
from nats.aio.msg import Msg
from rich.console import Console
from rich.table import Table

from tests.backends.nats import Nats
from tests.backends.postgres import Postgres
from tests.backends.rabbitmq import RabbitMQ
from tests.backends.service import Service
from tests.bench.processes import settle

CHANGES = 500
PAUSE_SECONDS = 0.01
QUEUE = "notifications.info"
ARRIVAL_SECONDS = 10.0

Arrivals = dict[str, float]
"""When the message about the creation of an image was in hand, by the image's id."""


@asynccontextmanager
async def _listening(amqp_url: str, nats_url: str) -> AsyncIterator[dict[str, Arrivals]]:
    """Consumers of both brokers, and what arrives at them."""
    arrivals: dict[str, Arrivals] = {"rabbitmq": {}, "nats": {}}
    async with AsyncExitStack() as stack:
        rabbit = await stack.enter_async_context(await aio_pika.connect(amqp_url))
        channel = await rabbit.channel()
        queue = await channel.declare_queue(QUEUE)

        async def from_rabbit(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            now = time.perf_counter()
            inner = json.loads(json.loads(message.body)["oslo.message"])
            arrivals["rabbitmq"].setdefault(inner["payload"]["id"], now)

        await queue.consume(from_rabbit, no_ack=True)
        client = await nats.connect(nats_url)
        stack.push_async_callback(client.close)

        async def from_nats(message: Msg) -> None:
            now = time.perf_counter()
            arrivals["nats"].setdefault(json.loads(message.data)["subject"], now)

        await client.subscribe("calotype.>", cb=from_nats)
        yield arrivals


async def _measure(
    server: Service, amqp_url: str, nats_url: str, changes: int
) -> dict[str, list[float]]:
    """Seconds from the answer to the arrival, for each consumer."""
    answered: dict[str, float] = {}
    url = f"http://127.0.0.1:{server.port}/v2/images"
    async with _listening(amqp_url, nats_url) as arrivals, aiohttp.ClientSession() as session:
        for _ in range(changes):
            async with session.post(url, json={"name": "n"}) as answer:
                image_id = (await answer.json())["id"]
                answered[image_id] = time.perf_counter()
            await asyncio.sleep(PAUSE_SECONDS)
        async with asyncio.timeout(ARRIVAL_SECONDS):
            while any(len(some) < changes for some in arrivals.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    # A message may be in hand before the answer is read: that is no time at all.
    return {
        name: [max(some[image] - then, 0.0) for image, then in answered.items()]
        for name, some in arrivals.items()
    }


def main(changes: int = CHANGES) -> None:
    """Measures on both logs and prints a table."""
    logging.basicConfig(level=logging.ERROR)
    table = Table("log", "consumer", "changes", "median ms", "p99 ms", "most ms")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="calotype-bench-")))
        database = stack.enter_context(Postgres(folder / "postgresql", durable=True))
        for log in ("sqlite", "postgresql"):
            broker = RabbitMQ(folder / "rabbitmq")
            server = Nats(folder / f"nats_{log}")
            settings = {
                "CALOTYPE_SINKS__A__KIND": "rabbitmq",
                "CALOTYPE_SINKS__A__URLS": json.dumps([broker.url]),
                "CALOTYPE_SINKS__B__KIND": "nats",
                "CALOTYPE_SINKS__B__URLS": json.dumps([server.url]),
            }
            url = database.create_database("sinks") if log == "postgresql" else ""
            with broker, server, Service(folder / log, url, **settings) as service:
                settle(service.pid)
                measured = asyncio.run(_measure(service, broker.url, server.url, changes))
            for consumer, seconds in measured.items():
                cuts = quantiles(seconds, n=100)
                figures = [1000 * figure for figure in (cuts[49], cuts[98], max(seconds))]
                table.add_row(log, consumer, str(changes), *(f"{figure:.1f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
