"""One installation with everything of its own: disk, database, data directory, clock, services."""

import asyncio
import random
import socket
import subprocess
from pathlib import Path
from typing import Literal

from calotype.projections.seal.signed_note import new_signer
from tests.backends.postgres import Postgres
from tests.backends.service import Service
from tests.faults.ledger.accounts import State
from tests.faults.ledger.disk import Disk

LogKind = Literal["sqlite", "postgresql"]
PORTS = range(15000, 32000)
"""Below those that the kernel gives to clients, so that a service gets its port back."""


class Stand:
    """Two workers under one parent on SQLite, or two services on one PostgreSQL."""

    def __init__(self, folder: Path, log: LogKind, lease_seconds: float) -> None:
        folder.mkdir(mode=0o755)
        self.folder = folder
        self.log = log
        self.lease_seconds = lease_seconds
        self.disk = Disk(folder)
        self.data = self.disk.path / "data"
        self.database: Postgres | None = None
        self.services: list[Service] = []
        self.position = 0
        """Up to where the judge has read the log."""
        self.images: dict[str, State] = {}
        """What the judge has seen of each image last."""
        self.files: set[str] = set()
        """The files that the judge has seen."""
        self.strays: set[str] = set()
        """Those of them that it has reported."""
        self._key = new_signer(f"faults/{folder.name}").secret()
        self._clock = folder / "clock"
        self._is_clock_false = False

    @property
    def ports(self) -> list[int]:
        return [service.port for service in self.services]

    @property
    def log_url(self) -> str:
        return self.database.url() if self.database else f"sqlite:///{self.data / 'log.sqlite'}"

    async def begin(self) -> None:
        """Makes all and starts it."""
        await asyncio.to_thread(self.disk.mount)
        self.set_clock(0)
        if self.log == "postgresql":
            self.database = Postgres(self.disk.path / "postgres")
            await asyncio.to_thread(self.database.start)
            await asyncio.to_thread(self._service(1, 0).run, "migrate")
        await self._start_services_anew()

    async def _start_services_anew(self) -> None:
        # The parent of several workers sleeps in the way that libfaketime cannot do.
        alone = self.log == "postgresql" or self._is_clock_false
        workers, count = (1, 2) if alone else (2, 1)
        self.services = [self._service(workers, number) for number in range(count)]
        await self.start_services()

    def _service(self, workers: int, number: int) -> Service:
        service = Service(self.data, self.log_url, **self._environment())
        service.migrates = False
        service.wanted_workers = workers
        service.listen = f"127.0.0.1:{_free_port()}"
        service.log = self.folder / f"service{number}.log"
        return service

    async def command(self, *verb: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of `calotype` on the same data."""
        return await asyncio.to_thread(self.services[0].run, *verb)

    def _environment(self) -> dict[str, str]:
        lease = str(self.lease_seconds)
        environment = {
            "CALOTYPE_AUDIT__SIGNING_KEY": self._key,
            "CALOTYPE_LEASES__PROCESS_SECONDS": lease,
            "CALOTYPE_LEASES__LEADER_SECONDS": lease,
        }
        # libfaketime 0.9 cannot do the sleep that Python's writer of PostgreSQL does, and there
        # leases go by the database's clock: so it is the database whose clock is false.
        is_false = self._is_clock_false and self.database is None
        return environment | (self._false_clock() if is_false else {})

    def _false_clock(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set_clock(self, ahead_seconds: int) -> None:
        """The wall clock of what was started with a false one; seen a second later."""
        self._clock.write_text(f"{ahead_seconds:+d}")
        self._clock.chmod(0o644)

    async def use_clock(self, *, false: bool) -> None:
        """Starts all again with a clock that can jump, or with the true one, unless it is so.

        It is the clock of the services on SQLite, and of the database on PostgreSQL.
        """
        if false == self._is_clock_false:
            return
        await self.stop_services()
        self._is_clock_false = false
        self.set_clock(0)
        if self.database:
            await asyncio.to_thread(self.database.stop)
            self.database.more_variables = self._false_clock() if false else {}
            await asyncio.to_thread(self.database.start)
            await asyncio.to_thread(self._service(1, 0).run, "migrate")
        await self._start_services_anew()

    async def start_services(self) -> None:
        """Starts all services and waits until they serve."""
        await asyncio.gather(*map(self.start, self.services))

    async def start(self, service: Service) -> None:
        """Starts one of them."""
        await asyncio.to_thread(service.start)

    async def kill_services(self) -> None:
        """kill -9 of all their processes at once."""
        kills = (asyncio.to_thread(service.kill) for service in self.services)
        await asyncio.gather(*kills)

    async def stop_services(self) -> None:
        """Stops them as an operator would."""
        running = [service for service in self.services if service.is_running]
        for service in running:
            service.thaw()
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in running))

    async def end(self) -> None:
        """Stops all and throws the disk away."""
        try:
            await self.disk.thaw()
            await self.stop_services()
        finally:
            for service in self.services:
                service.kill()
            if self.database:
                self.database.kill()
            self.disk.unmount()


def faketime_library() -> Path | None:
    """What makes a clock false: Debian's libfaketime, if it is there."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def _free_port() -> int:
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
