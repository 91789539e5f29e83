"""Secrets at rest: what signs messages must be stored, and should not be readable in a backup."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_PLAIN, _ENCRYPTED = "plain:", "fernet:"


class Locked(Exception):
    """A stored text cannot be read with the keys that there are."""


class Vault:
    """Encrypts with the first of the keys and reads with any; without keys stores as it is."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Raises ValueError for what is no key; its message does not show it."""
        try:
            fernets = [Fernet(key) for key in keys]
        except ValueError:
            raise ValueError("use 32 bytes in URL-safe base64; several, with commas") from None
        self._fernet = MultiFernet(fernets) if fernets else None

    def closed(self, text: str) -> str:
        """The text as it may be stored."""
        if self._fernet is None:
            return _PLAIN + text
        return _ENCRYPTED + self._fernet.encrypt(text.encode()).decode()

    def opened(self, stored: str) -> str:
        """The text that `closed` was given. Raises Locked."""
        if stored.startswith(_PLAIN):
            return stored.removeprefix(_PLAIN)
        if self._fernet is None:
            raise Locked("webhooks.encryption_key is not set")
        try:
            return self._fernet.decrypt(stored.removeprefix(_ENCRYPTED)).decode()
        except InvalidToken:
            raise Locked("it was encrypted with a key that webhooks.encryption_key lacks") from None


def split_keys(text: str) -> list[str]:
    """The keys of a list with commas."""
    return [key for key in (part.strip() for part in text.split(",")) if key]
