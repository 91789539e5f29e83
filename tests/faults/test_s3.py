"""The whole service on S3: the same promises when the bytes are far away."""

import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from minio import Minio

from calotype.stores.images.keys import MARKER
from tests.backends.seaweedfs import SeaweedFS

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A server of our own, because one test kills it."""
    with SeaweedFS(Path(tmp_path_factory.mktemp("s3"))) as server:
        server.make_bucket("images")
        yield server


@pytest.fixture
def on_s3(make_service: Any, s3: SeaweedFS) -> Any:
    """A running service with its store in the bucket, under a prefix of its own."""
    service = make_service(
        CALOTYPE_STORE__KIND="s3",
        CALOTYPE_STORE__ENDPOINT=s3.endpoint,
        CALOTYPE_STORE__BUCKET="images",
        CALOTYPE_STORE__ACCESS_KEY=s3.access_key,
        CALOTYPE_STORE__SECRET_KEY=s3.secret_key,
        CALOTYPE_STORE__PREFIX=os.urandom(4).hex() + "/",
        CALOTYPE_STORE__TIMEOUT_SECONDS="5",
        CALOTYPE_LEASES__PROCESS_SECONDS="2",
        CALOTYPE_LEASES__LEADER_SECONDS="2",
        CALOTYPE_HTTP__SHOW_MULTIPLE_LOCATIONS="true",
        CALOTYPE_HTTP__SHOW_IMAGE_DIRECT_URL="true",
    )
    service.start()
    return service


def _create(service: Any) -> str:
    answer = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30)
    return str(answer.json()["id"])


def _keys(service: Any, s3: SeaweedFS) -> tuple[list[str], list[str]]:
    """The objects and the open multipart uploads below the service's prefix."""
    client = Minio(
        s3.endpoint.removeprefix("http://"),
        s3.access_key,
        s3.secret_key,
        secure=False,
        region="us-east-1",
    )
    prefix = service.environment["CALOTYPE_STORE__PREFIX"]
    objects = client.list_objects("images", prefix=prefix, recursive=True)
    uploads = client._list_multipart_uploads("images", prefix=prefix).uploads
    names = [str(found.object_name) for found in objects]
    return [name for name in names if name != prefix + MARKER], [u.object_name for u in uploads]


@pytest.mark.parametrize("size", [0, 3, (8 << 20) + 1, 21 << 20])
def test_bytes_go_to_s3_and_come_back_and_go(
    on_s3: Any, s3: SeaweedFS, size: int, until: Any
) -> None:
    data = os.urandom(size)
    image_id = _create(on_s3)
    url = f"{on_s3.url}/v2/images/{image_id}"
    assert requests.put(f"{url}/file", data=data, headers=OCTETS, timeout=60).status_code == 204
    assert requests.get(f"{url}/file", timeout=60).content == data
    if size > 100:
        part = requests.get(f"{url}/file", headers={"Range": "bytes=50-1049"}, timeout=60)
        assert (part.status_code, part.content) == (206, data[50:1050])
    shown = requests.get(url, timeout=30)
    assert shown.json()["direct_url"].startswith("s3+http://127.0.0.1:")
    assert s3.secret_key not in shown.text
    assert s3.access_key not in shown.text
    assert requests.delete(url, timeout=30).status_code == 204
    until(lambda: _keys(on_s3, s3) == ([], []))
    assert s3.secret_key not in "".join(on_s3.lines)


def test_unknown_length_is_streamed(on_s3: Any) -> None:
    image_id = _create(on_s3)
    url = f"{on_s3.url}/v2/images/{image_id}/file"
    blocks = [os.urandom(1 << 20) for _ in range(12)]
    assert requests.put(url, data=iter(blocks), headers=OCTETS, timeout=60).status_code == 204
    assert requests.get(url, timeout=60).content == b"".join(blocks)


def test_a_kill_in_mid_upload_leaves_nothing(on_s3: Any, s3: SeaweedFS, until: Any) -> None:
    image_id = _create(on_s3)
    connection = socket.create_connection(("127.0.0.1", on_s3.port), timeout=30)
    connection.sendall(
        f"PUT /v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {64 << 20}\r\n\r\n".encode()
    )
    connection.sendall(b"x" * (20 << 20))
    until(lambda: _keys(on_s3, s3)[1])
    on_s3.kill()
    connection.close()
    on_s3.start()
    url = f"{on_s3.url}/v2/images/{image_id}"
    until(lambda: requests.get(url, timeout=30).json()["status"] == "queued")
    until(lambda: _keys(on_s3, s3) == ([], []))  # Nobody calls reconcile.
    assert requests.put(f"{url}/file", data=b"abc", headers=OCTETS, timeout=30).status_code == 204


def test_a_location_set_by_hand_makes_a_queued_image_active(on_s3: Any) -> None:
    first, second = _create(on_s3), _create(on_s3)
    url = f"{on_s3.url}/v2/images"
    requests.put(f"{url}/{first}/file", data=b"owned", headers=OCTETS, timeout=30)
    owned = requests.get(f"{url}/{first}", timeout=30).json()["locations"][0]["url"]
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}

    def add(image_id: str, place: str) -> requests.Response:
        value = {"url": place, "metadata": {}}
        change = [{"op": "add", "path": "/locations/-", "value": value}]
        return requests.patch(f"{url}/{image_id}", json=change, headers=media, timeout=30)

    assert add(second, owned).status_code == 403  # The bytes of another image.
    assert add(second, owned + "x").status_code == 400  # Nothing is there.
    assert add(second, "file:///etc/passwd").status_code == 400
    client = Minio(
        on_s3.environment["CALOTYPE_STORE__ENDPOINT"].removeprefix("http://"),
        on_s3.environment["CALOTYPE_STORE__ACCESS_KEY"],
        on_s3.environment["CALOTYPE_STORE__SECRET_KEY"],
        secure=False,
        region="us-east-1",
    )
    name = on_s3.environment["CALOTYPE_STORE__PREFIX"] + "by-hand"
    client.put_object("images", name, io.BytesIO(b"put there by hand"), 17)
    by_hand = owned.rpartition("/")[0] + "/by-hand"
    answer = add(second, by_hand)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["size"]) == ("active", 17)
    assert requests.get(f"{url}/{second}/file", timeout=30).content == b"put there by hand"
    assert add(second, by_hand).status_code == 400  # It is there already.
    last = [{"op": "remove", "path": "/locations/0"}]
    assert (
        requests.patch(f"{url}/{second}", json=last, headers=media, timeout=30).status_code == 403
    )


def test_a_dead_store_refuses_and_the_image_can_be_uploaded_later(
    on_s3: Any, s3: SeaweedFS, until: Any
) -> None:
    image_id = _create(on_s3)
    url = f"{on_s3.url}/v2/images/{image_id}"
    s3.kill()
    refused = requests.put(f"{url}/file", data=b"x" * 1000, headers=OCTETS, timeout=60)
    assert refused.status_code == 503
    assert requests.get(url, timeout=30).json()["status"] == "queued"
    s3.start()
    until(
        lambda: (
            requests.put(f"{url}/file", data=b"abc", headers=OCTETS, timeout=60).status_code == 204
        )
    )
