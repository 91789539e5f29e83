"""Delivering: one process of all has a line to every endpoint; when it dies another takes over."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from calotype.projections.engine.leadership import Leadership
from calotype.projections.webhooks.attempt import Outbound, Sender
from calotype.projections.webhooks.endpoint_worker import EndpointWorker
from calotype.projections.webhooks.endpoints import Endpoint, Endpoints
from calotype.stores.log.recorder import GroupCommitRecorder

CHANGES_SECONDS = 1.0
"""So often it is looked whether callers have changed endpoints, and claims are prolonged."""
LEASE = "webhooks"

log = structlog.get_logger("calotype.webhooks")

Lay = Callable[[Endpoint, Sender], EndpointWorker]
"""Makes the line to an endpoint."""


class Deliverer:
    """Keeps a line to each endpoint that is not disabled, in the process that leads.

    Without endpoints it costs a look a second and writes nothing.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        endpoints: Endpoints,
        outbound: Outbound,
        lay: Lay,
        *,
        holder: str,
    ) -> None:
        self._recorder = recorder
        self._endpoints = endpoints
        self._outbound = outbound
        self._lay = lay
        self._leadership = Leadership(recorder, LEASE, holder)
        self._lines: dict[tuple[str, str], tuple[EndpointWorker, asyncio.Task[None]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Delivers until cancelled; then ends what is under way within some seconds."""
        async with self._outbound.sender() as sender:
            try:
                while True:
                    try:
                        await self._look(sender)
                    except Exception as error:
                        # The lines that there are go on, as far as they can.
                        log.warning("webhooks not looked after", error=repr(error))
                    look_seconds = self._recorder.lease_terms.look_seconds
                    await asyncio.sleep(min(CHANGES_SECONDS, look_seconds))
            finally:
                self._dismiss(list(self._lines))
                await asyncio.gather(*self._leaving, return_exceptions=True)
                await self._leadership.give_back()

    async def _look(self, sender: Sender) -> None:
        wanted = await self._wanted()
        changed = [
            key
            for key, (line, _) in self._lines.items()
            if key not in wanted or wanted[key].revision != line.endpoint.revision
        ]
        self._dismiss(changed)
        for key, endpoint in wanted.items():
            if key not in self._lines:
                line = self._lay(endpoint, sender)
                self._lines[key] = line, asyncio.create_task(line.run())
        lines = [line for line, _ in self._lines.values()]
        await asyncio.gather(*(line.prolong() for line in lines), return_exceptions=True)

    async def _wanted(self) -> dict[tuple[str, str], Endpoint]:
        """The endpoints that this process has to deliver to."""
        found = {one.key: one for one in await self._endpoints.all() if not one.disabled}
        if not found:
            await self._leadership.give_back()
            return {}
        before = self._leadership.epoch
        if not await self._leadership.held():
            return {}
        if self._leadership.epoch != before:
            log.info("delivers webhooks", epoch=self._leadership.epoch)
        return found

    def _dismiss(self, keys: Iterable[tuple[str, str]]) -> None:
        """Ends lines without waiting for them."""
        for key in keys:
            _, task = self._lines.pop(key)
            task.cancel()
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
