"""Delivering: the leader has a worker for every endpoint; when it dies, another process leads."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from calotype.projections.engine.leadership import Leadership
from calotype.projections.engine.rounds import Rounds
from calotype.projections.webhooks.attempt import Outbound, Sender
from calotype.projections.webhooks.endpoint_worker import EndpointWorker
from calotype.projections.webhooks.endpoints import Endpoint, Endpoints
from calotype.stores.log.recorder import GroupCommitRecorder

CHANGES_SECONDS = 1.0
"""The leader looks this often whether callers have changed endpoints, and prolongs claims."""
LEASE = "webhooks"

log = structlog.get_logger("calotype.webhooks")

MakeWorker = Callable[[Endpoint, Sender], EndpointWorker]
"""Makes the worker of an endpoint."""


class Deliverer:
    """Runs a worker for each endpoint that is not disabled, in the process that leads.

    Without endpoints it costs a look a second and writes nothing.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        endpoints: Endpoints,
        outbound: Outbound,
        make_worker: MakeWorker,
        *,
        holder: str,
    ) -> None:
        self._recorder = recorder
        self._endpoints = endpoints
        self._outbound = outbound
        self._make_worker = make_worker
        self._leadership = Leadership(recorder, LEASE, holder)
        self._workers: dict[tuple[str, str], tuple[EndpointWorker, asyncio.Task[None]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Delivers until cancelled; then ends running deliveries within some seconds."""
        async with self._outbound.sender() as sender:
            try:
                # Where a round fails, the workers that there are deliver as far as they can.
                every_seconds = min(CHANGES_SECONDS, self._recorder.lease_terms.look_seconds)
                look = partial(self._look, sender)
                await Rounds("webhooks", look, every_seconds=every_seconds).run()
            finally:
                self._dismiss(list(self._workers))
                await asyncio.gather(*self._leaving, return_exceptions=True)
                await self._leadership.give_back()

    async def _look(self, sender: Sender) -> None:
        wanted = await self._wanted()
        changed = [
            key
            for key, (worker, _) in self._workers.items()
            if key not in wanted or wanted[key].revision != worker.endpoint.revision
        ]
        self._dismiss(changed)
        for key, endpoint in wanted.items():
            if key not in self._workers:
                worker = self._make_worker(endpoint, sender)
                self._workers[key] = worker, asyncio.create_task(worker.run())
        prolonging = [worker.prolong() for worker, _ in self._workers.values()]
        await asyncio.gather(*prolonging, return_exceptions=True)

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
        """Ends workers without waiting for them."""
        for key in keys:
            _, task = self._workers.pop(key)
            task.cancel()
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
