"""Patches: any JSON is understood or refused, and pointers survive their escapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from calotype.commands.errors import Invalid
from calotype.http.patch import V20, V21, UnsupportedPatchMedia, parse_patch, parse_pointer

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
