"""`calotype audit`: the key, the check of the whole log, and the proof of one event."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calotype.commands.errors import Invalid
from calotype.ops.jobs.remembering import misfits, places_of
from calotype.ops.settings.settings import Settings, SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.ops.wiring.audit_key import key_file, make_key, signer_of
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.seal.check import LogCheck, Mismatch, Verified
from calotype.projections.seal.reading import SCRIPT, NotSealed, Sealed
from calotype.projections.seal.seal import SealBroken
from calotype.projections.seal.verify_proof import (
    BadNote,
    Checkpoint,
    Verifier,
    described,
    open_checkpoint,
    read_checkpoint,
    read_verifier,
)
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
    recorder = composition.ready_recorder(settings)
    try:
        found = _check(recorder, verifiers, kept)
        beyond = _misfits(settings, recorder)
    except Mismatch as error:
        position = positions_now(recorder).encode(error.position)
        typer.echo(f"DOES NOT FIT at position {position}: {error}")
        raise typer.Exit(1) from None
    except BadNote as error:
        typer.echo(f"DOES NOT FIT: a stored checkpoint was changed: {error}")
        raise typer.Exit(1) from None
    else:
        code = _report(found, bool(verifiers), positions_now(recorder))
    finally:
        recorder.close_now()
    for line in beyond:
        typer.echo(f"DOES NOT FIT: the log is not what it was: {line}")
    raise typer.Exit(max(code, int(bool(beyond))))


@app.command()
def prove(
    position: Annotated[str, typer.Argument(help="Position of the event, as the feed gives it.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File with a signed checkpoint to prove it under; else the newest."),
    ] = None,
) -> None:
    """Write a proof that an event is in the log, for verify_proof.py to check offline.

    Prints which event that is: its position, type, image, actor and time.
    """
    size = _size_of(checkpoint) if checkpoint else None

    async def proved(recorder: GroupCommitRecorder) -> dict[str, Any]:
        number = positions_now(recorder).decode(position, "POSITION")
        return await Sealed(recorder).proof_of_event(number, size)

    proof = _proof(proved, config, data, log_url)
    _write_whole(out, proof)
    # As the script tells it, so that both are about the same.
    typer.echo(f"{proof['position']}  {described(proof['event'])}")
    typer.echo(f"wrote {out}")


@app.command()
def consistency(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="OLD NEW", help="Files with two signed checkpoints.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Write a proof that the log of the newer checkpoint begins with that of the older.

    For verify_proof.py to check offline, with both checkpoints.
    """
    if len(checkpoints) != 2:
        raise SettingsError("OLD NEW: name two files with signed checkpoints")
    first, second = sorted(map(_size_of, checkpoints))

    async def proved(recorder: GroupCommitRecorder) -> dict[str, Any]:
        return await Sealed(recorder).proof_of_growth(first, second)

    _write_whole(out, _proof(proved, config, data, log_url))
    typer.echo(f"wrote {out}")


@app.command()
def script() -> None:
    """Print verify_proof.py, which checks proofs without Calotype: for auditors to keep."""
    typer.echo(SCRIPT.read_text(), nl=False)


def _size_of(path: Path) -> int:
    """How many events a kept checkpoint covers. Raises SettingsError."""
    try:
        return read_checkpoint(path.read_bytes().decode().partition("\n\n")[0] + "\n").size
    except (OSError, UnicodeDecodeError, BadNote) as error:
        raise SettingsError(f"{path}: is no checkpoint that can be read: {error}") from None


def _proof(
    proved: Callable[[GroupCommitRecorder], Awaitable[dict[str, Any]]],
    config: Path | None,
    data: str | None,
    log_url: str | None,
) -> dict[str, Any]:
    """The proof; exits with 1 where there is none."""
    recorder = composition.ready_recorder(load_settings(config, data=data, log__url=log_url))

    async def run() -> dict[str, Any]:
        return await proved(recorder)

    try:
        return asyncio.run(run())
    except (NotSealed, SealBroken, Invalid, ValueError) as error:
        typer.echo(f"calotype: no proof: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        recorder.close_now()


def _misfits(settings: Settings, recorder: GroupCommitRecorder) -> list[str]:
    """Where more of the log is remembered than there is of it."""
    directory = settings.store_options().get("directory")
    if directory is not None and not os.path.isdir(directory):
        return misfits(recorder, places_of(settings, {}))  # Looking makes no directory.
    stores = composition.stores_of(settings)
    try:
        return misfits(recorder, places_of(settings, stores))
    finally:
        for driver in stores.values():
            driver.close()


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


def _report(found: Verified, keys_known: bool, positions: Positions) -> int:
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
            "NOT PROVED: no checkpoint of a known key covers events "
            f"{positions.encode(found.proved + 1)} to {positions.encode(found.sealed)}."
        )
    else:
        typer.echo("The log is what was sealed.")
        return 0
    return 1


def _write_whole(path: Path, proof: dict[str, Any]) -> None:
    """Writes the file, or leaves what was there; exits with 1 where it cannot."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        unfinished.write_bytes(orjson.dumps(proof, option=options))
        os.replace(unfinished, path)
    except OSError as error:
        typer.echo(f"calotype: cannot write {path}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    finally:
        unfinished.unlink(missing_ok=True)
