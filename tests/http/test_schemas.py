"""The schema documents say what the service does, and glanceclient can work with them."""

import argparse
import json
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
import warlock
from glanceclient.common.utils import schema_args
from glanceclient.v2.schemas import Schema, SchemaBasedModel
from hypothesis import given
from hypothesis import strategies as some

from calotype.commands.errors import CalotypeError
from calotype.commands.images import fields
from calotype.commands.images.operations import Operation
from calotype.http.v2.patch import V21, parse_patch
from calotype.http.v2.schemas import BASE_PROPERTIES, READ_ONLY, image_schema, schema_document

NAMES = ("image", "images", "member", "members")
PROPERTIES_OF_THE_REFERENCE = {
    "id", "name", "status", "visibility", "protected", "os_hidden", "owner", "disk_format",
    "container_format", "min_disk", "min_ram", "tags", "size", "virtual_size", "checksum",
    "os_hash_algo", "os_hash_value", "created_at", "updated_at", "direct_url", "locations",
    "stores", "self", "file", "schema",
}  # fmt: skip
PROPERTIES_OF_THE_SHIPPED_FILE = {
    "kernel_id", "ramdisk_id", "instance_uuid", "architecture", "os_distro", "os_version",
    "description", "cinder_encryption_key_id", "cinder_encryption_key_deletion_policy",
}  # fmt: skip


def document(name: str) -> dict[str, Any]:
    written = schema_document(name)
    assert written is not None
    return json.loads(written)


def image_model() -> type[SchemaBasedModel]:
    """The class that glanceclient makes of our document, made as glanceclient makes it."""
    return warlock.model_factory(Schema(document("image")).raw(), base_class=SchemaBasedModel)


def patch_of(image: SchemaBasedModel) -> set[Operation]:
    """What we understand when glanceclient sends its changes of the image."""
    return set(parse_patch(V21, json.loads(image.patch)))


@pytest.mark.parametrize("name", NAMES)
def test_every_document_is_a_json_schema_under_its_own_name(name):
    jsonschema.Draft4Validator.check_schema(document(name))
    jsonschema.Draft202012Validator.check_schema(document(name))
    assert document(name)["name"] == name


@pytest.mark.parametrize("name", ["", "Image", "image/", "task", "../image", "\x00"])
def test_there_are_no_other_documents(name):
    assert schema_document(name) is None


def test_an_image_has_the_base_properties_and_those_of_the_shipped_site_file():
    image = document("image")
    assert set(BASE_PROPERTIES) == PROPERTIES_OF_THE_REFERENCE
    assert set(image["properties"]) == PROPERTIES_OF_THE_REFERENCE | PROPERTIES_OF_THE_SHIPPED_FILE
    assert image["additionalProperties"] == {"type": "string"}
    assert [link["rel"] for link in image["links"]] == ["self", "enclosure", "describedby"]
    assert "required" not in image


def test_every_property_is_described():
    for name, schema in document("image")["properties"].items():
        assert schema["description"].endswith("."), name


def test_what_is_marked_read_only_is_what_commands_refuse_to_set():
    assert READ_ONLY == fields.READ_ONLY | fields.HASHES


values = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.sampled_from([*fields.DISK_FORMATS, *fields.CONTAINER_FORMATS, *fields.VISIBILITIES])
    | some.sampled_from([2147483647, 2147483648, "x" * 255, "x" * 256])
    | some.text(some.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]))
    | some.lists(some.text(max_size=3), max_size=2)
    | some.dictionaries(some.text(max_size=3), some.integers(), max_size=2)
)


@given(name=some.sampled_from(sorted(fields.WRITABLE)), value=values)
def test_the_schema_allows_exactly_the_values_that_commands_take(name, value):
    try:
        fields.check_field(name, value)
        taken = True
    except CalotypeError:
        taken = False
    validator = jsonschema.Draft202012Validator(BASE_PROPERTIES[name])
    assert validator.is_valid(value) == taken


@given(name=some.sampled_from(sorted(PROPERTIES_OF_THE_SHIPPED_FILE) + ["other"]), value=values)
def test_the_schema_allows_exactly_the_custom_properties_that_commands_take(name, value):
    try:
        fields.check_property(name, value)
        taken = True
    except CalotypeError:
        taken = False
    validator = jsonschema.Draft202012Validator(document("image"))
    assert validator.is_valid({name: value}) == taken


