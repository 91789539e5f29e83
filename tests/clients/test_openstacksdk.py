"""Programs written for any cloud: openstacksdk against a running service."""

import filecmp
import hashlib
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1.session import Session
from openstack import exceptions
from openstack.connection import Connection

pytestmark = pytest.mark.slow

Connect = Callable[..., Connection]


def _connection(url: str, **headers: str) -> Connection:
    connection = Connection(auth_type="none", endpoint=url, image_endpoint_override=url)
    session = connection.session
    assert isinstance(session, Session)
    session.additional_headers.update(headers)
    return connection


@pytest.fixture
def cloud(service: str) -> Connection:
    """A connection to the service in which everybody is an administrator."""
    return _connection(service)


@pytest.fixture
def connection_as(guarded: str) -> Connect:
    """Makes connections for somebody of a project, as a proxy that checks tokens would tell."""

    def make(project: str, roles: str = "member") -> Connection:
        who = {"X-User-Id": f"user of {project}", "X-Project-Id": project, "X-Roles": roles}
        return _connection(guarded, **who)

    return make


def _create(connection: Connection, name: str, data: bytes = b"some data", **fields: Any) -> Any:
    formats = {"disk_format": "raw", "container_format": "bare"}
    made = connection.image.create_image(name, data=data, **formats, **fields)
    # What the client returns is from before the upload.
    return connection.image.get_image(made.id)


def _life_of_an_image(cloud: Connection, disk: Path, folder: Path) -> None:
    name = f"life {uuid.uuid4().hex}"
    image = cloud.image.create_image(
        name,
        filename=str(disk),
        disk_format="qcow2",
        container_format="bare",
        tags=["boot"],
        validate_checksum=True,
        os_distro="debian",
        colour="warm",
    )
    content = disk.read_bytes()
    found = cloud.image.find_image(name)
    assert found is not None
    assert (found.id, found.status, found.size) == (image.id, "active", len(content))
    assert found.checksum == hashlib.md5(content).hexdigest()
    assert found.hash_value == hashlib.sha512(content).hexdigest()
    assert (found.os_distro, found.properties["colour"]) == ("debian", "warm")

    changed = cloud.image.update_image(image, name=f"{name} 2", min_disk=3, note="changed")
    assert (changed.name, changed.min_disk, changed.properties["note"]) == (
        f"{name} 2",
        3,
        "changed",
    )
    cloud.image.add_tag(image, "second")
    cloud.image.remove_tag(image, "boot")
    assert cloud.image.get_image(image.id).tags == ["second"]

    saved = folder / "saved.qcow2"
    cloud.image.download_image(image, output=str(saved))
    assert filecmp.cmp(saved, disk, shallow=False)
    with cloud.image.download_image(image, stream=True) as response:
        streamed = hashlib.sha512()
        for chunk in response.iter_content(65536):
            streamed.update(chunk)
    assert streamed.hexdigest() == found.hash_value

    cloud.image.deactivate_image(image)
    assert cloud.image.get_image(image.id).status == "deactivated"
    cloud.image.reactivate_image(image)
    assert cloud.image.get_image(image.id).status == "active"
    cloud.image.delete_image(image, ignore_missing=False)
    assert cloud.image.find_image(name) is None
    with pytest.raises(exceptions.NotFoundException):
        cloud.image.get_image(image.id)


def test_an_image_lives_on_the_embedded_log(cloud: Connection, qcow2: Path, tmp_path: Path) -> None:
    _life_of_an_image(cloud, qcow2, tmp_path)


def test_an_image_lives_on_postgresql(
    service_on_postgres: str, qcow2: Path, tmp_path: Path
) -> None:
    _life_of_an_image(_connection(service_on_postgres), qcow2, tmp_path)


def test_data_in_memory_is_uploaded_and_read_back(cloud: Connection) -> None:
    image = _create(cloud, "in memory", b"in memory \x00\xff")
    assert image.status == "active"
    assert cloud.image.download_image(image).content == b"in memory \x00\xff"
    other = _create(cloud, "from a file", io.BytesIO(b"file"))  # type: ignore[arg-type]
    assert cloud.image.download_image(other).content == b"file"


def test_the_list_is_paged_and_filtered(cloud: Connection) -> None:
    tag = uuid.uuid4().hex
    post = cloud.image.post
    made = [
        post("/images", json={"name": f"{number:02}", "tags": [tag], "os_hidden": number > 40})
        for number in range(45)
    ]
    ids = [answer.json()["id"] for answer in made]
    listed = [image.id for image in cloud.image.images(tag=tag, limit=20, sort="name:asc")]
    assert listed == ids[:41]
    newest_first = [image.name for image in cloud.image.images(tag=tag, sort="name:desc")]
    assert newest_first == [f"{number:02}" for number in reversed(range(41))]
    assert {image.id for image in cloud.image.images(tag=tag, is_hidden=True)} == set(ids[41:])
    assert [image.id for image in cloud.image.images(tag=tag, name="07")] == [ids[7]]
    assert list(cloud.image.images(tag=tag, status="active")) == []
    assert list(cloud.image.images(tag=tag, visibility="public")) == []
    with pytest.raises(exceptions.BadRequestException, match="sort"):
        list(cloud.image.images(tag=tag, sort="colour:asc"))


