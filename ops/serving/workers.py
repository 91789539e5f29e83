"""Several processes on one port, and the parent that replaces those that die or freeze."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import structlog

from calotype.ops.serving.listening import listening_socket
from calotype.ops.settings.settings import Settings

RESTART_SECONDS = 1.0
SIGN_SECONDS = 1.0
"""How often a worker says that its event loop turns."""
_LOOK_SECONDS = RESTART_SECONDS / 5
_SIGNS = "CALOTYPE_SIGNS_OF_LIFE"

log = structlog.get_logger("calotype.serving")


def is_worker() -> bool:
    """Whether this process was started by `serve_many`."""
    return os.environ.get("CALOTYPE_WORKER") == "1"


async def watch_parent(stopping: asyncio.Event) -> None:
    """Stops this worker when its parent is gone: the pipe on standard input then ends."""
    # Not in a thread: this process could not end while it reads.
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    stopping.set()


async def give_signs_of_life() -> None:
    """Tells the parent again and again that this worker's event loop turns."""
    pipe = int(os.environ[_SIGNS])
    os.set_blocking(pipe, False)
    while True:
        with suppress(BlockingIOError, BrokenPipeError):  # A parent that is slow or gone.
            os.write(pipe, b".")
        await asyncio.sleep(SIGN_SECONDS)


class Worker:
    """A serving process, as its parent sees it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._signs, theirs = os.pipe()
        os.set_blocking(self._signs, False)
        self.process = subprocess.Popen(
            command,
            env={**environment, _SIGNS: str(theirs)},
            stdin=subprocess.PIPE,
            pass_fds=[theirs],
        )
        os.close(theirs)
        self.silent_since: float | None = None
        """When the last sign of life was seen; None: it has not begun to serve."""

    def look(self) -> bool:
        """Whether it runs; takes note of its signs of life."""
        if self.process.poll() is not None:
            return False
        with suppress(BlockingIOError):
            if os.read(self._signs, 1 << 16):
                self.silent_since = time.monotonic()
        return True

    def close(self) -> None:
        """Lets go of a process that has ended."""
        os.close(self._signs)
        if self.process.stdin is not None:
            self.process.stdin.close()


def serve_many(settings: Settings) -> int:
    """Keeps as many workers as are set until SIGTERM or SIGINT; the exit code."""
    # Bound without listening, so that port 0 means the same port for all workers.
    reserved = listening_socket(settings, shared=True)
    host = settings.http.listen.rpartition(":")[0]
    listen = f"{host}:{reserved.getsockname()[1]}"
    environment = {
        **os.environ,
        "CALOTYPE_WORKER": "1",
        "CALOTYPE_SETTINGS": settings.model_copy(
            update={"workers": 1, "http": settings.http.model_copy(update={"listen": listen})}
        ).model_dump_json(),
    }
    command = [sys.executable, "-m", "calotype.ops", "worker"]
    workers: list[Worker] = []
    stop = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    looked = time.monotonic()
    while not stop:
        late, looked = time.monotonic() - looked, time.monotonic()
        workers = [worker for worker in workers if _runs(worker, late, settings)]
        while len(workers) < settings.workers:
            workers.append(Worker(command, environment))
        time.sleep(_LOOK_SECONDS)
    _stop_all(workers, settings.http.drain_seconds + settings.http.grace_seconds + 5)
    reserved.close()
    return 0


def _runs(worker: Worker, late: float, settings: Settings) -> bool:
    """Whether the worker is to be kept; one that is frozen is killed."""
    if not worker.look():
        worker.close()
        return False
    limit = settings.worker_stall_seconds
    if not limit or worker.silent_since is None:
        return True
    if late > _LOOK_SECONDS + SIGN_SECONDS:
        # The parent itself stood still, and its workers perhaps as long.
        worker.silent_since += late
    silent = time.monotonic() - worker.silent_since
    if silent > limit:
        log.error("worker frozen", pid=worker.process.pid, silent_seconds=round(silent, 1))
        worker.process.kill()  # A process that is stopped would not see a SIGTERM.
        worker.process.wait()
        worker.close()
        return False
    return True


def _stop_all(workers: list[Worker], seconds: float) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + seconds
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
