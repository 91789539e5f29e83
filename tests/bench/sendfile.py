"""The floor of downloads: nginx with sendfile, or where it is missing a plain loop of our own."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from tests.bench.processes import START_SECONDS, end, free_port

_CONFIGURATION = """
{user}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
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


class FileServer:
    """Serves the files below `files` by their names with sendfile, on a port of 127.0.0.1.

    `name` says what it is: "nginx", or "plain sendfile".
    """

    def __init__(self, folder: Path, files: Path) -> None:
        self._folder = folder
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.name = "plain sendfile" if nginx_program() is None else "nginx"

    @property
    def pid(self) -> int:
        """The process at the root of the server's tree."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return self
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    end(self._process)
                    raise RuntimeError(f"{self.name} did not start: {error}") from None
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        end(self._process)

    def _command(self) -> list[str]:
        nginx = nginx_program()
        if nginx is None:
            arguments = [str(self._files), str(self.port)]
            return [sys.executable, "-m", "tests.bench.sendfile", *arguments]
        configuration = self._folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                user="user root;" if os.getuid() == 0 else "",
                folder=self._folder,
                files=self._files,
                port=self.port,
            )
        )
        return [nginx, "-c", str(configuration), "-p", str(self._folder)]


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


def _end_with_standard_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
