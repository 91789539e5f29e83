"""Programs written for Glance: python-glanceclient against a running service."""

import hashlib
import io
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glanceclient import exc
from glanceclient.v2.client import Client

pytestmark = pytest.mark.slow

As = Callable[..., Client]


@pytest.fixture
def glance(service: str) -> Client:
    """A client of the service in which everybody is an administrator."""
    return Client(service, token="none is looked at")


@pytest.fixture
def client_as(guarded: str) -> As:
    """Makes clients for somebody of a project, as a proxy that checks tokens would tell."""

    def make(project: str, roles: str = "member") -> Client:
        client = Client(guarded, token="none is looked at")
        who = {"X-User-Id": f"user of {project}", "X-Project-Id": project, "X-Roles": roles}
        client.http_client.session.headers.update(who)
        return client

    return make


def _with_data(client: Client, content: bytes, **fields: Any) -> Any:
    formats = {"disk_format": "raw", "container_format": "bare"}
    image = client.images.create(**{"name": "with data", **formats, **fields})
    client.images.upload(image.id, io.BytesIO(content))
    return client.images.get(image.id)


def test_the_schema_lets_the_client_create_and_update(glance: Client) -> None:
    image = glance.images.create(
        name="drafted", tags=["one"], min_disk=2, visibility="shared", os_distro="debian"
    )
    assert (image.status, image.min_disk, image.visibility) == ("queued", 2, "shared")
    assert image.os_distro == "debian"
    changed = glance.images.update(
        image.id, remove_props=["os_distro"], name="renamed", min_ram=512, flavour="vanilla"
    )
    assert (changed.name, changed.min_ram, changed.flavour) == ("renamed", 512, "vanilla")
    assert "os_distro" not in changed
    assert glance.images.get(image.id).name == "renamed"


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_disk", "two"), ("protected", "maybe"), ("disk_format", "floppy"), ("flavour", 7)],
)
def test_the_schema_makes_the_client_refuse_wrong_values(
    glance: Client, field: str, value: object
) -> None:
    """The client raises TypeError itself; a refusal of the service would be HTTPBadRequest."""
    with pytest.raises(TypeError, match=field):
        glance.images.create(**{"name": "wrong", field: value})


def test_a_list_of_45_is_read_in_pages_of_20_each_image_once(glance: Client) -> None:
    tag = uuid.uuid4().hex
    made = [glance.images.create(name=f"page {number}", tags=[tag]).id for number in range(45)]
    pages = 0
    fetch = glance.http_client.get

    def counting(url: str, **options: Any) -> Any:
        nonlocal pages
        pages += url.startswith("/v2/images?")
        return fetch(url, **options)

    glance.http_client.get = counting
    listed = [image.id for image in glance.images.list(page_size=20, filters={"tag": [tag]})]
    assert pages == 3
    assert len(listed) == 45
    assert set(listed) == set(made)
    by_name = glance.images.list(page_size=20, filters={"tag": [tag]}, sort="name:asc,id:asc")
    names = [image.name for image in by_name]
    assert names == sorted(f"page {number}" for number in range(45))
    limited = glance.images.list(page_size=20, limit=25, filters={"tag": [tag]})
    assert len(list(limited)) == 25
    after = glance.images.list(page_size=20, marker=listed[40], filters={"tag": [tag]})
    assert [image.id for image in after] == listed[41:]


def test_filters_narrow_the_list(glance: Client) -> None:
    tag = uuid.uuid4().hex
    small = _with_data(glance, b"12345", name="small", tags=[tag], colour="warm").id
    large = _with_data(glance, b"1" * 5000, name="large, with comma", tags=[tag, "big"]).id
    empty = glance.images.create(name="empty", tags=[tag], os_hidden=True, protected=True).id

    def found(**filters: Any) -> set[str]:
        given = {"tag": [tag], **filters}
        return {image.id for image in glance.images.list(filters=given)}

    assert found() == {small, large}
    assert found(os_hidden="true") == {empty}
    assert found(os_hidden="true", protected="true", status="queued") == {empty}
    assert found(tag=[tag, "big"]) == {large}
    assert found(colour="warm") == {small}
    assert found(size_min="1000") == {large}
    assert found(size_max="1000") == {small}
    assert found(name='in:small,"large, with comma"') == {small, large}
    assert found(status="in:queued,active") == {small, large}
    assert found(container_format="bare", disk_format="qcow2") == set()
    assert found(created_at="lt:2000-01-01T00:00:00Z") == set()
    assert found(created_at="gt:2000-01-01T00:00:00Z") == {small, large}
    with pytest.raises(exc.HTTPBadRequest, match="400 Bad Request"):
        found(created_at="gt:yesterday")


