"""Uploads that a test sends piece by piece, to services whose leases are short."""

import socket
from pathlib import Path
from typing import Any

import requests

from calotype.stores.images.keys import MARKER

SHORT_LEASES = {
    "CALOTYPE_LEASES__PROCESS_SECONDS": "2",
    "CALOTYPE_LEASES__LEADER_SECONDS": "2",
}
FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


def create(service: Any) -> str:
    """A new queued image."""
    answer = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def status(service: Any, image_id: str) -> str:
    """What the API says of an image now."""
    answer = requests.get(f"{service.url}/v2/images/{image_id}", timeout=60)
    return str(answer.json()["status"])


def files(service: Any) -> list[Path]:
    """Everything that lies in the store, finished or not."""
    return left(service.folder / "images")


def left(folder: Path) -> list[Path]:
    """The same for any directory of a store, whose marker does not count."""
    found = folder.rglob("*")
    return [path for path in found if not path.name.startswith(MARKER) and path.is_file()]


class SlowUpload:
    """A `PUT /file` of which the caller sends the rest when it wants."""

    def __init__(self, service: Any, image_id: str, size_bytes: int) -> None:
        self.image_id = image_id
        self._left_bytes = size_bytes
        self._connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        self._connection.sendall(
            f"PUT /v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            "Content-Type: application/octet-stream\r\n"
            f"Content-Length: {size_bytes}\r\n\r\n".encode()
        )

    def send(self, count_bytes: int) -> None:
        """Sends so many more bytes."""
        self._connection.sendall(b"x" * count_bytes)
        self._left_bytes -= count_bytes

    def finish(self) -> None:
        """Sends what is left."""
        self.send(self._left_bytes)

    def answer(self) -> int:
        """The status of the answer, once it comes."""
        head = self._connection.recv(4096)
        self._connection.close()
        return int(head.split(b" ")[1])

    def close(self) -> None:
        """Goes away."""
        self._connection.close()
