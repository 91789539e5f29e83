"""`calotype audit`: the key, the check of the whole log, and the proof of one event."""

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from calotype.ops.cli.terminal.invocation import Invocation, fail, misused, noun, verb
from calotype.ops.cli.terminal.output import Output
from calotype.ops.cli.terminal.progress import bar
from calotype.ops.jobs.remembering import misfits, places_of
from calotype.ops.settings.settings import Settings
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

app = noun("Tamper evidence: prove what the event log says.")


@verb(app)
def key(
    invocation: Invocation,
    name: Annotated[
        str | None,
        typer.Option(help="Name of a new key, and the log's origin: a domain and path of yours."),
    ] = None,
) -> None:
    """Make the key that signs checkpoints, unless there is one; print its public half.

    Give that line to auditors: they check checkpoints and proofs with it.
    """
    settings = invocation.settings
    made = not settings.audit.signing_key and not key_file(settings).exists()
    verifier = make_key(settings, name).verifier
    if made:
        typer.echo(f"made {key_file(settings)}", err=True)
    elif name is not None and name != verifier.name:
        raise misused("--name", f"there is a key already, of the name {verifier.name}")
    invocation.out.say(verifier.text, key=verifier.text)


@verb(app)
def verify(
    invocation: Invocation,
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
    settings = invocation.settings
    verifiers = _verifiers(settings, key or [])
    kept = [_kept_checkpoint(path, verifiers) for path in checkpoint or []]
    wrong: list[str] = []
    proved = False
    with invocation.log() as recorder:
        positions = positions_now(recorder)
        try:
            found = _check(recorder, verifiers, kept)
        except Mismatch as error:
            wrong.append(f" at position {positions.encode(error.position)}: {error}")
        except BadNote as error:
            wrong.append(f": a stored checkpoint was changed: {error}")
        else:
            proved = _report(invocation.out, found, bool(verifiers), positions)
            beyond = _misfits(settings, recorder)
            wrong += [f": the log is not what it was: {line}" for line in beyond]
    for line in wrong:
        invocation.out.say(f"DOES NOT FIT{line}", does_not_fit=line.lstrip(": "))
    raise typer.Exit(1 if wrong or not proved else 0)


@verb(app)
def prove(
    invocation: Invocation,
    position: Annotated[str, typer.Argument(help="Position of the event, as the feed gives it.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
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

    proof = _proof(invocation, proved)
    _write_whole(out, proof)
    # In the words of the script, so that both are about the same.
    told = described(proof["event"])
    text = f"{proof['position']}  {told}\nwrote {out}"
    invocation.out.say(text, position=proof["position"], event=told, file=str(out))


@verb(app)
def consistency(
    invocation: Invocation,
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="OLD NEW", help="Files with two signed checkpoints.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
) -> None:
    """Write a proof that the log of the newer checkpoint begins with that of the older.

    For verify_proof.py to check offline, with both checkpoints.
    """
    if len(checkpoints) != 2:
        raise misused("OLD NEW", "name two files with signed checkpoints")
    first, second = sorted(map(_size_of, checkpoints))

    async def proved(recorder: GroupCommitRecorder) -> dict[str, Any]:
        return await Sealed(recorder).proof_of_growth(first, second)

    _write_whole(out, _proof(invocation, proved))
    invocation.out.say(f"wrote {out}", file=str(out))


@app.command()
def script() -> None:
    """Print verify_proof.py, which checks proofs without Calotype: for auditors to keep."""
    typer.echo(SCRIPT.read_text(), nl=False)


def _size_of(path: Path) -> int:
    """How many events a kept checkpoint covers. Raises BadParameter."""
    try:
        return read_checkpoint(path.read_bytes().decode().partition("\n\n")[0] + "\n").size
    except (OSError, UnicodeDecodeError, BadNote) as error:
        raise misused(str(path), f"is no checkpoint that can be read: {error}") from None


def _proof(
    invocation: Invocation, proved: Callable[[GroupCommitRecorder], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """The proof; exits with 1 where there is none."""
    try:
        return invocation.ask(proved)
    except (NotSealed, SealBroken, ValueError) as error:
        fail(f"no proof: {error}")


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
            raise misused("--key", str(error)) from None
    signer = signer_of(settings)
    return [signer.verifier] if signer is not None else []


def _kept_checkpoint(path: Path, verifiers: Sequence[Verifier]) -> Checkpoint:
    try:
        return open_checkpoint(path.read_bytes().decode(), verifiers)
    except (OSError, UnicodeDecodeError, BadNote) as error:
        raise misused("--checkpoint", f"{path}: {error}") from None


def _check(
    recorder: GroupCommitRecorder, verifiers: Sequence[Verifier], kept: Sequence[Checkpoint]
) -> Verified:
    reached = 0

    with bar("hashing events", recorder.max_notification_id() or 0) as advance:

        def move(position: int) -> None:
            nonlocal reached
            advance(position - reached)
            reached = position

        return LogCheck(recorder, verifiers, kept).run(move)


def _report(out: Output, found: Verified, keys_known: bool, positions: Positions) -> bool:
    """Prints what was found; whether it proves the whole seal."""
    lines = [
        f"events hashed         {found.events}",
        f"sealed                {found.sealed}",
        f"proved by checkpoints {found.proved}",
        f"checkpoints that fit  {found.checkpoints}",
        f"root                  {found.root.hex()}",
        *[f"checkpoint passed over: {stranger}" for stranger in found.strangers],
    ]
    lacking = ""
    if found.sealed == 0:
        lacking = "nothing is sealed; `calotype serve` seals while it runs."
    elif not keys_known:
        lacking = "there is no key; give --key, or make one with `calotype audit key`."
    elif found.proved < found.sealed:
        first, last = positions.encode(found.proved + 1), positions.encode(found.sealed)
        lacking = f"no checkpoint of a known key covers events {first} to {last}."
    lines.append(f"NOT PROVED: {lacking}" if lacking else "The log is what was sealed.")
    out.say(
        "\n".join(lines),
        events=found.events,
        sealed=found.sealed,
        proved=found.proved,
        checkpoints=found.checkpoints,
        root=found.root.hex(),
        passed_over=[str(stranger) for stranger in found.strangers],
        not_proved=lacking or None,
    )
    return not lacking


def _write_whole(path: Path, proof: dict[str, Any]) -> None:
    """Writes the file, or leaves what was there; exits with 1 where it cannot."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        unfinished.write_bytes(orjson.dumps(proof, option=options))
        os.replace(unfinished, path)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    finally:
        unfinished.unlink(missing_ok=True)
