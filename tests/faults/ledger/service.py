"""One `calotype serve` with its processes."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import orjson

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class Service:
    """Serves on `port` with so many workers, and says what it has to say into `log`."""

    def __init__(self, port: int, workers: int, options: list[str], log: Path) -> None:
        self.port = port
        self._workers = workers
        self._options = options
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: set[int] = set()

    @property
    def pid(self) -> int:
        """The process that was started: the parent of the workers, or the only one."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """The processes that serve."""
        return children(self.pid) if self._workers > 1 else [self.pid]

    async def start(self, environment: dict[str, str]) -> None:
        """Starts it and waits until all of its workers serve."""
        listen = ["--listen", f"127.0.0.1:{self.port}", "--workers", str(self._workers)]
        command = ["-m", "calotype.ops", "serve", *listen, *self._options]
        self._ready.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env=environment, start_new_session=True, limit=1 << 20,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))
        await self.ready()

    async def ready(self) -> None:
        """Waits until as many workers serve as should."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                serving = self._ready.intersection(self.workers())
                if len(serving) == self._workers:
                    return
                assert self._process is not None
                if self._process.returncode is not None:
                    raise RuntimeError(f"the service ended at its start: see {self._log}")
                await asyncio.sleep(0.05)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        with self._log.open("ab") as log:
            async for line in process.stderr:
                log.write(line)
                log.flush()
                if b'"event": "ready"' in line:
                    self._ready.add(orjson.loads(line)["pid"])

    async def kill_all(self) -> None:
        """kill -9 of all its processes."""
        assert self._process is not None
        everybody = [self.pid, *self.workers()]
        send(signal.SIGKILL, everybody)
        await self._process.wait()
        await _gone(everybody)

    async def kill_parent(self) -> None:
        """kill -9 of the parent; its workers notice and finish what they have."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def kill_worker(self, pid: int) -> None:
        """kill -9 of one worker, which the parent replaces."""
        send(signal.SIGKILL, [pid])
        await _gone([pid])

    def kill_now(self) -> None:
        """The same for what is left at the end, without waiting."""
        if self._process is not None and self._process.returncode is None:
            send(signal.SIGKILL, [self.pid, *self.workers()])

    async def stop(self) -> None:
        """Stops it as an operator would, or by force if that takes too long."""
        if self._process is None or self._process.returncode is not None:
            return
        everybody = [self.pid, *self.workers()]
        send(signal.SIGCONT, everybody)
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            send(signal.SIGKILL, everybody)
            await _gone(everybody)


async def _gone(pids: Iterable[int]) -> None:
    async with asyncio.timeout(STOP_SECONDS):
        while any(runs(pid) for pid in pids):  # noqa: ASYNC110 - nobody tells about other's children
            await asyncio.sleep(0.02)


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Sends a signal to processes, of which some may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def peers(pid: int) -> set[int]:
    """The ports of the clients whose connections this process holds."""
    held = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            held.add(os.readlink(entry.path))
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if f"socket:[{columns[9]}]" in held:
            found.add(int(columns[2].rpartition(":")[2], 16))
    return found
