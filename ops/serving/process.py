"""One serving process: start, ready, drain, stop."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
import uvloop
from aiohttp import web

from calotype.commands.context import CommandContext
from calotype.http.connections import Runner
from calotype.http.identity.basic import BasicIdentity
from calotype.http.middleware import Api
from calotype.http.routes import application
from calotype.ops.jobs import sweeper
from calotype.ops.jobs.remembering import Rememberer, check_log, places_of
from calotype.ops.jobs.sealer import run_sealer
from calotype.ops.serving import workers
from calotype.ops.serving.listening import (
    listening_socket,
    most_connections,
    raise_descriptor_limit,
)
from calotype.ops.settings.htpasswd import watch_logins
from calotype.ops.settings.policy_files import load_policy, watch_policy
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring import composition
from calotype.ops.wiring.audit_key import make_key, signer_of
from calotype.ops.wiring.identity import identity_of
from calotype.ops.wiring.sinks import registered_deliveries
from calotype.ops.wiring.webhooks import deliverer_of
from calotype.projections.engine.leadership import Leadership
from calotype.projections.seal.signed_note import Signer
from calotype.stores.images import memory
from calotype.stores.images.driver import StoreError
from calotype.stores.images.threads import threads_of
from calotype.stores.log.recorder import GroupCommitRecorder

log = structlog.get_logger("calotype.serving")

_FIRST_UPLOAD = """
Upload a first image (from another terminal, with nothing but curl):

  head -c 1000000 /dev/urandom > disk.raw
  IMAGE=$(curl -s URL/v2/images -H 'Content-Type: application/json' \\
    -d '{"name": "my-first-image", "disk_format": "raw", "container_format": "bare"}' |
    grep -o '"id":"[^"]*' | cut -d '"' -f 4)
  curl -sT disk.raw -H 'Content-Type: application/octet-stream' URL/v2/images/$IMAGE/file
  curl -s URL/v2/images/$IMAGE
"""


def prepare(settings: Settings) -> None:
    """Makes the data directory, and on the embedded log tables and signing key; checks all others.

    Raises SettingsError naming what is missing or wrong, and what mends it.
    """
    # Read here too, because workers that cannot start would be started again and again.
    load_policy(settings.policy, settings.property_protections)
    identity_of(settings)
    make_data_directory(settings)
    recorder = composition.recorder_of(settings)
    try:
        if settings.log_url().startswith("sqlite"):
            composition.migrate(recorder)
            if settings.audit.seal:
                make_key(settings)
        else:
            composition.require_ready(recorder)
        _check_stores(settings, recorder)
    finally:
        recorder.close_now()


def _check_stores(settings: Settings, recorder: GroupCommitRecorder) -> None:
    """Raises SettingsError unless the stores can be used and belong to this log as it is."""
    stores = composition.stores_of(settings)
    try:
        for name, driver in stores.items():
            threads = threads_of(driver)
            asyncio.run(threads.call(driver.check))
            asyncio.run(threads.call(check_log, recorder, places_of(settings, {name: driver})))
    except StoreError as error:
        raise SettingsError(f"store: {error}") from None
    finally:
        for driver in stores.values():
            driver.close()


def make_data_directory(settings: Settings) -> None:
    """Makes it where it is not there. Raises SettingsError where that cannot be."""
    try:
        os.makedirs(settings.data, 0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"data: {settings.data} cannot be made: {error.strerror}") from None


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; the process's exit code."""
    memory.share_arenas()
    memory.keep_pieces()
    raise_descriptor_limit()
    prepare(settings)
    if settings.workers > 1:
        return workers.serve_many(settings)
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    signer = signer_of(settings)
    recorder = composition.recorder_of(settings)
    context = composition.parts_of(settings, recorder)
    lease = sweeper.process_lease(recorder, context.process_id)
    context = replace(context, lease=lease)
    api = composition.api_of(settings, context)
    rememberer = Rememberer(recorder, places_of(settings, context.stores))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await lease.held()
    chores = [
        asyncio.create_task(chore)
        for chore in [
            *await _chores(settings, context, api, signer, stopping, lease),
            rememberer.run(),
        ]
    ]
    runner = Runner(
        application(api),
        most_connections=most_connections(settings),
        access_log=_access_log() if settings.http.access_log else None,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    site = web.SockSite(
        runner, listening_socket(settings, shared=workers.is_worker()), backlog=1024
    )
    await site.start()
    gc.freeze()  # What is there now stays: the collector need not look at it again and again.
    _announce(settings, runner)
    await stopping.wait()
    api.draining = True
    api.feed.watcher.end()
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
    await rememberer.finish()
    with suppress(Exception):
        await recorder.close()
    for driver in context.stores.values():
        with suppress(StoreError):
            await threads_of(driver).call(driver.close)
    log.info("stopped")
    return 0


async def _chores(
    settings: Settings,
    context: CommandContext,
    api: Api,
    signer: Signer | None,
    stopping: asyncio.Event,
    lease: Leadership,
) -> list[Coroutine[Any, Any, None]]:
    """What runs beside requests as long as this process serves."""
    chores = [
        sweeper.keep_lease(lease),
        sweeper.Sweeper(context, api.queries).run(),
        watch_policy(settings.policy, api.use_policy, settings.property_protections),
    ]
    cache_bytes = settings.log.cache_bytes
    if settings.followers.versions:
        chores.append(composition.versions_follower(context, cache_bytes).run())
    if settings.followers.audience:
        chores.append(composition.audience_follower(context, api.feed.watcher, cache_bytes).run())
    if settings.audit.seal:
        chores.append(run_sealer(context.log.recorder, signer, context.process_id))
    if settings.webhooks.deliver:
        deliverer = deliverer_of(settings, context, api.webhooks, lambda: api.policy)
        chores.append(deliverer.run())
    if isinstance(api.identity, BasicIdentity):
        chores.append(watch_logins(settings.http_basic, api.identity.use))
    chores += [
        delivery.run() for delivery in await registered_deliveries(settings, context, api.feed)
    ]
    if workers.is_worker():
        chores += [workers.watch_parent(stopping), workers.give_signs_of_life()]
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


def _announce(settings: Settings, runner: web.AppRunner) -> None:
    address = runner.addresses[0]
    log.info("ready", listen=f"{address[0]}:{address[1]}", pid=os.getpid())
    if workers.is_worker() or not sys.stdout.isatty() and "CALOTYPE_QUIET" in os.environ:
        return
    url = f"http://{address[0]}:{address[1]}"
    print(f"\nCalotype serves the Image API v2 on {url}", flush=True)
    if settings.identity.kind == "none":
        print(_FIRST_UPLOAD.replace("URL", url), flush=True)
