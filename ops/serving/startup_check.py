"""What `calotype serve` opens, looked at without making anything: one sentence for each trouble."""

import os
from collections.abc import Iterator
from pathlib import Path

from calotype.ops.jobs.remembering import check_log, places_of
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring import composition
from calotype.ops.wiring.audit_key import signer_of
from calotype.stores.images.driver import StoreError
from calotype.stores.log.errors import LogUnavailable


def troubles(settings: Settings) -> Iterator[str]:
    """Why the service could not serve with these settings, each beginning with the setting."""
    found = False
    for look in (_data, _log, _store, _together):
        if look is _together and found:
            return  # What cannot be opened cannot be compared either.
        try:
            look(settings)
            continue
        except SettingsError as error:
            yield str(error)
        except LogUnavailable as error:
            yield f"log.url: {error}"
        except StoreError as error:
            yield f"store: {error}"
        found = True


def _data(settings: Settings) -> None:
    _require_folder("data", Path(settings.data))
    signer_of(settings)


def _log(settings: Settings) -> None:
    file = composition.embedded_log(settings)
    if file is not None and not file.exists():
        if settings.log.url:
            _require_folder("log.url", file.parent)
        return  # Else it will lie in the data directory.
    recorder = composition.recorder_of(settings)
    try:
        if file is None:
            composition.require_ready(recorder)
        recorder.pending_migrations()
    finally:
        recorder.close_now()


def _store(settings: Settings) -> None:
    options = settings.store_options()
    if settings.store.kind == "file" and not Path(options["directory"]).exists():
        if settings.store.directory:
            _require_folder("store.directory", Path(options["directory"]))
        return
    for driver in composition.stores_of(settings).values():
        try:
            if not options.get("create_bucket"):
                driver.check()
        finally:
            driver.close()


def _together(settings: Settings) -> None:
    """Raises SettingsError unless log and stores are those that belong together."""
    file = composition.embedded_log(settings)
    directory = Path(settings.store_options().get("directory", "/"))
    if not directory.exists() or (file is not None and not file.exists()):
        return
    recorder, stores = composition.recorder_of(settings), composition.stores_of(settings)
    try:
        if composition.is_up_to_date(recorder):
            check_log(recorder, places_of(settings, stores))
    finally:
        recorder.close_now()
        for driver in stores.values():
            driver.close()


def _require_folder(setting: str, folder: Path) -> None:
    """Raises SettingsError unless the folder is there, or can be made, and can be written."""
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise SettingsError(f"{setting}: {folder} cannot be made: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingsError(f"{setting}: {folder} cannot be written: {nearest} is closed to us")
