#!/usr/bin/env python3
"""Checks a proof of the event log offline: `verify_proof.py PROOF --key VERIFIER_KEY`.

Stands alone: needs Python 3.9 or newer and the package `cryptography`, and nothing of Calotype.
VERIFIER_KEY is the text `name+hash+key` that the operator published (or a file that holds it); get
it from elsewhere than the proof.

PROOF is what `calotype audit prove` or GET /log/v1/proof/inclusion gave: that an event was in the
log when the checkpoint was signed. With --checkpoint FILE the signed checkpoint is taken from
there. Or it is what `calotype audit consistency` or GET /log/v1/proof/consistency gave: that of two
kept checkpoints, both given with --checkpoint, the later log begins with the earlier.

Exit code 0: proved. 1: not proved.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import struct
import sys
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Key = tuple[str, bytes, bytes]


class NotProved(Exception):
    """Why the proof proves nothing."""


def decoded(text: Any) -> bytes:
    """Bytes from base64; whatever else a hostile file holds in its place is refused."""
    if not isinstance(text, str):
        raise NotProved("base64 text was expected")
    return base64.b64decode(text, validate=True)


def read_key(text: str) -> Key:
    """(name, key hash, public key) of a verifier key."""
    name, key_hash, encoded = text.strip().split("+", 2)
    key = decoded(encoded)
    if key[:1] != b"\x01" or len(key) != 33:
        raise NotProved("the verifier key is not an Ed25519 key")
    if hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_hash:
        raise NotProved("the verifier key's hash does not fit its name and key")
    return name, bytes.fromhex(key_hash), key[1:]


def open_checkpoint(note: str, key: Key) -> tuple[int, bytes]:
    """(size, root) of a checkpoint that the key has signed for the log of its name."""
    name, key_hash, public_key = key
    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        raise NotProved("the checkpoint has no signature")
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, encoded = line.split(" ")
        signature = decoded(encoded)
        if (dash, signer, signature[:4]) != ("\u2014", name, key_hash):
            continue
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature[4:], text.encode())
        origin, size, root = text.split("\n")[:3]
        if origin != name:
            raise NotProved("the checkpoint is of another log: " + origin)
        return int(size), decoded(root)
    raise NotProved("the given key has not signed the checkpoint")


def leaf_of(event: dict[str, Any]) -> bytes:
    """The leaf hash of an event; the canonical form is described in docs/audit.md."""
    originator, topic = event["originator_id"].encode(), event["topic"].encode()
    entry = (
        struct.pack(">QQ", event["position"], event["originator_version"])
        + struct.pack(">H", len(originator))
        + originator
        + struct.pack(">H", len(topic))
        + topic
        + hashlib.sha256(decoded(event["state"])).digest()
    )
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_from(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a leaf and its inclusion path lead to (RFC 9162, 2.1.3.2)."""
    node, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise NotProved("the inclusion path is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise NotProved("the inclusion path is too short")
    return computed


def roots_from(first: int, second: int, path: list[bytes], root: bytes) -> tuple[bytes, bytes]:
    """The roots of both trees that a consistency path leads to (RFC 9162, 2.1.4.2).

    `root` is that of the first tree, which the path leaves out where it is a node of the second.
    """
    if first & (first - 1) == 0:
        path = [root, *path]
    if not path:
        raise NotProved("the consistency path is too short")
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise NotProved("the consistency path is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise NotProved("the consistency path is too short")
    return old, new


def described(event: dict[str, Any]) -> str:
    """Type, image, actor and time of an event, as far as its state tells them."""
    told = f"{event['topic']}, version {event['originator_version']} of {event['originator_id']}"
    try:
        state = json.loads(decoded(event["state"]))
        actor, time = state["actor"], state["timestamp"]
        told += f", by {actor['user'] or '-'}@{actor['project'] or '-'} at {time}"
    except (ValueError, KeyError, TypeError):
        pass
    # Names come from outside: nothing of them may steer a terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in told)


def verify_event(proof: dict[str, Any], key: Key, note: str | None) -> str:
    """What is proved of an event, as text."""
    if note is None and proof["checkpoint"] is None:
        raise NotProved("the proof needs the checkpoint that it was asked for: give --checkpoint")
    size, root = open_checkpoint(note or proof["checkpoint"], key)
    event, index = proof["event"], proof["leaf_index"]
    if size != proof["tree_size"]:
        raise NotProved("the proof is for a tree of another size than the checkpoint's")
    if index != event["position"] - 1 or not 0 <= index < size:
        raise NotProved("the event's position does not fit the tree")
    name = proof.get("position", "an event")  # Older proofs do not name it.
    if "position" in proof and not (
        re.fullmatch("p[0-9a-f]{12}-[0-9a-f]{1,15}", name)
        and int(name.rpartition("-")[2], 16) == event["position"]
    ):
        raise NotProved("the event's position is not the one that the proof names")
    if root_from(leaf_of(event), index, size, [decoded(part) for part in proof["inclusion"]]) != (
        root
    ):
        raise NotProved("the event is not the one that was sealed")
    return f"proved: {name}, {described(event)}, is in the log of {key[0]}"


def verify_growth(proof: dict[str, Any], key: Key, notes: list[str]) -> str:
    """What is proved of two checkpoints, as text."""
    if len(notes) != 2:
        raise NotProved("a proof of consistency is about two checkpoints: give --checkpoint twice")
    (first, old), (second, new) = sorted(open_checkpoint(note, key) for note in notes)
    if (first, second) != (proof["from"], proof["to"]):
        raise NotProved(
            f"the proof is about trees of {proof['from']} and {proof['to']} events, "
            f"and the checkpoints about {first} and {second}"
        )
    path = [decoded(part) for part in proof["consistency"]]
    if first == second:
        fits = not path and old == new
    else:
        fits = roots_from(first, second, path, old) == (old, new)
    if not fits or first < 1:
        raise NotProved("the later log does not begin with the earlier: it was rewritten")
    return f"proved: the log of {key[0]} with {second} events begins with that of {first} events"


def verify(proof: dict[str, Any], key_text: str, notes: list[str]) -> str:
    """What is proved, as text. Raises NotProved or another exception."""
    key = read_key(key_text)
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
    except InvalidSignature:
        print("NOT PROVED: the checkpoint's signature is wrong", file=sys.stderr)
        return 1
    except NotProved as error:
        print(f"NOT PROVED: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        print(f"NOT PROVED: the proof cannot be read: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
