"""One serving process: start, ready, drain, stop; and the parent that keeps several of them."""

import asyncio
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import structlog
import uvloop
from aiohttp import web

from calotype.commands.parts import Parts
from calotype.http.basic import BasicIdentity
from calotype.http.conversation import Api
from calotype.http.routes import application
from calotype.ops import sweeper, wiring
from calotype.ops.audit_key import make_key, signer_of
from calotype.ops.htpasswd import watch_logins
from calotype.ops.identity import identity_of
from calotype.ops.policy_files import load_policy, watch_policy
from calotype.ops.sealing import seal_for_ever
from calotype.ops.settings import Settings, SettingsError
from calotype.ops.sink_wiring import registered_deliveries
from calotype.ops.webhook_wiring import deliverer_of
from calotype.projections.notes import Signer
from calotype.stores.images import memory
from calotype.stores.images.driver import StoreError
from calotype.stores.log.recorder import GroupCommitRecorder

READ_BUFFER_BYTES = 1 << 15
"""How much of a request's body aiohttp holds before it stops reading from the client."""
RESTART_SECONDS = 1.0

log = structlog.get_logger("calotype.serving")


def prepare(settings: Settings) -> None:
    """Makes the data directory, and on the embedded log tables and signing key; checks all others.

    Raises SettingsError naming what is missing or wrong, and what mends it.
    """
    # Read here too, because workers that cannot start would be started again and again.
    load_policy(settings.policy, settings.property_protections)
    identity_of(settings)
    os.makedirs(settings.data, exist_ok=True)
    recorder = wiring.recorder_of(settings)
    try:
        if settings.log_url().startswith("sqlite"):
            wiring.migrate(recorder)
            if settings.audit.seal:
                make_key(settings)
        elif not wiring.is_up_to_date(recorder):
            raise SettingsError("log.url: the database is not up to date; run `calotype migrate`")
    finally:
        recorder.close_now()


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; the process's exit code."""
    memory.share_arenas()
    memory.keep_pieces()
    prepare(settings)
    if settings.workers > 1:
        return _serve_many(settings)
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    signer = signer_of(settings)
    recorder = wiring.recorder_of(settings)
    parts = wiring.parts_of(settings, recorder)
    api = wiring.api_of(settings, parts)
    try:
        for driver in parts.stores.values():
            await asyncio.to_thread(driver.check)
    except StoreError as error:
        raise SettingsError(f"store: {error}") from None
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await recorder.hold_lease(
        sweeper.lease_name(parts.process_id), parts.process_id, recorder.lease_terms.process_seconds
    )
    chores = [
        asyncio.create_task(chore)
        for chore in await _chores(settings, parts, api, signer, stopping)
    ]
    runner = web.AppRunner(
        application(api),
        access_log=_access_log() if settings.http.access_log else None,
        read_bufsize=READ_BUFFER_BYTES,
        shutdown_timeout=1.0,
        handle_signals=False,
        keepalive_timeout=75,
    )
    await runner.setup()
    site = web.SockSite(runner, _listening_socket(settings), backlog=1024)
    await site.start()
    gc.freeze()  # What is there now stays: the collector need not look at it again and again.
    _announce(settings, runner)
    await stopping.wait()
    api.draining = True
    api.feed.waking.end()
    log.info("draining")
    await asyncio.sleep(settings.http.drain_seconds)
    await site.stop()
    await _finish_requests(api, settings.http.grace_seconds)
    await runner.cleanup()
    if api.downloads is not None:
        await api.downloads.settle(settings.http.grace_seconds)
    for chore in chores:
        chore.cancel()
    await asyncio.gather(*chores, return_exceptions=True)
    await _give_back(recorder, parts.process_id)
    for driver in parts.stores.values():
        await asyncio.to_thread(driver.close)
    log.info("stopped")
    return 0


