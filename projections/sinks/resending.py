"""Sending events to a sink again, under the same ids; its checkpoint stays."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from calotype.projections.engine.appending import append_rows
from calotype.projections.sinks.contract import Broker, MessageEncoder, TryLater
from calotype.projections.sinks.pages import Page, Publication, page_after
from calotype.projections.sinks.parked import leaving
from calotype.stores.log.recorder import GroupCommitRecorder

PATIENCE_SECONDS = 5.0
"""How long a resending tries to reach a broker before it ends."""
PAUSE_SECONDS = 0.5


@dataclass(slots=True)
class Resent:
    """The outcome of a resending."""

    events: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """How many messages of each type."""
    refused: dict[int, str] = field(default_factory=dict)
    """Events that cannot be encoded or were rejected: position and reason."""
    last: int = 0
    """The position up to which all is done."""


class Resending:
    """Sends events to one sink again. Without a broker it only counts."""

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        encoder: MessageEncoder,
        broker: Broker | None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._recorder = recorder
        self._encoder = encoder
        self._broker = broker
        self._patience_seconds = patience_seconds
        self.done = Resent()

    async def range(
        self, first: int, last: int, progress: Callable[[int], None] = lambda events: None
    ) -> None:
        """Sends the events from `first` to `last`, both included.

        Raises TryLater when the broker stays away; `done` holds what is done by then.
        """
        self._encoder.forget()
        self.done.last = first - 1
        while self.done.last < last:
            page = await asyncio.to_thread(
                page_after, self._recorder, self._encoder, self.done.last, until=last
            )
            if page is None:
                return
            await self._publish(page)
            progress(len(page.topics))

    async def parked(self, sink: str, position: int) -> bool:
        """Sends one parked event again; it is parked no longer if the broker takes it now."""
        self._encoder.forget()
        page = await asyncio.to_thread(
            page_after, self._recorder, self._encoder, position - 1, limit=1
        )
        if page is None:
            return False
        await self._publish(page)
        if position in page.refused:
            return False
        await append_rows(self._recorder, [leaving(sink, position)])
        return True

    async def _publish(self, page: Page) -> None:
        if self._broker is not None:
            await self._persist(Publication(self._broker, page))
        self.done.events += len(page.topics)
        self.done.told.update(message.kind for _, message in page.messages)
        self.done.refused |= page.refused
        self.done.last = page.last

    async def _persist(self, publication: Publication) -> None:
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                await publication.publish()
                return
            except TryLater:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
