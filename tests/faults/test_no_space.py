"""When there is no room for the bytes: the refusal that Glance gives, and nothing left behind."""

from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_that_does_not_fit_is_413_and_the_image_is_queued_again(
    make_service: Any, announced: bool
) -> None:
    service = make_service()
    service.under = ["prlimit", f"--fsize={5 << 20}"]  # No file of the process can grow further.
    service.start()
    image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30).json()
    url = f"{service.url}/v2/images/{image['id']}"
    data = b"x" * (12 << 20)
    body = data if announced else iter([data[: 6 << 20], data[6 << 20 :]])
    refused = requests.put(f"{url}/file", data=body, headers=OCTETS, timeout=60)
    assert refused.status_code == 413
    shown = requests.get(url, timeout=30).json()
    assert (shown["status"], shown["size"], shown["checksum"]) == ("queued", None, None)
    assert [path for path in (service.folder / "images").rglob("[!.]*") if path.is_file()] == []
    fits = requests.put(f"{url}/file", data=data[: 1 << 20], headers=OCTETS, timeout=60)
    assert fits.status_code == 204
    assert requests.get(f"{url}/file", timeout=30).content == data[: 1 << 20]
