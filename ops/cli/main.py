"""The `calotype` command."""

import asyncio
import logging
import os
import re
import sys
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table

from calotype.ops.cli import (
    adopt,
    audit,
    consumers,
    event_log,
    history,
    projections,
    replay,
    restorable,
    sinks,
    webhooks,
)
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.jobs.remembering import check_log, places_of
from calotype.ops.settings.settings import Settings, SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.ops.wiring.sinks import check_files, silent_downloads
from calotype.stores.log.errors import LogUnavailable

app = typer.Typer(
    name="calotype",
    help="An image service for clouds: the Image API v2 on an event log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(audit.app, name="audit")
app.add_typer(consumers.app, name="consumers")
event_log.app.command("begin-epoch")(adopt.begin_epoch)
app.add_typer(event_log.app, name="log")
app.add_typer(projections.app, name="projections")
app.add_typer(sinks.app, name="sinks")
app.add_typer(adopt.stores_app, name="stores")
app.add_typer(webhooks.app, name="webhooks")
app.command()(history.history)
app.command()(replay.replay)
app.command()(restorable.restorable)
app.command()(restorable.restore)
app.command()(restorable.purge)


@app.command()
def serve(
    config: ConfigOption = None,
    listen: Annotated[str | None, typer.Option("--listen", help="HOST:PORT.")] = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that share the port.")
    ] = None,
) -> None:
    """Serve the Image API until SIGTERM."""
    from calotype.ops.serving.process import serve as run

    settings = load_settings(
        config, http__listen=listen, data=data, log__url=log_url, workers=workers
    )
    _log_to_stderr()
    raise typer.Exit(run(settings))


@app.command(hidden=True)
def worker() -> None:
    """One of the processes of `serve --workers`; takes its settings from its parent."""
    from calotype.ops.serving.process import serve as run

    settings = Settings.model_validate_json(os.environ["CALOTYPE_SETTINGS"])
    _log_to_stderr()
    raise typer.Exit(run(settings))


@app.command()
def migrate(
    config: ConfigOption = None, data: DataOption = None, log_url: LogUrlOption = None
) -> None:
    """Bring the database up to date; does nothing when it is."""
    from calotype.ops.serving.process import make_data_directory

    settings = load_settings(config, data=data, log__url=log_url)
    make_data_directory(settings)
    recorder = composition.recorder_of(settings)
    try:
        composition.check_way(recorder)
        applied = composition.migrate(recorder)
    finally:
        recorder.close_now()
    for name in applied:
        typer.echo(f"applied {name}")
    typer.echo("The database is up to date.")


@app.command()
def status(
    config: ConfigOption = None, data: DataOption = None, log_url: LogUrlOption = None
) -> None:
    """Show the log's position, and the images by status."""
    from calotype.projections.engine.positions import positions_now
    from calotype.projections.images.queries import Queries

    settings = load_settings(config, data=data, log__url=log_url)
    composition.require_log(settings)
    recorder = composition.recorder_of(settings)

    async def look() -> tuple[list[tuple[str, int, int]], int, set[str]]:
        counts = await Queries(recorder).counts()
        processes = await recorder.live_leases("process:")
        unsettled = await Queries(recorder).unsettled()
        await recorder.close()
        return counts, unsettled, processes

    try:
        pending = recorder.pending_migrations()
        if pending:
            typer.echo(
                f"The database is not up to date ({', '.join(pending)}): run calotype migrate"
            )
            raise typer.Exit(1)
        position = positions_now(recorder).encode(recorder.max_notification_id() or 0)
        counts, unsettled, processes = asyncio.run(look())
    finally:
        recorder.close_now()
    typer.echo(f"log position          {position}")
    typer.echo(f"processes serving     {len(processes)}")
    typer.echo(f"unsettled blobs       {unsettled}")
    table = Table("status", "images", "bytes")
    for name, images, size in sorted(counts):
        table.add_row(name, str(images), str(size))
    Console().print(table)


