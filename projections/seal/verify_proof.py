#!/usr/bin/env python3
"""Checks a proof of the event log offline: `verify_proof.py PROOF --key VERIFIER_KEY`.

Runs alone: it needs Python 3.9 or newer and the package `cryptography`, and nothing of Calotype.
Calotype reads checkpoints and keys with the same functions. VERIFIER_KEY is the text
`name+hash+key` that the operator published (or a file that holds it); get it from elsewhere than
the proof.

PROOF is what `calotype audit prove` or GET /log/v1/proof/inclusion gave: that an event was in the
log when the checkpoint was signed. With --checkpoint FILE the signed checkpoint is taken from
there. Or it is what `calotype audit consistency` or GET /log/v1/proof/consistency gave: that of two
kept checkpoints, both given with --checkpoint, the later log begins with the earlier.

Exit code 0: proved. 1: not proved.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HASH_BYTES = 32
ED25519 = b"\x01"
SIGNATURE_START = "\u2014 "
_KEY_BYTES = 32
_LARGEST_SIZE = 2**63 - 1
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class NotProved(ValueError):
    """The proof does not show what it should; the message says why."""


class BadNote(NotProved):
    """A note, checkpoint or key that cannot be read, or whose signature is wrong."""


class UnknownKey(BadNote):
    """A note that none of the known keys has signed; it may be right, and proves nothing."""


# ---- notes, checkpoints and keys, in the forms of C2SP signed-note and tlog-checkpoint ----


@dataclass(frozen=True)
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
        return f"{self.name}+{self.key_hash.hex()}+{encoded(ED25519 + self.public_key)}"

    def signed(self, text: str, signature: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself: the tree of its first `size` events has this root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"


def read_verifier(text: str) -> Verifier:
    """The verifier from its text. Raises BadNote."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise BadNote("a verifier key must look like name+hash+key")
    verifier = Verifier(checked_name(parts[0]), key_bytes(parts[2]))
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
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > _LARGEST_SIZE:
        raise BadNote("the checkpoint's second line must be the tree's size")
    root = decoded(lines[2])
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
    name, _, text = line.removeprefix(SIGNATURE_START).partition(" ")
    if not line.startswith(SIGNATURE_START) or not _NAME.fullmatch(name):
        raise BadNote("a signature line must be a dash, a name and a signature")
    signature = decoded(text)
    if len(signature) < 5:
        raise BadNote("a signature is too short")
    return name, signature


def checked_name(name: str) -> str:
    """The name of a key or log. Raises BadNote unless it can be one."""
    if not _NAME.fullmatch(name):
        raise BadNote("a key's name must have no white space and no plus sign")
    return name


def key_bytes(text: str) -> bytes:
    """The 32 bytes of an Ed25519 key in its text form. Raises BadNote."""
    key = decoded(text)
    if key[:1] != ED25519 or len(key) != 1 + _KEY_BYTES:
        raise BadNote("the key is not an Ed25519 key")
    return key[1:]


