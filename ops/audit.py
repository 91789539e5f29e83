"""`calotype audit`: the key, the check of the whole log, and the proof of one event."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calotype.commands.errors import Invalid
from calotype.ops import wiring
from calotype.ops.audit_key import key_file, make_key, signer_of
from calotype.ops.settings import Settings, SettingsError, load_settings
from calotype.projections.notes import (
    BadNote,
    Checkpoint,
    Verifier,
    open_checkpoint,
    read_verifier,
)
from calotype.projections.positions import positions_now
from calotype.projections.seal import SealBroken
from calotype.projections.seal_check import LogCheck, Mismatch, Verified
from calotype.projections.sealed import NotSealed, Sealed
from calotype.stores.log.recorder import GroupCommitRecorder

app = typer.Typer(help="Tamper evidence: prove what the event log says.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file (TOML).", envvar="CALOTYPE_CONFIG")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Directory of the embedded log and of the key.")
]
LogUrlOption = Annotated[
    str | None,
    typer.Option("--log-url", help="Event log: sqlite:///path or postgresql://user@host/database."),
]


@app.command()
def key(
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of a new key, and the log's origin: a domain and path of yours."),
    ] = None,
) -> None:
    """Make the key that signs checkpoints, unless there is one; print its public half.

    Give that line to auditors: they check checkpoints and proofs with it.
    """
    settings = load_settings(config, data=data, log__url=log_url)
    made = not settings.audit.signing_key and not key_file(settings).exists()
    verifier = make_key(settings, name).verifier
    if made:
        typer.echo(f"made {key_file(settings)}", err=True)
    elif name is not None and name != verifier.name:
        raise SettingsError(f"--name: there is a key already, of the name {verifier.name}")
    typer.echo(verifier.text)


@app.command()
def verify(
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Verifier key to believe instead of the service's own; repeatable."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="File with a signed checkpoint that was kept elsewhere; repeatable."),
    ] = None,
) -> None:
    """Hash the whole log again and name the first position that does not fit its seal.

    Exits with 1 when something does not fit, or when no signed checkpoint proves anything.
    """
    settings = load_settings(config, data=data, log__url=log_url)
    verifiers = _verifiers(settings, key or [])
    kept = [_kept_checkpoint(path, verifiers) for path in checkpoint or []]
    recorder = wiring.ready_recorder(settings)
    try:
        found = _check(recorder, verifiers, kept)
    except Mismatch as error:
        typer.echo(f"DOES NOT FIT at {error}")
        raise typer.Exit(1) from None
    except BadNote as error:
        typer.echo(f"DOES NOT FIT: a stored checkpoint was changed: {error}")
        raise typer.Exit(1) from None
    finally:
        recorder.close_now()
    raise typer.Exit(_report(found, bool(verifiers)))


@app.command()
def prove(
    position: Annotated[str, typer.Argument(help="Number or text of the event's position.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Write a proof that an event is in the log, for verify_proof.py to check offline."""
    recorder = wiring.ready_recorder(load_settings(config, data=data, log__url=log_url))

    async def export() -> bytes:
        number = int(position) if position.isdecimal() else None
        if number is None:
            number = positions_now(recorder).decode(position)
        document = await Sealed(recorder).exported(number)
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    try:
        proof = asyncio.run(export())
    except (NotSealed, SealBroken, Invalid) as error:
        typer.echo(f"calotype: no proof: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        recorder.close_now()
    try:
        _write_whole(out, proof)
    except OSError as error:
        typer.echo(f"calotype: cannot write {out}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"wrote {out}")


def _verifiers(settings: Settings, keys: Sequence[str]) -> list[Verifier]:
    if keys:
        try:
            return [read_verifier(text) for text in keys]
        except BadNote as error:
            raise SettingsError(f"--key: {error}") from None
    signer = signer_of(settings)
    return [signer.verifier] if signer is not None else []


def _kept_checkpoint(path: Path, verifiers: Sequence[Verifier]) -> Checkpoint:
    try:
        return open_checkpoint(path.read_bytes().decode(), verifiers)
    except (OSError, UnicodeDecodeError, BadNote) as error:
        raise SettingsError(f"--checkpoint: {path}: {error}") from None


def _check(
    recorder: GroupCommitRecorder, verifiers: Sequence[Verifier], kept: Sequence[Checkpoint]
) -> Verified:
    columns = (
        TextColumn("hashing events"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=recorder.max_notification_id() or 0)
        check = LogCheck(recorder, verifiers, kept)
        return check.run(lambda position: bar.update(task, completed=position))


def _report(found: Verified, keys_known: bool) -> int:
    typer.echo(f"events hashed         {found.events}")
    typer.echo(f"sealed                {found.sealed}")
    typer.echo(f"proved by checkpoints {found.proved}")
    typer.echo(f"checkpoints that fit  {found.checkpoints}")
    typer.echo(f"root                  {found.root.hex()}")
    for stranger in found.strangers:
        typer.echo(f"checkpoint passed over: {stranger}")
    if found.sealed == 0:
        typer.echo("NOT PROVED: nothing is sealed; `calotype serve` seals while it runs.")
    elif not keys_known:
        typer.echo(
            "NOT PROVED: there is no key; give --key, or make one with `calotype audit key`."
        )
    elif found.proved < found.sealed:
        typer.echo(
            f"NOT PROVED: no checkpoint of a known key covers events {found.proved + 1} to "
            f"{found.sealed}."
        )
    else:
        typer.echo("The log is what was sealed.")
        return 0
    return 1


def _write_whole(path: Path, content: bytes) -> None:
    """Writes the file, or leaves what was there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