def test_glanceclient_can_create_an_image_with_everything_that_may_be_set():
    wish = {
        "id": str(uuid4()), "name": "x", "visibility": "community", "protected": True,
        "os_hidden": False, "owner": "mine", "disk_format": "qcow2", "container_format": "bare",
        "min_disk": 1, "min_ram": 2, "tags": ["a"], "os_distro": "debian", "kernel_id": None,
        "anything": "else",
    }  # fmt: skip
    image = image_model()()
    for name, value in wish.items():
        setattr(image, name, value)  # This is how its `images.create` takes its arguments.
    assert dict(image) == wish


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 1), ("name", "x" * 256), ("min_disk", -1), ("min_ram", "1"), ("protected", "no"),
        ("visibility", "secret"), ("disk_format", "floppy"), ("container_format", "tar"),
        ("id", "x"), ("tags", "a"), ("tags", [1]), ("kernel_id", "vmlinuz"), ("other", 1),
        ("cinder_encryption_key_deletion_policy", "perhaps"),
    ],
)  # fmt: skip
def test_glanceclient_refuses_by_itself_what_the_service_would_refuse(name, value):
    image = image_model()()
    with pytest.raises(warlock.InvalidOperation):
        setattr(image, name, value)


def test_glanceclient_updates_with_operations_that_the_service_takes():
    image = image_model()(name="old", os_distro="debian", gone="x", kept="x")
    image.name = "new"
    image.min_disk = 3  # Base and not there before: must be replaced.
    image.os_version = "13"  # Of the site and not there before: must be added.
    image.other = "y"
    image.os_distro = "alpine"
    del image["gone"]
    assert patch_of(image) == {
        Operation("replace", ("name",), "new"),
        Operation("replace", ("min_disk",), 3),
        Operation("add", ("os_version",), "13"),
        Operation("add", ("other",), "y"),
        Operation("replace", ("os_distro",), "alpine"),
        Operation("remove", ("gone",)),
    }


def test_glanceclient_knows_base_properties_from_those_of_the_site():
    schema = Schema(document("image"))
    assert all(schema.is_base_property(name) for name in PROPERTIES_OF_THE_REFERENCE)
    for name in PROPERTIES_OF_THE_SHIPPED_FILE:
        assert schema.is_core_property(name)
        assert not schema.is_base_property(name)
    assert not schema.is_core_property("other")


def test_glance_on_the_command_line_offers_what_may_be_set_and_nothing_read_only():
    command = SimpleNamespace()
    schema_args(lambda: document("image"))(command)
    parser = argparse.ArgumentParser()
    for names, options in command.arguments:
        parser.add_argument(*names, **options)
    offered = {names[0].removeprefix("--").replace("-", "_") for names, _ in command.arguments}
    assert offered == set(document("image")["properties"]) - READ_ONLY
    assert "--min-disk" in parser.format_help()
    given_options = parser.parse_args(["--min-disk", "3", "--protected", "True", "--tags", "a"])
    assert (given_options.min_disk, given_options.protected) == (3, True)


async def test_what_the_service_shows_fulfils_its_own_schemas(admin):
    made = [
        await admin.create(),
        await admin.create_active(name="n", tags=["a"], kernel_id=None, other="x"),
    ]
    shared = f"/v2/images/{made[0]['id']}/members"
    assert (await admin("POST", shared, json={"member": "yours"})).status == 200
    shown = [
        *(("image", image) for image in made),
        ("images", (await admin("GET", "/v2/images?limit=1")).json),
        ("member", (await admin("GET", f"{shared}/yours")).json),
        ("members", (await admin("GET", shared)).json),
    ]
    for name, body in shown:
        served = await admin("GET", f"/v2/schemas/{name}")
        jsonschema.Draft202012Validator(served.json).validate(body)
        assert set(body) <= set(served.json["properties"]) | {"other"}, name


SITE = {"rack": {"type": "string", "description": "Where it stands.", "maxLength": 3}}


@pytest.mark.parametrize("written", [SITE, {"properties": SITE}])
def test_a_site_adds_typed_properties_in_either_form_of_its_file(written):
    schema = image_schema(written)
    assert schema["properties"]["rack"] == {**SITE["rack"], "is_base": False}
    assert set(schema["properties"]) == set(BASE_PROPERTIES) | {"rack"}
    assert "required" not in schema
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"rack": "7"})
    assert not validator.is_valid({"rack": "1234"})


def test_a_site_may_require_properties():
    schema = image_schema({"properties": SITE, "required": ["rack"]})
    assert not jsonschema.Draft202012Validator(schema).is_valid({})


def test_a_site_may_not_redefine_a_base_property_but_may_repeat_it():
    with pytest.raises(ValueError, match="'size'"):
        image_schema({"size": {"type": "string"}})
    repeated = image_schema({"size": BASE_PROPERTIES["size"]})
    assert repeated["properties"]["size"] == BASE_PROPERTIES["size"]


def test_making_a_site_schema_changes_neither_its_argument_nor_the_base():
    before = json.dumps([SITE, BASE_PROPERTIES])
    image_schema(SITE)
    assert json.dumps([SITE, BASE_PROPERTIES]) == before