def encoded(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def decoded(text: Any) -> bytes:
    """Bytes from base64. Raises BadNote, also for what a hostile file holds in place of text."""
    if not isinstance(text, str):
        raise BadNote("base64 text was expected")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise BadNote("not valid base64") from None


# ---- the tree of RFC 6962 and RFC 9162 ----


def event_entry(
    position: int, originator_id: object, version: int, topic: str, state: bytes
) -> bytes:
    """The canonical bytes of a stored event, of which its leaf is made.

    Big-endian, in this order: position (8 bytes), version (8), length of the originator's id in
    bytes (2) and the id as text in UTF-8, length of the topic (2) and the topic in UTF-8, and the
    SHA-256 of the state (32). It is the state's digest and not the state, so that an entry always
    fits the 65 535 bytes of an entry bundle, and a bundle does not disclose the contents.
    """
    originator, name = str(originator_id).encode(), topic.encode()
    return _entry_form(len(originator), len(name)).pack(
        position,
        version,
        len(originator),
        originator,
        len(name),
        name,
        sha256(state).digest(),
    )


@lru_cache(maxsize=256)
def _entry_form(originator_bytes: int, topic_bytes: int) -> struct.Struct:
    return struct.Struct(f">QQH{originator_bytes}sH{topic_bytes}s32s")


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbouring subtrees."""
    return sha256(b"\x01" + left + right).digest()


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks (RFC 9162, 2.1.3.2) that a leaf is in the tree with this root. Raises NotProved."""
    if not 0 <= index < size:
        raise NotProved(f"there is no leaf {index} in a tree of {size}")
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise NotProved("the proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise NotProved("the proof is too short")
    if computed != root:
        raise NotProved("the event is not the one that was sealed")


def check_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """Checks (RFC 9162, 2.1.4.2) that the second tree begins with the first. Raises NotProved."""
    if not 0 < first <= second:
        raise NotProved(f"a tree of {first} leaves cannot have grown into one of {second}")
    if first == second:
        if proof or first_root != second_root:
            raise NotProved("two trees of one size are the same only with the same root")
        return
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise NotProved("the proof is too short")
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise NotProved("the proof is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise NotProved("the proof is too short")
    if (old, new) != (first_root, second_root):
        why = "it was rewritten, which is a forked log"
        raise NotProved(f"the later log does not begin with the earlier: {why}")


# ---- the script ----


def described(event: dict[str, Any]) -> str:
    """Type, image, actor and time of an event, as far as its state has them."""
    text = f"{event['topic']}, version {event['originator_version']} of {event['originator_id']}"
    try:
        state = json.loads(decoded(event["state"]))
        actor, time = state["actor"], state["timestamp"]
        text += f", by {actor['user'] or '-'}@{actor['project'] or '-'} at {time}"
    except (ValueError, KeyError, TypeError):
        pass
    # Names come from outside: nothing of them may steer a terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def verify_event(proof: dict[str, Any], key: Verifier, note: str | None) -> str:
    """What is proved of an event, as text."""
    if note is None and proof["checkpoint"] is None:
        raise NotProved("the proof needs the checkpoint that it was asked for: give --checkpoint")
    checkpoint = signed_by(key, note or proof["checkpoint"])
    event, index = proof["event"], proof["leaf_index"]
    if checkpoint.size != proof["tree_size"]:
        raise NotProved("the proof is for a tree of another size than the checkpoint's")
    if index != event["position"] - 1:
        raise NotProved("the event's position does not fit the tree")
    name = proof.get("position", "an event")  # Older proofs do not name it.
    if "position" in proof and not (
        re.fullmatch("p[0-9a-f]{12}-[0-9a-f]{1,15}", name)
        and int(name.rpartition("-")[2], 16) == event["position"]
    ):
        raise NotProved("the event's position is not the one that the proof names")
    entry = event_entry(
        event["position"],
        event["originator_id"],
        event["originator_version"],
        event["topic"],
        decoded(event["state"]),
    )
    path = [decoded(part) for part in proof["inclusion"]]
    check_inclusion(leaf_hash(entry), index, checkpoint.size, path, checkpoint.root)
    return f"proved: {name}, {described(event)}, is in the log of {key.name}"


def verify_growth(proof: dict[str, Any], key: Verifier, notes: list[str]) -> str:
    """What is proved of two checkpoints, as text."""
    if len(notes) != 2:
        raise NotProved("a proof of consistency is about two checkpoints: give --checkpoint twice")
    old, new = sorted((signed_by(key, note) for note in notes), key=lambda point: point.size)
    if (old.size, new.size) != (proof["from"], proof["to"]):
        raise NotProved(
            f"the proof is about trees of {proof['from']} and {proof['to']} events, "
            f"and the checkpoints about {old.size} and {new.size}"
        )
    path = [decoded(part) for part in proof["consistency"]]
    check_consistency(old.size, new.size, path, old.root, new.root)
    return (
        f"proved: the log of {key.name} with {new.size} events begins with that of "
        f"{old.size} events"
    )


def signed_by(key: Verifier, note: str) -> Checkpoint:
    """The checkpoint in a note. Raises NotProved unless the key has signed it for its own log."""
    try:
        return open_checkpoint(note, [key])
    except UnknownKey:
        raise NotProved("the given key has not signed the checkpoint") from None


def verify(proof: dict[str, Any], key_text: str, notes: list[str]) -> str:
    """What is proved, as text. Raises NotProved or another exception."""
    key = read_verifier(key_text)
    if proof["format"] == "calotype-consistency-proof-1":
        return verify_growth(proof, key, notes)
    if proof["format"] != "calotype-event-proof-1":
        raise NotProved("the file is not a proof of a form that this script knows")
    if len(notes) > 1:
        raise NotProved("the proof of an event needs one checkpoint")
    return verify_event(proof, key, notes[0] if notes else None)


def text_or_file(given: str) -> str:
    """The text itself, or what is in the file of that name."""
    if os.path.isfile(given):
        return text_of(given)
    return given


def text_of(path: str) -> str:
    """What is in the file, its line ends as they are."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def main() -> int:
    """Runs the script; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("proof", help="the file with the proof")
    parser.add_argument("--key", required=True, help="verifier key, or a file that holds it")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        help="file with a signed checkpoint to trust instead of the proof's; repeatable",
    )
    parser.add_argument("--show", action="store_true", help="print the event's state")
    options = parser.parse_args()
    try:
        proof = json.loads(text_of(options.proof))
        notes = [text_of(path) for path in options.checkpoint]
        print(verify(proof, text_or_file(options.key), notes))
        if options.show:
            print(decoded(proof["event"]["state"]).decode("utf-8", "replace"))
    except NotProved as error:
        print(f"NOT PROVED: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        print(f"NOT PROVED: the proof cannot be read: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
