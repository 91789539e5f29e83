"""Signed notes and checkpoints: the forms of C2SP signed-note and tlog-checkpoint, with Ed25519.

A note is text, an empty line, and signature lines. A checkpoint is a note whose text is the log's
origin, the tree's size and its root in base64. Keys have the text forms of the same world:
`name+hash+key` for verifiers, `PRIVATE+KEY+name+hash+seed` for the one who signs.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
KEY_BYTES = 32
HASH_BYTES = 32
LARGEST_SIZE = 2**63 - 1
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE_START = "\u2014 "


class BadNote(ValueError):
    """A note, checkpoint or key that cannot be read, or whose signature is wrong."""


class UnknownKey(BadNote):
    """A note that none of the known keys has signed; it may be right, and proves nothing."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and its name; `text` is what auditors keep."""

    name: str
    public_key: bytes

    @property
    def key_hash(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public_key).digest()[:4]

    @property
    def text(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{_base64(ED25519 + self.public_key)}"

    def signed(self, text: str, signature: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and its name, which is also the log's origin. Never shows the key."""

    name: str
    _key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """What others check this signer's notes with."""
        return Verifier(self.name, self._key.public_key().public_bytes_raw())

    def secret(self) -> str:
        """The private key as text, for a file that nobody else may read."""
        seed = self._key.private_bytes(
            serialization.Encoding.Raw,
            serialization.PrivateFormat.Raw,
            serialization.NoEncryption(),
        )
        key_hash = self.verifier.key_hash.hex()
        return f"PRIVATE+KEY+{self.name}+{key_hash}+{_base64(ED25519 + seed)}"

    def sign(self, text: str) -> str:
        """The note with this text, which ends with a line break."""
        signature = self._key.sign(text.encode())
        return (
            f"{text}\n{_SIGNATURE_START}{self.name} {_base64(self.verifier.key_hash + signature)}\n"
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: the tree of its first `size` events has this root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


def new_signer(name: str) -> Signer:
    """A signer with a fresh key. Raises BadNote unless the name can be one."""
    return Signer(_checked_name(name), Ed25519PrivateKey.generate())


def read_signer(secret: str) -> Signer:
    """The signer from its text. Raises BadNote; the message never holds the text."""
    parts = secret.strip().split("+", 4)
    if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
        raise BadNote("the signing key must look like PRIVATE+KEY+name+hash+key")
    seed = _key_bytes(parts[4])
    signer = Signer(_checked_name(parts[2]), Ed25519PrivateKey.from_private_bytes(seed))
    if signer.verifier.key_hash.hex() != parts[3]:
        raise BadNote("the signing key's hash does not fit its name and key")
    return signer


def read_verifier(text: str) -> Verifier:
    """The verifier from its text. Raises BadNote."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise BadNote("a verifier key must look like name+hash+key")
    verifier = Verifier(_checked_name(parts[0]), _key_bytes(parts[2]))
    if verifier.key_hash.hex() != parts[1]:
        raise BadNote("the verifier key's hash does not fit its name and key")
    return verifier


def open_note(note: str, verifiers: Sequence[Verifier]) -> str:
    """The text of a note that at least one of these keys has signed.

    Signatures of keys that nobody knows are passed over; a wrong one of a known key refuses the
    note. Raises UnknownKey, BadNote.
    """
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise BadNote("the note has no signatures")
    text += "\n"
    known = {(verifier.name, verifier.key_hash): verifier for verifier in verifiers}
    found = False
    for line in signatures[:-1].split("\n"):
        name, signature = _read_signature(line)
        verifier = known.get((name, signature[:4]))
        if verifier is None:
            continue
        if not verifier.signed(text, signature[4:]):
            raise BadNote(f"the signature of {name} is wrong")
        found = True
    if not found:
        raise UnknownKey("no known key has signed the note")
    return text


def read_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text. Raises BadNote."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise BadNote("a checkpoint has three lines: origin, size, root")
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > LARGEST_SIZE:
        raise BadNote("the checkpoint's second line must be the tree's size")
    root = _decoded(lines[2])
    if len(root) != HASH_BYTES:
        raise BadNote("the checkpoint's third line must be 32 bytes in base64")
    return Checkpoint(lines[0], int(lines[1]), root)


def open_checkpoint(note: str, verifiers: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint that one of these keys signed for its log. Raises UnknownKey, BadNote."""
    checkpoint = read_checkpoint(open_note(note, verifiers))
    if checkpoint.origin not in {verifier.name for verifier in verifiers}:
        raise BadNote(f"the checkpoint is of the log {checkpoint.origin!r}, which is not ours")
    return checkpoint


def _read_signature(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not _NAME.fullmatch(name):
        raise BadNote("a signature line must be a dash, a name and a signature")
    signature = _decoded(encoded)
    if len(signature) < 5:
        raise BadNote("a signature is too short")
    return name, signature


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadNote("a key's name must have no white space and no plus sign")
    return name


def _key_bytes(text: str) -> bytes:
    key = _decoded(text)
    if key[:1] != ED25519 or len(key) != 1 + KEY_BYTES:
        raise BadNote("the key is not an Ed25519 key")
    return key[1:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadNote("not valid base64") from None
