"""The key that signs checkpoints: made once, in a file that nobody else may read."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from calotype.ops.settings.settings import Settings, SettingsError
from calotype.projections.seal.signed_note import Signer, new_signer, read_signer
from calotype.projections.seal.verify_proof import BadNote


def key_file(settings: Settings) -> Path:
    """Where the key lies: `audit.key_file`, or `audit.key` in the data directory."""
    return Path(settings.audit.key_file or Path(settings.data) / "audit.key")


def signer_of(settings: Settings) -> Signer | None:
    """The signer of the settings or of the key file; None where there is neither.

    Raises SettingsError naming the key and the fix, and never showing the secret.
    """
    if settings.audit.signing_key:
        try:
            return read_signer(settings.audit.signing_key)
        except BadNote as error:
            raise SettingsError(f"audit.signing_key: {error}") from None
    path = key_file(settings)
    try:
        return read_signer(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, BadNote) as error:
        raise SettingsError(
            f"audit.key_file: {path} cannot be used: {error}; "
            "put it right, or move it away and run `calotype audit key`"
        ) from None


def make_key(settings: Settings, name: str | None = None) -> Signer:
    """Makes a key and its file (mode 0600), whole or not at all; keeps one that is there.

    Raises SettingsError for a name that a key cannot have, or a file that cannot be written.
    """
    standing = signer_of(settings)
    if standing is not None:
        return standing
    try:
        signer = new_signer(name or f"calotype/{secrets.token_hex(6)}")
    except BadNote as error:
        raise SettingsError(f"--name: {error}") from None
    path = key_file(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, signer.secret() + "\n")
    except FileExistsError:  # Another process was first.
        made = signer_of(settings)
        assert made is not None
        return made
    except OSError as error:
        raise SettingsError(f"audit.key_file: cannot write {path}: {error.strerror}") from None
    return signer


def _write(path: Path, text: str) -> None:
    """Writes a new file. Raises FileExistsError where there is one already."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)
    finally:
        with suppress(OSError):
            os.unlink(unfinished)
