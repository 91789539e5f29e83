"""Leading: of several processes that could do a thing, the holder of a lease does it."""

import asyncio
import time
from contextlib import suppress

from calotype.stores.log.log import Fence
from calotype.stores.log.recorder import GroupCommitRecorder

LEASE_SECONDS = 6.0
RENEW_SECONDS = 2.0


class Leadership:
    """One process's part in the lease `name`.

    The epoch grows with each change of leader. A leader that stalls may lose the lease without
    knowing: what must not happen then is written with `fence`, and fails.
    """

    def __init__(self, recorder: GroupCommitRecorder, name: str, holder: str) -> None:
        self._recorder = recorder
        self._name = name
        self._holder = holder
        self._renew_at = 0.0
        self._sure_until = 0.0
        self.epoch: int | None = None
        """The epoch in which this process leads, as far as it knows; None: it does not."""

    async def held(self) -> bool:
        """Takes the lease or renews it when that is due; whether this process leads."""
        if self.epoch is None or time.monotonic() >= self._renew_at:
            asked_at = time.monotonic()
            self._renew_at = asked_at + RENEW_SECONDS
            self.epoch = await self._recorder.hold_lease(self._name, self._holder, LEASE_SECONDS)
            self._sure_until = asked_at + LEASE_SECONDS
        return self.epoch is not None

    @property
    def sure(self) -> bool:
        """Whether nobody else can lead by now: for what is done outside of the database."""
        return self.epoch is not None and time.monotonic() < self._sure_until

    @property
    def fence(self) -> Fence:
        """What an append of this leader carries."""
        assert self.epoch is not None
        return Fence(self._name, self.epoch)

    async def give_back(self) -> None:
        """Lets the next process lead at once."""
        if self.epoch is not None:
            self.epoch = None
            with suppress(Exception):  # A lease that is not given back runs out by itself.
                await asyncio.shield(self._recorder.release_lease(self._name, self._holder))