async def _chores(
    settings: Settings, parts: Parts, api: Api, signer: Signer | None, stopping: asyncio.Event
) -> list[Coroutine[Any, Any, None]]:
    """What goes on beside requests for as long as this process serves."""
    chores = [
        sweeper.keep_lease(parts),
        sweeper.sweep_for_ever(parts, api.queries),
        watch_policy(settings.policy, api.use_policy, settings.property_protections),
    ]
    if settings.followers.versions:
        chores.append(wiring.versions_follower(parts).run())
    if settings.followers.audience:
        chores.append(wiring.audience_follower(parts, api.feed.waking).run())
    if settings.audit.seal:
        chores.append(seal_for_ever(parts.log.recorder, signer, parts.process_id))
    if settings.webhooks.deliver:
        deliverer = deliverer_of(settings, parts, api.webhooks, lambda: api.policy)
        chores.append(deliverer.run())
    if isinstance(api.identify, BasicIdentity):
        chores.append(watch_logins(settings.http_basic, api.identify.use))
    chores += [
        delivery.run() for delivery in await registered_deliveries(settings, parts, api.feed)
    ]
    if _is_child():
        chores.append(_watch_parent(stopping))
    return chores


def _access_log() -> logging.Logger:
    """aiohttp asks the standard library's loggers whether they are on; ours are of another kind."""
    requests = logging.getLogger("calotype.access")
    requests.setLevel(logging.INFO)
    return requests


async def _finish_requests(api: Api, grace_seconds: float) -> None:
    """Waits for running requests. aiohttp's own shutdown would stop reading their bodies."""
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            while api.running:  # noqa: ASYNC110 - counting is cheaper than an event a request
                await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)  # Answers that were just made are still on their way out.


async def _give_back(recorder: GroupCommitRecorder, process_id: str) -> None:
    with suppress(Exception):  # A lease that is not given back runs out by itself.
        await recorder.release_lease(sweeper.lease_name(process_id), process_id)
        await recorder.release_lease("sweeper", process_id)
    await recorder.close()


def _listening_socket(settings: Settings) -> socket.socket:
    host, _, port = settings.http.listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if _is_child():
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        raise SettingsError(
            f"http.listen: cannot listen on {settings.http.listen}: {error}"
        ) from None
    return listener


def _cannot_listen(settings: Settings, error: OSError) -> SettingsError:
    return SettingsError(f"http.listen: cannot listen on {settings.http.listen}: {error.strerror}")


def _announce(settings: Settings, runner: web.AppRunner) -> None:
    address = runner.addresses[0]
    log.info("ready", listen=f"{address[0]}:{address[1]}", pid=os.getpid())
    if _is_child() or not sys.stdout.isatty() and "CALOTYPE_QUIET" in os.environ:
        return
    url = f"http://{address[0]}:{address[1]}"
    print(
        f"\nCalotype serves the Image API v2 on {url}\n"
        f"Upload a first image (from another terminal):\n\n"
        f"  pip install python-openstackclient\n"
        f"  openstack --os-auth-type none --os-endpoint {url} image create \\\n"
        f"      --disk-format qcow2 --container-format bare --file disk.qcow2 my-first-image\n"
        f"  openstack --os-auth-type none --os-endpoint {url} image list\n",
        flush=True,
    )


# ---- several processes on one port ----


def _is_child() -> bool:
    return os.environ.get("CALOTYPE_WORKER") == "1"


async def _watch_parent(stopping: asyncio.Event) -> None:
    """Stops this worker when its parent is gone: the pipe on standard input then ends."""
    await asyncio.to_thread(sys.stdin.buffer.read)
    stopping.set()


def _serve_many(settings: Settings) -> int:
    """Starts the workers, starts again those that die, and stops all on SIGTERM or SIGINT."""
    reserved = _reserve_port(settings)
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
    workers: list[subprocess.Popen[bytes]] = []
    stop = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    while not stop:
        workers = [worker for worker in workers if worker.poll() is None]
        while len(workers) < settings.workers:
            workers.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE))
        time.sleep(RESTART_SECONDS / 5)
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + settings.http.drain_seconds + settings.http.grace_seconds + 5
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
    reserved.close()
    return 0


def _reserve_port(settings: Settings) -> socket.socket:
    """Holds the port without listening, so that port 0 means the same port for all workers."""
    host, _, port = settings.http.listen.rpartition(":")
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        holder.bind((host.strip("[]"), int(port)))
    except OSError as error:
        raise SettingsError(
            f"http.listen: cannot listen on {settings.http.listen}: {error}"
        ) from None
    return holder
