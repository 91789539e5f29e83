"""Patches: any JSON is understood or refused, and pointers survive their escapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from calotype.commands.errors import Invalid
from calotype.http.v2.patch import V20, V21, UnsupportedPatchMedia, parse_patch, parse_pointer

leaves = some.none() | some.booleans() | some.integers() | some.floats() | some.text()
anything = some.recursive(
    leaves,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=8,
)
members = some.fixed_dictionaries(
    {},
    optional={
        "op": some.sampled_from(["add", "replace", "remove", "test"]) | anything,
        "path": some.sampled_from(["/a", "/locations/-", "/~2", "a", "/a/b", "//"]) | anything,
        "add": some.just("/a") | anything,
        "remove": some.just("/a") | anything,
        "value": anything,
    },
)
names = some.text(min_size=1).filter(lambda name: name == name.strip())


@given(media=some.sampled_from([V20, V21]), body=anything | some.lists(members | anything))
def test_any_json_body_gives_operations_or_is_refused_as_invalid(media, body):
    try:
        operations = parse_patch(media, body)
    except Invalid:
        return
    assert len(operations) == len(body)
    for operation in operations:
        assert operation.op in ("add", "replace", "remove")
        assert all(isinstance(token, str) for token in operation.path)
        assert len(operation.path) in (1, 2)


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


@given(tokens=some.lists(names, min_size=1, max_size=3))
def test_escaped_tokens_come_back_as_they_were(tokens):
    pointer = "".join("/" + escaped(token) for token in tokens)
    assert parse_pointer(pointer) == tuple(tokens)


@given(name=names, value=anything)
def test_both_media_types_mean_the_same(name, value):
    pointer = "/" + escaped(name)
    for op in ("add", "replace"):
        if name == "locations" and op == "add":
            continue
        (new,) = parse_patch(V21, [{"op": op, "path": pointer, "value": value}])
        (old,) = parse_patch(V20, [{op: pointer, "value": value}])
        assert (new.op, new.path, new.strict) == (op, (name,), False)
        assert (old.op, old.path, old.strict) == (op, (name,), True)


@given(media=some.text(max_size=80) | some.none())
def test_another_media_type_is_refused_and_told_which_are_taken(media):
    with pytest.raises(UnsupportedPatchMedia) as refused:
        parse_patch(media, [])
    assert V20 in refused.value.headers["Accept-Patch"]
    assert V21 in refused.value.headers["Accept-Patch"]


@pytest.mark.parametrize(
    "pointer", ["", "a", "//", "/a/", "//a", "/a//b", "/~", "/~2", "/a~", "/~01~"]
)
def test_a_malformed_pointer_is_refused(pointer):
    with pytest.raises(Invalid):
        parse_pointer(pointer)


@pytest.mark.parametrize(
    ("pointer", "tokens"),
    [("/", ("",)), ("/a~1b", ("a/b",)), ("/~01", ("~1",)), ("/ a ", ("a",)), ("/a/b", ("a", "b"))],
)
def test_pointers_are_unescaped_and_trimmed(pointer, tokens):
    assert parse_pointer(pointer) == tokens


def operations(pointer: str, op: str = "add"):
    return parse_patch(V21, [{"op": op, "path": pointer, "value": "x"}])


@pytest.mark.parametrize("op", ["add", "remove"])
@pytest.mark.parametrize("position", ["-", "0", "17", "x"])
def test_locations_are_added_and_removed_at_a_position(op, position):
    assert operations(f"/locations/{position}", op)[0].path == ("locations", position)


@pytest.mark.parametrize(
    ("pointer", "op"),
    [
        ("/locations", "add"), ("/locations", "remove"), ("/locations/0", "replace"),
        ("/locations/0/url", "add"), ("/tags/-", "add"), ("/tags/0", "remove"),
        ("/name/x", "replace"), ("/a/b/c", "add"),
    ],
)  # fmt: skip
def test_other_depths_are_refused_and_the_path_is_named(pointer, op):
    with pytest.raises(Invalid, match=pointer):
        operations(pointer, op)


def test_locations_are_replaced_as_a_whole_and_escaped_slashes_make_no_depth():
    assert operations("/locations", "replace")[0].path == ("locations",)
    assert operations("/locations~1x")[0].path == ("locations/x",)


@pytest.mark.parametrize(
    ("media", "change", "named"),
    [
        (V21, None, "Operation 1 must be an object"),
        (V21, {}, "'op' must be one of"),
        (V21, {"op": "test", "path": "/a", "value": 1}, "'op' must be one of"),
        (V21, {"op": ["add"], "path": "/a", "value": 1}, "'op' must be one of"),
        (V21, {"op": "add", "value": 1}, "needs a 'path'"),
        (V21, {"op": "add", "path": 7, "value": 1}, "needs a 'path'"),
        (V21, {"op": "add", "path": "/a"}, "needs a 'value'"),
        (V21, {"op": "replace", "path": "/a"}, "needs a 'value'"),
        (V21, {"add": "/a", "value": 1}, "'op' must be one of"),
        (V20, "x", "Operation 1 must be an object"),
        (V20, {"value": 1}, "exactly one member"),
        (V20, {"add": "/a", "replace": "/a", "value": 1}, "exactly one member"),
        (V20, {"op": "add", "path": "/a", "value": 1}, "exactly one member"),
        (V20, {"add": "/a"}, "needs a 'value'"),
    ],
)
def test_a_wrong_shape_is_named_together_with_the_number_of_its_operation(media, change, named):
    good = {"op": "remove", "path": "/a"} if media == V21 else {"remove": "/a"}
    with pytest.raises(Invalid, match=named) as refused:
        parse_patch(media, [good, change])
    assert "Operation 1" in str(refused.value)


@pytest.mark.parametrize("body", [{}, {"op": "add"}, "x", None, 3, True])
def test_a_body_that_is_no_array_is_refused(body):
    with pytest.raises(Invalid, match="JSON array"):
        parse_patch(V21, body)


def test_an_empty_array_asks_for_nothing():
    assert parse_patch(V21, []) == parse_patch(V20, []) == ()


@pytest.mark.parametrize("media", [V21, f"{V21}; charset=utf-8", f" {V21.upper()} "])
def test_parameters_and_case_of_the_media_type_do_not_matter(media):
    assert parse_patch(media, [{"op": "remove", "path": "/a"}])[0].op == "remove"


def test_null_and_false_are_values_like_others_and_a_removal_has_none():
    for value in (None, False, 0, "", []):
        (operation,) = parse_patch(V21, [{"op": "add", "path": "/a", "value": value}])
        assert operation.value is value
    (removal,) = parse_patch(V21, [{"op": "remove", "path": "/a", "value": "ignored"}])
    assert removal.value is None


@pytest.mark.parametrize("media", [None, "", "application/json", "application/json-patch+json"])
def test_the_refusal_of_a_media_type_answers_415(media):
    with pytest.raises(UnsupportedPatchMedia) as refused:
        parse_patch(media, [{"op": "remove", "path": "/a"}])
    assert refused.value.status == 415
