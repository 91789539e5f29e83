"""The kinds of fault. Each strikes, lasts, is lifted, and returns what it did in words."""

import asyncio
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.backends.processes import send, tree_of
from tests.faults.ledger.load import Load
from tests.faults.ledger.service import kill, peers
from tests.faults.ledger.stand import Stand, faketime_library
from tests.faults.ledger.vanishing import vanish

HOUR_SECONDS = 3600
CLOCK_SEEN_SECONDS = 1.5
"""When a process has noticed that its false clock was set."""

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(slots=True)
class Scene:
    """Where a fault strikes."""

    stand: Stand
    load: Load
    rng: random.Random
    lifted_at: float = field(default=0.0)
    """When the cause was gone; from here on the service owes an answer."""

    def lift(self) -> None:
        self.lifted_at = asyncio.get_running_loop().time()

    def longer_than_a_lease(self) -> float:
        return self.rng.uniform(1.2, 2.2) * self.stand.lease_seconds

    async def wait(self, low: float, high: float) -> float:
        """Lets so many leases go by, drawn between the two."""
        seconds = self.rng.uniform(low, high) * self.stand.lease_seconds
        await asyncio.sleep(seconds)
        return seconds


Fault = Callable[[Scene], Awaitable[str]]


async def kill_one(scene: Scene) -> str:
    """kill -9 of one process under load; whoever looks after it starts it again."""
    stand = scene.stand
    service = scene.rng.choice(stand.services)
    workers = service.workers()
    if workers == [service.pid]:
        await asyncio.to_thread(service.kill)
        seconds = await scene.wait(0, 1.5)
        scene.lift()
        await stand.start(service)
        return f"one of two services, started again after {seconds:.1f} s"
    if scene.rng.random() < 0.25:
        service.kill_parent()
        scene.lift()
        await stand.start(service)
        return "the parent of two workers"
    await kill([scene.rng.choice(workers)])
    scene.lift()
    await asyncio.to_thread(service.wait_until_ready)
    return "one of two workers"


async def kill_all(scene: Scene) -> str:
    """kill -9 of all processes at once, and a start of all."""
    await scene.stand.kill_services()
    seconds = await scene.wait(0, 1.5)
    scene.lift()
    await scene.stand.start_services()
    return f"all, started again after {seconds:.1f} s"


async def freeze_one(scene: Scene) -> str:
    """One process stands still for longer than its lease while the other goes on."""
    workers = [pid for service in scene.stand.services for pid in service.workers()]
    pid = scene.rng.choice(workers)
    return await _freeze(scene, [pid])


async def freeze_all(scene: Scene) -> str:
    """All stand still for longer than their leases, as in a virtual machine that is suspended."""
    services = scene.stand.services
    everybody = {pid for service in services for pid in tree_of(service.pid)}
    return await _freeze(scene, sorted(everybody))


async def _freeze(scene: Scene, pids: list[int]) -> str:
    send(signal.SIGSTOP, pids)
    try:
        if len(pids) == 1:
            scene.load.frozen_ports |= peers(pids[0])
        await asyncio.sleep(seconds := scene.longer_than_a_lease())
    finally:
        send(signal.SIGCONT, pids)
    scene.lift()
    return f"{len(pids)} processes for {seconds:.1f} s"


async def database_away(scene: Scene) -> str:
    """PostgreSQL is killed or stopped; another process holds SQLite's write lock."""
    database = scene.stand.database
    if database is None:
        return await _lock_held(scene)
    killed = scene.rng.random() < 0.7
    await asyncio.to_thread(database.kill if killed else database.stop)
    try:
        seconds = await scene.wait(0.3, 2.5)
    finally:
        scene.lift()
        await asyncio.to_thread(database.start)
    return f"PostgreSQL {'killed' if killed else 'stopped'} for {seconds:.1f} s"


async def _lock_held(scene: Scene) -> str:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", LOCK, str(scene.stand.data / "log.sqlite"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        seconds = await scene.wait(0.3, 2.5)
    finally:
        holder.kill()
        await holder.wait()
    scene.lift()
    return f"write lock held for {seconds:.1f} s"


async def database_frozen(scene: Scene) -> str:
    """PostgreSQL hangs with all its processes; the disk under SQLite hangs."""
    database = scene.stand.database
    if database is None:
        await scene.stand.disk.freeze()
        try:
            seconds = await scene.wait(1.2, 2.2)
        finally:
            await scene.stand.disk.thaw()
        scene.lift()
        return f"disk of log and store for {seconds:.1f} s"
    database.freeze()
    try:
        seconds = await scene.wait(1.2, 2.2)
    finally:
        database.thaw()
    scene.lift()
    return f"PostgreSQL for {seconds:.1f} s"


async def clock(scene: Scene) -> str:
    """The wall clock that leases go by jumps by hours, ahead or back."""
    stand = scene.stand
    hours = scene.rng.choice((-5, -1, 1, 3))
    stand.set_clock(hours * HOUR_SECONDS)
    await asyncio.sleep(CLOCK_SEEN_SECONDS)
    if hours < 0 or scene.rng.random() < 0.5:
        scene.lift()
        return f"{hours:+d} h while serving"
    await scene.wait(0.3, 1.5)
    await stand.kill_services()
    stand.set_clock(0)
    await asyncio.sleep(CLOCK_SEEN_SECONDS)
    scene.lift()
    await stand.start_services()
    return f"{hours:+d} h, and a kill of all before it was right again"


async def full_disk(scene: Scene) -> str:
    """The disk of log and store is full to the last byte, then has room again."""
    stand = scene.stand
    await asyncio.to_thread(stand.disk.fill)
    try:
        seconds = await scene.wait(0.7, 2.0)
    finally:
        await asyncio.to_thread(stand.disk.free)
    scene.lift()
    if stand.database and not stand.database.is_running:
        # PostgreSQL ends itself when it cannot write its own log; its operator starts it again.
        await asyncio.to_thread(stand.database.restart)
    return f"for {seconds:.1f} s"


async def client_gone(scene: Scene) -> str:
    """Clients vanish in the middle of uploads and downloads."""
    clients = [asyncio.create_task(vanish(scene.load, scene.rng)) for _ in range(12)]
    for task in asyncio.as_completed(clients):
        with suppress(OSError):
            await task
    scene.lift()
    return f"{len(clients)} clients"


KINDS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_one,
        kill_all,
        freeze_one,
        freeze_all,
        database_away,
        database_frozen,
        clock,
        full_disk,
        client_gone,
    )
}


def kinds_on(log: str, *, own_disk: bool) -> list[str]:
    """The kinds that can strike here: a full or frozen disk takes root, a false clock a library."""
    absent = set() if faketime_library() else {"clock"}
    if not own_disk:
        absent |= {"full_disk", "database_frozen"} if log == "sqlite" else {"full_disk"}
    return [kind for kind in KINDS if kind not in absent]
