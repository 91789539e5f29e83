"""The floor of downloads: nginx with sendfile, or where it is missing a plain loop of our own."""

import os
import shutil
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.backends.processes import free_port
from tests.backends.server import Server, greets

_CONFIGURATION = """
{user}
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ root {files}; }} }}
}}
"""


def nginx_program() -> str | None:
    """The path of nginx, or None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class FileServer(Server):
    """Serves the files below `files` by their names with sendfile, on a port of 127.0.0.1.

    `name` says what it is: "nginx", or "plain sendfile".
    """

    def __init__(self, folder: Path, files: Path) -> None:
        super().__init__(folder)
        self.cwd = Path(__file__).parents[2]
        self._files = files
        self.port = free_port()
        self.name = "plain sendfile" if nginx_program() is None else "nginx"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = _CONFIGURATION.format(
            user="user root;" if os.getuid() == 0 else "",
            folder=self.folder,
            files=self._files,
            port=self.port,
        )
        (self.folder / "nginx.conf").write_text(text)

    def command(self) -> Sequence[str | Path]:
        nginx = nginx_program()
        if nginx is None:
            return [sys.executable, "-m", "tests.bench.sendfile", self._files, str(self.port)]
        return [nginx, "-c", self.folder / "nginx.conf", "-p", self.folder]

    def answers(self) -> bool:
        return greets(self.port, b"", b"")


def _serve(files: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection, files), daemon=True).start()


def _converse(connection: socket.socket, files: Path) -> None:
    received = b""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in received:
                piece = connection.recv(1 << 16)
                if not piece:
                    return
                received += piece
            head, _, received = received.partition(b"\r\n\r\n")
            # Only the last part of the path counts, so nothing outside the folder is reachable.
            name = os.path.basename(head.split(b" ", 2)[1].decode())
            with (files / name).open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size_bytes)
                connection.sendfile(file)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
