"""The ways on where the log is not the one that its store or its directory remembers.

`calotype log begin-epoch` for a log that was set back, `calotype stores adopt` for a store that
belonged to another log.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from calotype.ops.cli.terminal.invocation import Invocation, noun, verb
from calotype.ops.jobs.remembering import Place, places_of, remember
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring import composition
from calotype.projections.engine.positions import positions_now
from calotype.projections.rebuild import epochs
from calotype.projections.rebuild.epochs import Head, NotAHead, OfAnotherLog, SetBack
from calotype.stores.images.driver import StoreError
from calotype.stores.log.recorder import GroupCommitRecorder

stores_app = noun("The stores of image data.")


def begin_epoch(
    invocation: Invocation,
    valid_to: Annotated[
        str | None,
        typer.Option(
            "--valid-to",
            help="Last position that means what it meant before; needed only where the log went "
            "on by itself after it was set back.",
        ),
    ] = None,
) -> None:
    """Go on with a log that was set back to an older copy: new positions, the old ones refused.

    Positions of the events that are there stay valid; those of lost events are refused from now on.
    Nothing may serve on this log meanwhile.
    """
    with _opened(invocation.settings) as (recorder, places):
        if asyncio.run(recorder.live_leases("process:")):
            raise SettingsError(
                "log begin-epoch: processes serve on this log; stop them first (a killed one "
                "counts for some seconds)"
            )
        end = None
        if valid_to is not None:
            end = positions_now(recorder).decode(valid_to, "--valid-to")
        remembered = [head for place in places if (head := _related(recorder, place))]
        if not any(_does_not_fit(recorder, head) for head in remembered):
            raise SettingsError(
                "log begin-epoch: the log is what is remembered of it; there is nothing to begin"
            )
        positions = asyncio.run(epochs.begin_epoch(recorder, remembered, end))
        for place in places:
            _write(recorder, place)
    log, last = positions.former[-1]
    invocation.out.say(
        f"The log is {positions.log_id} from now on.\n"
        f"Positions of {log} hold up to {positions.encode(last)}; later ones are refused.",
        log=positions.log_id,
        former=log,
        valid_to=positions.encode(last),
    )


@verb(stores_app)
def adopt(invocation: Invocation) -> None:
    """Give the store to this log, whatever log it belonged to; its data is left alone."""
    with _opened(invocation.settings) as (recorder, places):
        for place in places:
            try:
                head = _read(place)
                if head is not None:
                    epochs.check(recorder, head)
            except SetBack as error:
                raise SettingsError(
                    f"stores adopt: the log was set back: {error}, as {place.name} remembers; that "
                    "is for `calotype log begin-epoch`"
                ) from None
            except (NotAHead, OfAnotherLog) as error:
                typer.echo(f"{place.name}: {error}", err=True)
            _write(recorder, place, adopt=True)
            log = positions_now(recorder).log_id
            invocation.out.say(f"{place.name} belongs to the log {log}", place=place.name, log=log)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[GroupCommitRecorder, list[Place]]]:
    recorder = composition.ready_recorder(settings)
    stores = composition.stores_of(settings)
    try:
        yield recorder, places_of(settings, stores)
    finally:
        recorder.close_now()
        for driver in stores.values():
            driver.close()


def _read(place: Place) -> Head | None:
    try:
        return place.head()
    except (StoreError, OSError) as error:
        raise SettingsError(f"{place.name}: cannot be read: {error}") from None


def _write(recorder: GroupCommitRecorder, place: Place, *, adopt: bool = False) -> None:
    try:
        remember(recorder, place, adopt=adopt)
    except (NotAHead, OfAnotherLog) as error:
        typer.echo(f"{place.name} is left alone: {error}; see `calotype stores adopt`", err=True)
    except (StoreError, OSError) as error:
        raise SettingsError(f"{place.name}: cannot be written: {error}") from None


def _related(recorder: GroupCommitRecorder, place: Place) -> Head | None:
    """What the place remembers of this log; None where it is nothing, or of another one."""
    try:
        head = _read(place)
        if head is not None:
            epochs.check(recorder, head)
        return head
    except SetBack:
        return head
    except (NotAHead, OfAnotherLog):
        return None


def _does_not_fit(recorder: GroupCommitRecorder, head: Head) -> bool:
    try:
        epochs.check(recorder, head)
    except SetBack:
        return True
    return False
