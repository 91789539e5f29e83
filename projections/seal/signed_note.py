"""The private key that signs checkpoints; what reads and checks notes is in `verify_proof.py`.

A note is text, an empty line, and signature lines. A checkpoint is a note whose text is the log's
origin, the tree's size and its root in base64. Keys have the text forms of C2SP signed-note:
`name+hash+key` for verifiers, `PRIVATE+KEY+name+hash+seed` for the signer.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from calotype.projections.seal.verify_proof import (
    ED25519,
    SIGNATURE_START,
    BadNote,
    Verifier,
    checked_name,
    encoded,
    key_bytes,
)


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
        return f"PRIVATE+KEY+{self.name}+{key_hash}+{encoded(ED25519 + seed)}"

    def sign(self, text: str) -> str:
        """The note with this text, which ends with a line break."""
        signature = self._key.sign(text.encode())
        return (
            f"{text}\n{SIGNATURE_START}{self.name} {encoded(self.verifier.key_hash + signature)}\n"
        )


def new_signer(name: str) -> Signer:
    """A signer with a fresh key. Raises BadNote unless the name can be one."""
    return Signer(checked_name(name), Ed25519PrivateKey.generate())


def read_signer(secret: str) -> Signer:
    """The signer from its text. Raises BadNote; the message never holds the text."""
    parts = secret.strip().split("+", 4)
    if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
        raise BadNote("the signing key must look like PRIVATE+KEY+name+hash+key")
    seed = key_bytes(parts[4])
    signer = Signer(checked_name(parts[2]), Ed25519PrivateKey.from_private_bytes(seed))
    if signer.verifier.key_hash.hex() != parts[3]:
        raise BadNote("the signing key's hash does not fit its name and key")
    return signer