def test_a_real_disk_comes_back_and_its_checksums_hold(glance: Client, qcow2: Path) -> None:
    image = glance.images.create(name="disk", disk_format="qcow2", container_format="bare")
    with qcow2.open("rb") as disk:
        glance.images.upload(image.id, disk)
    content = qcow2.read_bytes()
    shown = glance.images.get(image.id)
    assert (shown.status, shown.size) == ("active", len(content))
    assert shown.checksum == hashlib.md5(content).hexdigest()
    assert (shown.os_hash_algo, shown.os_hash_value) == (
        "sha512",
        hashlib.sha512(content).hexdigest(),
    )
    data = glance.images.data(image.id)
    assert len(data) == len(content)
    assert b"".join(data) == content


def test_the_client_notices_bytes_that_changed_in_the_store(
    glance: Client, service_folder: Path
) -> None:
    content = f"as it was uploaded {uuid.uuid4()}".encode() * 100
    image = _with_data(glance, content)
    (path,) = [
        path
        for path in (service_folder / "images").rglob("*")
        if path.is_file() and path.read_bytes() == content
    ]
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(OSError, match="Corrupt image download"):
        b"".join(glance.images.data(image.id))


def test_an_image_without_data_has_none_to_send(glance: Client) -> None:
    image = glance.images.create(name="no data yet")
    assert glance.images.data(image.id).wrapped is None


def test_an_upload_that_breaks_off_is_repeated_on_the_same_image(glance: Client) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3 << 20:
                raise EOFError
            return super().read(size)

    image = glance.images.create(name="again", disk_format="raw", container_format="bare")
    with pytest.raises(EOFError):
        glance.images.upload(image.id, Breaking(bytes(8 << 20)))
    # The service hears of the broken connection a moment later.
    deadline = time.monotonic() + 10
    while glance.images.get(image.id).status != "queued":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    glance.images.upload(image.id, io.BytesIO(b"whole"))
    assert b"".join(glance.images.data(image.id)) == b"whole"


def test_tags_come_and_go_one_by_one(glance: Client) -> None:
    image = glance.images.create(name="tagged", tags=["first"])
    glance.image_tags.update(image.id, "second")
    assert set(glance.images.get(image.id).tags) == {"first", "second"}
    glance.image_tags.delete(image.id, "first")
    assert glance.images.get(image.id).tags == ["second"]
    with pytest.raises(exc.HTTPNotFound):
        glance.image_tags.delete(image.id, "first")


def test_a_shared_image_reaches_the_project_that_accepts_it(client_as: As) -> None:
    owner, friend, stranger = client_as("owner"), client_as("friend"), client_as("stranger")
    image = _with_data(owner, b"to be shared", name=f"shared {uuid.uuid4().hex}")
    with pytest.raises(exc.HTTPNotFound):
        friend.images.get(image.id)

    member = owner.image_members.create(image.id, "friend")
    assert (member.member_id, member.image_id, member.status) == ("friend", image.id, "pending")
    with pytest.raises(exc.HTTPConflict):
        owner.image_members.create(image.id, "friend")
    with pytest.raises(exc.HTTPForbidden):
        owner.image_members.update(image.id, "friend", "accepted")

    def seen(**filters: str) -> bool:
        return image.id in [shown.id for shown in friend.images.list(filters=dict(filters))]

    assert friend.images.get(image.id).name == image.name
    assert not seen()
    assert seen(member_status="pending", visibility="shared")
    assert friend.image_members.update(image.id, "friend", "accepted").status == "accepted"
    assert seen()
    assert b"".join(friend.images.data(image.id)) == b"to be shared"

    owner.image_members.create(image.id, "another")
    assert [one.member_id for one in friend.image_members.list(image.id)] == ["friend"]
    both = {one.member_id: one.status for one in owner.image_members.list(image.id)}
    assert both == {"friend": "accepted", "another": "pending"}
    with pytest.raises(exc.HTTPNotFound):
        list(stranger.image_members.list(image.id))

    with pytest.raises(exc.HTTPForbidden):
        friend.images.update(image.id, name="mine now")
    with pytest.raises(exc.HTTPForbidden):
        friend.images.delete(image.id)
    owner.image_members.delete(image.id, "friend")
    with pytest.raises(exc.HTTPNotFound):
        friend.images.get(image.id)


