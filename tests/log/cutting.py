"""A real TCP connection between a client and PostgreSQL that can be cut around a COMMIT."""

import socket
import threading
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit

Moment = Literal["before", "after"]


class CuttingLine:
    """Passes bytes on until it is told when to cut: before or after the server has committed.

    `after`: the server's word that it committed is swallowed, and both ends are closed.
    `before`: what the client sends next never arrives.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._server = (parts.hostname, parts.port or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._cut_next: Moment | None = None
        self._lock = threading.Lock()
        self.cuts = 0
        port = self._listening.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def cut_next(self, moment: Moment) -> None:
        """Cuts once, at the next COMMIT."""
        self._cut_next = moment

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                for source, target, moment in (
                    (client, server, "before"),
                    (server, client, "after"),
                ):
                    threading.Thread(
                        target=self._pass_on, args=(source, target, moment), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, moment: Moment) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._cuts(data, moment):
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _cuts(self, data: bytes, moment: Moment) -> bool:
        with self._lock:
            if self._cut_next != moment or (moment == "after" and b"COMMIT\x00" not in data):
                return False
            self._cut_next = None
            self.cuts += 1
            return True
