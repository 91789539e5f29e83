#!/usr/bin/env python3
"""Checks an exported proof of one event, offline: `verify_proof.py PROOF --key VERIFIER_KEY`.

Stands alone: needs Python 3.9 or newer and the package `cryptography`, and nothing of Calotype.
VERIFIER_KEY is the text `name+hash+key` that the operator published (or a file that holds it); get
it from elsewhere than the proof. With --checkpoint FILE the signed checkpoint is taken from there.

Exit code 0: the event was in the log when the checkpoint was signed. 1: it is not proved.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import struct
import sys
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class NotProved(Exception):
    """Why the proof proves nothing."""


def decoded(text: Any) -> bytes:
    """Bytes from base64; whatever else a hostile file holds in its place is refused."""
    if not isinstance(text, str):
        raise NotProved("base64 text was expected")
    return base64.b64decode(text, validate=True)


def read_key(text: str) -> tuple[str, bytes, bytes]:
    """(name, key hash, public key) of a verifier key."""
    name, key_hash, encoded = text.strip().split("+", 2)
    key = decoded(encoded)
    if key[:1] != b"\x01" or len(key) != 33:
        raise NotProved("the verifier key is not an Ed25519 key")
    if hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_hash:
        raise NotProved("the verifier key's hash does not fit its name and key")
    return name, bytes.fromhex(key_hash), key[1:]


def open_checkpoint(note: str, key: tuple[str, bytes, bytes]) -> tuple[int, bytes]:
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


def root_from(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a leaf and its inclusion path lead to (RFC 9162, 2.1.3.2)."""
    node, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise NotProved("the inclusion path is too long")
        if node & 1 or node == last:
            computed = hashlib.sha256(b"\x01" + sibling + computed).digest()
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            computed = hashlib.sha256(b"\x01" + computed + sibling).digest()
        node, last = node >> 1, last >> 1
    if last != 0:
        raise NotProved("the inclusion path is too short")
    return computed


def verify(proof: dict[str, Any], key_text: str, note: str | None = None) -> str:
    """What is proved, as text. Raises NotProved or another exception."""
    if proof["format"] != "calotype-event-proof-1":
        raise NotProved("the file is not a proof of a form that this script knows")
    size, root = open_checkpoint(note or proof["checkpoint"], read_key(key_text))
    event, index = proof["event"], proof["leaf_index"]
    if size != proof["tree_size"]:
        raise NotProved("the proof is for a tree of another size than the checkpoint's")
    if index != event["position"] - 1 or not 0 <= index < size:
        raise NotProved("the event's position does not fit the tree")
    if root_from(leaf_of(event), index, size, [decoded(part) for part in proof["inclusion"]]) != (
        root
    ):
        raise NotProved("the event is not the one that was sealed")
    return (
        f"proved: {event['topic']}, version {event['originator_version']} of "
        f"{event['originator_id']}, is event {event['position']} of {size} "
        f"under the checkpoint of {key_text.partition('+')[0]}"
    )


def text_or_file(given: str) -> str:
    """The text itself, or what is in the file of that name."""
    if os.path.isfile(given):
        with open(given, encoding="utf-8") as file:
            return file.read()
    return given


def main() -> int:
    """Runs the script; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("proof", help="the file that `calotype audit prove` wrote")
    parser.add_argument("--key", required=True, help="verifier key, or a file that holds it")
    parser.add_argument("--checkpoint", help="file with a signed checkpoint to trust instead")
    parser.add_argument("--show", action="store_true", help="print the event's state")
    options = parser.parse_args()
    try:
        with open(options.proof, encoding="utf-8") as file:
            proof = json.load(file)
        note = None
        if options.checkpoint:
            with open(options.checkpoint, encoding="utf-8", newline="") as file:
                note = file.read()
        print(verify(proof, text_or_file(options.key), note))
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