def test_deactivated_data_is_kept_from_users_but_not_from_administrators(client_as: As) -> None:
    user, admin = client_as("tenant"), client_as("operations", "admin")
    image = _with_data(user, b"suspicious")
    admin.images.deactivate(image.id)
    assert user.images.get(image.id).status == "deactivated"
    with pytest.raises(exc.HTTPForbidden):
        user.images.data(image.id)
    assert b"".join(admin.images.data(image.id)) == b"suspicious"
    admin.images.reactivate(image.id)
    assert b"".join(user.images.data(image.id)) == b"suspicious"


def test_a_reader_may_look_but_not_touch(client_as: As) -> None:
    image = _with_data(client_as("library"), b"book")
    reader = client_as("library", "reader")
    assert reader.images.get(image.id).size == 4
    for forbidden in (
        lambda: reader.images.data(image.id),
        lambda: reader.images.create(name="new"),
        lambda: reader.images.update(image.id, name="other"),
        lambda: reader.images.delete(image.id),
    ):
        with pytest.raises(exc.HTTPForbidden):
            forbidden()


def test_nobody_is_refused_as_unauthorized(guarded: str) -> None:
    with pytest.raises(exc.HTTPUnauthorized, match="401 Unauthorized"):
        Client(guarded, token="none is looked at").images.get(str(uuid.uuid4()))


def test_refusals_arrive_as_the_errors_that_programs_catch(glance: Client) -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(exc.HTTPNotFound, match=f"404 Not Found: .*{unknown}"):
        glance.images.get(unknown)
    image = _with_data(glance, b"once", protected=True)
    with pytest.raises(exc.HTTPConflict, match="409 Conflict"):
        glance.images.create(name="again", id=image.id)
    with pytest.raises(exc.HTTPConflict, match="409 Conflict"):
        glance.images.upload(image.id, io.BytesIO(b"twice"))
    assert b"".join(glance.images.data(image.id)) == b"once"
    with pytest.raises(exc.HTTPForbidden, match="403 Forbidden: .* is protected"):
        glance.images.delete(image.id)
    with pytest.raises(exc.HTTPForbidden, match="403 Forbidden"):
        glance.images.update(image.id, disk_format="qcow2")
    with pytest.raises(exc.HTTPBadRequest, match="400 Bad Request: .*marker"):
        list(glance.images.list(marker=unknown))
    glance.images.update(image.id, protected=False)
    glance.images.delete(image.id)
    with pytest.raises(exc.HTTPNotFound, match="404 Not Found"):
        glance.images.data(image.id)


def test_the_request_id_of_a_caller_comes_back(service: str) -> None:
    client = Client(service, token="none is looked at", global_request_id="req-the-callers")
    image = client.images.create(name="traced")
    assert image.request_ids == ["req-the-callers"]


def test_the_glance_command_keeps_a_disk(
    service: str,
    run_client: Callable[..., subprocess.CompletedProcess[str]],
    glance: Client,
    qcow2: Path,
    tmp_path: Path,
) -> None:
    access = ("glance", "--os-image-url", service, "--os-auth-token", "none")
    formats = ("--disk-format", "qcow2", "--container-format", "bare")
    made = run_client(*access, "image-create", "--name", "typed", *formats, "--file", str(qcow2))
    assert "| status           | active" in made.stdout
    (image_id,) = [image.id for image in glance.images.list(filters={"name": "typed"})]
    assert image_id in run_client(*access, "image-list").stdout
    saved = tmp_path / "saved"
    run_client(*access, "image-download", image_id, "--file", str(saved))
    assert saved.read_bytes() == qcow2.read_bytes()
    refused = run_client(*access, "image-show", str(uuid.uuid4()), code=1)
    assert "404 Not Found" in refused.stderr + refused.stdout