@app.command()
def reconcile(
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell; change nothing.")] = False,
    grace_seconds: Annotated[
        float, typer.Option(help="Unknown things younger than this are left alone.")
    ] = 3600.0,
) -> None:
    """Compare the stores with the log: remove what no image knows of, report what is missing.

    Exits with 1 when an image's bytes are missing.
    """
    from calotype.ops.jobs.reconcile import reconcile as run
    from calotype.projections.images.queries import Queries

    settings = load_settings(config, data=data, log__url=log_url)
    composition.require_log(settings)
    _log_to_stderr()

    async def go() -> int:
        recorder = composition.ready_recorder(settings)
        context = composition.parts_of(settings, recorder)
        try:
            await asyncio.to_thread(check_log, recorder, places_of(settings, context.stores))
            findings = await run(
                context, Queries(recorder), grace_seconds=grace_seconds, dry_run=dry_run
            )
        finally:
            await recorder.close()
        for name in ("orphans", "unfinished", "beyond", "missing"):
            for url in getattr(findings, name):
                typer.echo(f"{name.rstrip('s'):<12}{url}")
        typer.echo(
            f"removed {findings.removed}, left {findings.recent} recent ones alone, gave up "
            f"{findings.swept.uploads_given_up} uploads, removed garbage of "
            f"{findings.swept.blobs_removed} blobs, missing {len(findings.missing)}"
        )
        return 1 if findings.missing else 0

    raise typer.Exit(asyncio.run(go()))


_SECRETS = (
    "secret_key", "signing_key", "password", "application_credential_secret", "encryption_key",
)  # fmt: skip


@config_app.command("check")
def config_check(
    config: ConfigOption = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only read files: open neither log nor store.")
    ] = False,
) -> None:
    """Check the settings file, the environment, and what they name: files, event log and store.

    Prints what is in force, without secrets, and then each reason why `calotype serve` could not
    serve. Makes nothing.
    """
    from calotype.ops.serving.startup_check import troubles
    from calotype.ops.settings.policy_files import load_policy
    from calotype.ops.wiring.identity import identity_of

    settings = load_settings(config)
    identity_of(settings)
    load_policy(settings.policy, settings.property_protections)
    check_files(settings)
    shown = settings.model_dump(exclude={"sinks"})
    for table in (shown, *[value for value in shown.values() if isinstance(value, dict)]):
        for key in table:
            if key in _SECRETS and table[key]:
                table[key] = "(set)"
    shown["log"]["url"] = _without_password(settings.log_url())
    shown["log"]["listen_url"] = _without_password(settings.log.listen_url)
    shown |= {f"sinks.{name}": sink.shown() for name, sink in settings.sinks.items()}
    for key, value in shown.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                typer.echo(f"{key}.{name} = {inner!r}")
        else:
            typer.echo(f"{key} = {value!r}")
    for name in silent_downloads(settings):
        typer.echo(f"Note: sinks.{name} sends no image.send, because audit.downloads is false.")
    found = [] if offline else list(troubles(settings))
    if found:
        raise SettingsError("\n".join(found))
    typer.echo("The configuration is valid.")


def _without_password(url: str) -> str:
    # Not by a library for URLs: PostgreSQL's may name several hosts, each with its port.
    bare = re.sub(r"(//[^:@/]*):.*@", r"\1@", url)
    return re.sub(r"((?:^|[?&])(?:ssl)?password=)[^&]*", r"\1***", bare)


def _log_to_stderr() -> None:
    """Structured log lines on standard error: for people on a terminal, JSON elsewhere."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def main() -> None:
    """Entry point: turns errors that a person can mend into one message and exit code 2."""
    try:
        app()
    except SettingsError as error:
        print(f"calotype: the configuration cannot be used:\n{error}", file=sys.stderr)
        sys.exit(2)
    except LogUnavailable as error:
        print(f"calotype: the event log is unavailable: {error}", file=sys.stderr)
        sys.exit(2)