def test_hidden_protected_and_visibility_are_changed(cloud: Connection) -> None:
    image = _create(cloud, f"changing {uuid.uuid4().hex}")
    cloud.image.update_image(image, is_hidden=True, is_protected=True, visibility="public")
    shown = cloud.image.get_image(image.id)
    assert (shown.is_hidden, shown.is_protected, shown.visibility) == (True, True, "public")
    assert image.id not in [one.id for one in cloud.image.images(name=image.name)]
    with pytest.raises(exceptions.ForbiddenException, match="is protected and cannot be deleted"):
        cloud.image.delete_image(image)
    cloud.image.update_image(image, is_hidden=False, is_protected=False, visibility="private")
    assert image.id in [one.id for one in cloud.image.images(name=image.name)]
    cloud.image.delete_image(image, ignore_missing=False)


def test_a_shared_image_is_accepted_by_its_member(connection_as: Connect) -> None:
    owner, friend = connection_as("owner"), connection_as("friend")
    image = _create(owner, f"offered {uuid.uuid4().hex}", b"offered", visibility="shared")
    assert friend.image.find_image(image.name) is None
    owner.image.add_member(image, member_id="friend")
    with pytest.raises(exceptions.ConflictException):
        owner.image.add_member(image, member_id="friend")
    with pytest.raises(exceptions.ForbiddenException):
        owner.image.update_member("friend", image, status="accepted")
    assert owner.image.get_member("friend", image).status == "pending"
    assert [one.id for one in friend.image.images(member_status="pending")] == [image.id]

    friend.image.update_member("friend", image, status="accepted")
    assert [one.status for one in owner.image.members(image)] == ["accepted"]
    seen = friend.image.find_image(image.name)
    assert seen is not None
    assert friend.image.download_image(seen).content == b"offered"
    with pytest.raises(exceptions.ForbiddenException):
        friend.image.delete_image(image)

    owner.image.remove_member("friend", image, ignore_missing=False)
    assert list(owner.image.members(image)) == []
    with pytest.raises(exceptions.NotFoundException):
        friend.image.get_image(image.id)


def test_only_administrators_publish(connection_as: Connect) -> None:
    user, stranger = connection_as("user"), connection_as("stranger")
    image = _create(user, "to be published")
    with pytest.raises(exceptions.ForbiddenException):
        user.image.update_image(image.id, visibility="public")
    assert user.image.get_image(image.id).visibility == "shared"
    with pytest.raises(exceptions.NotFoundException):
        stranger.image.get_image(image.id)
    operator = connection_as("operations", "admin")
    operator.image.update_image(image.id, visibility="public")
    assert stranger.image.get_image(image.id).visibility == "public"


def test_refusals_arrive_as_the_exceptions_that_programs_catch(cloud: Connection) -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(exceptions.NotFoundException, match=unknown):
        cloud.image.get_image(unknown)
    assert cloud.image.find_image(unknown) is None
    with pytest.raises(exceptions.NotFoundException):
        cloud.image.find_image(unknown, ignore_missing=False)
    cloud.image.delete_image(unknown)
    with pytest.raises(exceptions.NotFoundException):
        cloud.image.delete_image(unknown, ignore_missing=False)

    image = _create(cloud, "once")
    answer = cloud.image.post("/images", json={"id": image.id})
    with pytest.raises(exceptions.ConflictException, match="409 Conflict"):
        exceptions.raise_from_response(answer)
    image.data = b"twice"
    with pytest.raises(exceptions.ConflictException):
        exceptions.raise_from_response(image.upload(cloud.image))
    with pytest.raises(exceptions.BadRequestException):
        cloud.image.update_image(image.id, min_disk=-1)
    # This client sends an empty Accept with a PATCH and reads no text/plain: only the class counts.
    with pytest.raises(exceptions.ForbiddenException):
        cloud.image.update_image(image.id, disk_format="qcow2")
    assert cloud.image.download_image(image).content == b"some data"


def test_a_cloud_level_caller_creates_waits_and_deletes(cloud: Connection, qcow2: Path) -> None:
    """The calls of `openstack.connect()` itself, as Ansible's modules use them."""
    name = f"cloud {uuid.uuid4().hex}"
    content = qcow2.read_bytes()
    options: dict[str, Any] = {
        "filename": str(qcow2),
        "disk_format": "qcow2",
        "container_format": "bare",
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "validate_checksum": True,
    }
    image = cloud.create_image(name, wait=True, timeout=30, **options)
    # The client finds what it uploaded before by the digests that it left as properties.
    again = cloud.create_image(name, wait=True, timeout=30, **options)
    assert again.id == image.id
    shown = cloud.get_image(name)
    assert (shown.status, shown.size) == ("active", qcow2.stat().st_size)
    assert image.id in [one.id for one in cloud.list_images()]
    assert cloud.delete_image(name)
    assert cloud.get_image(name) is None
