"""Limits as an operator registers them at a terminal, and as python-glanceclient meets them."""

import io
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from glanceclient import exc
from glanceclient.v2.client import Client

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
FORMATS = {"disk_format": "raw", "container_format": "bare"}


@pytest.fixture
def kind(keystone: Any) -> str:
    """The type of a service that nobody else registers limits for."""
    kind = f"image-{uuid.uuid4().hex[:8]}"
    keystone.accounts.endpoint("http://127.0.0.1:9", kind, kind)
    return kind


@pytest.fixture
def limited(serve: Any, keystone: Any, kind: str, tmp_path: Path) -> Iterator[str]:
    """URL of a service whose limits are registered for that type."""
    asking = {f"CALOTYPE_KEYSTONE__{key.upper()}": text for key, text in keystone.settings.items()}
    limits = {"CALOTYPE_LIMITS__KEYSTONE": "true", "CALOTYPE_LIMITS__SERVICE": kind}
    with serve(
        tmp_path,
        CALOTYPE_IDENTITY__KIND="keystone",
        CALOTYPE_LIMITS__CACHE_SECONDS="0",
        **asking,
        **limits,
    ) as url:
        yield url


def test_limits_registered_with_openstackclient_hold_for_glanceclient(
    limited: str, keystone: Any, kind: str, run_client: Run
) -> None:
    access = {
        "auth-url": keystone.server.url,
        "username": "admin",
        "password": keystone.server.admin_password,
        "project-name": "admin",
        "user-domain-name": "Default",
        "project-domain-name": "Default",
    }
    options = [f"--os-{name}={value}" for name, value in access.items()]
    resources = {
        "image_size_total": "1",
        "image_stage_total": "1",
        "image_count_total": "1",
        "image_count_uploading": "1",
    }
    for resource, limit in resources.items():
        register = ["registered", "limit", "create", "--service", kind]
        run_client("openstack", *options, *register, "--default-limit", limit, resource)
    own = ["limit", "create", "--service", kind, "--project", keystone.projects["red"]]
    run_client("openstack", *options, *own, "--resource-limit", "2", "image_count_total")

    red = Client(limited, token=keystone.token("member"))
    blue = Client(limited, token=keystone.token("neighbour", "blue"))
    image = red.images.create(**FORMATS)
    red.images.upload(image.id, io.BytesIO(b"x" * (1 << 20)))
    other = red.images.create(**FORMATS)
    with pytest.raises(exc.HTTPOverLimit):
        red.images.upload(other.id, io.BytesIO(b"x"))
    with pytest.raises(exc.HTTPOverLimit):
        red.images.create(**FORMATS)
    blue.images.create(**FORMATS)
    with pytest.raises(exc.HTTPOverLimit):
        blue.images.create(**FORMATS)
    assert red.info.get_usage() == {
        "image_size_total": {"usage": 1, "limit": 1},
        "image_stage_total": {"usage": 0, "limit": 1},
        "image_count_total": {"usage": 2, "limit": 2},
        "image_count_uploading": {"usage": 0, "limit": 1},
    }
    assert blue.info.get_usage()["image_count_total"] == {"usage": 1, "limit": 1}
