"""The `calotype` command."""

import asyncio
import logging
import os
import re
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated

import structlog
import typer

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
    status,
    webhooks,
)
from calotype.ops.cli.terminal.invocation import DryRunOption, Invocation, noun, verb
from calotype.ops.cli.terminal.progress import bar
from calotype.ops.jobs.reconcile import Findings
from calotype.ops.jobs.reconcile import reconcile as run_reconcile
from calotype.ops.jobs.remembering import check_log, places_of
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring import composition
from calotype.ops.wiring.sinks import check_files, silent_downloads
from calotype.projections.images.queries import Queries
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.recorder import GroupCommitRecorder

app = noun("An image service for clouds: the Image API v2 on an event log.")
config_app = noun("Look at the configuration.")
verb(event_log.app, "begin-epoch")(adopt.begin_epoch)
for name, verbs in {
    "audit": audit.app,
    "config": config_app,
    "consumers": consumers.app,
    "log": event_log.app,
    "projections": projections.app,
    "sinks": sinks.app,
    "stores": adopt.stores_app,
    "webhooks": webhooks.app,
}.items():
    app.add_typer(verbs, name=name)
verb(app)(history.history)
verb(app)(replay.replay)
verb(app, formerly={"until": "--to"})(restorable.restorable)
verb(app, formerly={"until": "--to"})(restorable.restore)
verb(app)(restorable.purge)
verb(app)(status.status)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"calotype {version('calotype')}")
        raise typer.Exit


@app.callback()
def root(
    shown: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """An image service for clouds: the Image API v2 on an event log."""


@verb(app, prints=False)
def serve(
    invocation: Invocation,
    listen: Annotated[str | None, typer.Option("--listen", help="HOST:PORT.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that share the port.")
    ] = None,
) -> None:
    """Serve the Image API until SIGTERM."""
    from calotype.ops.serving.process import serve as run

    settings = invocation.load(http__listen=listen, workers=workers)
    _log_to_stderr()
    raise typer.Exit(run(settings))


@app.command(hidden=True)
def worker() -> None:
    """One of the processes of `serve --workers`; takes its settings from its parent."""
    from calotype.ops.serving.process import serve as run

    settings = Settings.model_validate_json(os.environ["CALOTYPE_SETTINGS"])
    _log_to_stderr()
    raise typer.Exit(run(settings))


@verb(app)
def migrate(invocation: Invocation) -> None:
    """Bring the database up to date; does nothing when it is."""
    from calotype.ops.serving.process import make_data_directory

    make_data_directory(invocation.settings)
    recorder = composition.recorder_of(invocation.settings)
    try:
        composition.check_way(recorder)
        applied = composition.migrate(recorder)
    finally:
        recorder.close_now()
    lines = [f"applied {name}" for name in applied]
    invocation.out.say("\n".join([*lines, "The database is up to date."]), applied=applied)


@verb(app)
def reconcile(
    invocation: Invocation,
    dry_run: DryRunOption = False,
    grace_seconds: Annotated[
        float, typer.Option(help="Unknown things younger than this are left alone.")
    ] = 3600.0,
) -> None:
    """Compare the stores with the log: remove what no image knows of, report what is missing.

    Exits with 1 when an image's bytes are missing.
    """
    composition.require_log(invocation.settings)
    _log_to_stderr()

    async def go(recorder: GroupCommitRecorder) -> Findings:
        context = composition.parts_of(invocation.settings, recorder)
        places = places_of(invocation.settings, context.stores)
        await asyncio.to_thread(check_log, recorder, places)
        queries = Queries(recorder)
        # Each image is met twice, as bytes in a store and as bytes that are expected there.
        images = sum(count for _, count, _ in await queries.counts())
        with bar("comparing", 2 * images) as advance:
            return await run_reconcile(
                context, queries, advance, grace_seconds=grace_seconds, dry_run=dry_run
            )

    findings = invocation.ask(go)
    kinds = ("orphans", "unfinished", "beyond", "missing")
    rows = [
        {"finding": kind.rstrip("s"), "where": url}
        for kind in kinds
        for url in getattr(findings, kind)
    ]
    remove, leave = ("would remove", "would leave") if dry_run else ("removed", "left")
    swept = findings.swept
    done = (
        f"{remove} {findings.removed}, {leave} {findings.recent} recent ones alone, "
        + f"gave up {swept.uploads_given_up} uploads, " * (not dry_run)
        + f"removed garbage of {swept.blobs_removed} blobs, " * (not dry_run)
        + f"missing {len(findings.missing)}"
    )
    facts = {"dry_run": dry_run, "removed": findings.removed, "recent": findings.recent}
    invocation.out.rows(("finding", "where"), rows)
    invocation.out.summary(done, {**facts, **asdict(swept), "missing": len(findings.missing)})
    raise typer.Exit(1 if findings.missing else 0)


_SECRETS = (
    "secret_key", "signing_key", "password", "application_credential_secret", "encryption_key",
)  # fmt: skip


@verb(config_app, "check")
def config_check(
    invocation: Invocation,
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

    settings = invocation.settings
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
    flat = {
        f"{key}.{name}" if name else key: inner
        for key, value in shown.items()
        for name, inner in (value.items() if isinstance(value, dict) else [("", value)])
    }
    invocation.out.say("\n".join(f"{key} = {value!r}" for key, value in flat.items()), **flat)
    for name in silent_downloads(settings):
        note = f"Note: sinks.{name} sends no image.send, because audit.downloads is false."
        typer.echo(note, err=invocation.out.is_for_programs)
    found = [] if offline else list(troubles(settings))
    if found:
        raise SettingsError("\n".join(found))
    typer.echo("The configuration is valid.", err=invocation.out.is_for_programs)


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
        app(prog_name="calotype")
    except SettingsError as error:
        print(f"calotype: the configuration cannot be used:\n{error}", file=sys.stderr)
        sys.exit(2)
    except LogUnavailable as error:
        print(f"calotype: the event log is unavailable: {error}", file=sys.stderr)
        sys.exit(2)
