"""Secrets and signatures as Standard Webhooks 1.0 defines them.

A message is signed with HMAC-SHA256 over its id, the time of the attempt and its body, so that
a receiver knows who sent it, that nobody changed it, and that it is not an old one sent again.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Sequence
from uuid import NAMESPACE_URL, uuid5

PREFIX = "whsec_"
SECRET_BYTES = 32
"""How long new secrets are; the standard takes 24 to 64 bytes."""
CONTENT_TYPE = "application/cloudevents+json"


def new_secret() -> str:
    """A fresh secret in the form that the standard's libraries take."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def message_id(source: str, position: str) -> str:
    """The id of an event's message: the same at each try and from each process."""
    return str(uuid5(NAMESPACE_URL, f"{source}:{position}"))


def signed_headers(
    message: str, timestamp: int, body: bytes, valid_secrets: Sequence[str]
) -> dict[str, str]:
    """The headers of one attempt: id, time in seconds since 1970, and a signature a secret."""
    signatures = [_signature(secret, message, timestamp, body) for secret in valid_secrets]
    return {
        "Content-Type": CONTENT_TYPE,
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, message: str, timestamp: int, body: bytes) -> str:
    signed = f"{message}.{timestamp}.".encode() + body
    digest = hmac.digest(_key(secret), signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        # The message of the library would show a part of it.
        raise ValueError("a secret is not valid base64") from None
