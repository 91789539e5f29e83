"""Property protections: what a file's sections mean, and which sections are refused."""

import configparser
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.commands.errors import Conflict, Forbidden
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import Policy
from calotype.commands.policy.protections import (
    FOUND_EVERYWHERE,
    OPERATIONS,
    BadProtection,
    protections_of,
    readable_by,
    require_change,
    require_property,
)
from calotype.ops.settings.policy_files import load_policy
from calotype.ops.settings.settings import Policy as PolicySettings
from calotype.ops.settings.settings import PropertyProtections, SettingsError

PATTERNS = st.sampled_from([
    "^x_", "x_", "^x_.*$", "[a-c]", "^[^x_.*]", ".*", "^$", "os_glance_x", "b$", "a|b", "(?i)OWNER",
    "^.*$", "^(.*)$", *FOUND_EVERYWHERE,
])  # fmt: skip
ROLES = ["admin", "Member", "reader", "billing", "@", "!", " admin ", ""]
ROLE_VALUES = st.lists(st.sampled_from(ROLES), max_size=4).filter(
    lambda roles: not {"@", "!"} <= set(roles)
)
NAMES = st.sampled_from(["x_a", "ax_", "b", "", "owner_note", "os_glance_secret", "zzz", "x\ny"])
ACTORS = st.builds(
    Actor,
    st.just("alice"),
    st.just("p1"),
    st.frozensets(st.sampled_from(["admin", "member", "reader", "billing"])),
    service_roles=st.frozensets(st.sampled_from(["billing", "service"])),
)
SECTIONS = st.lists(
    st.tuples(PATTERNS, st.fixed_dictionaries(dict.fromkeys(OPERATIONS, ROLE_VALUES))),
    max_size=4,
    unique_by=lambda section: section[0],
)
RULES = {
    "nobody": "!",
    "everyone": "",
    "admins": "rule:context_is_admin",
    "biller": "role:billing",
    "looks": "project_id:%(owner)s or 'private':%(visibility)s or None:%(owner)s",
}


def _meant(sections, actor, operation, name) -> bool:
    """What the file says of one name, worked out without the code under test."""
    if name.startswith("os_glance"):
        return True
    held = {role.lower() for role in (*actor.roles, *actor.service_roles)}
    for pattern, values in sections:
        if pattern.startswith("os_glance") or not re.search(pattern, name):
            continue
        wanted = [role.strip().lower() for role in values[operation]]
        if "!" in wanted:
            return False
        return "@" in wanted or bool(held & set(wanted))
    return False


def _file_of(folder: Path, sections) -> PropertyProtections:
    file = folder / "protections.conf"
    lines = ["# A comment.", "; another"]
    for pattern, values in sections:
        lines.append(f"[{pattern}]")
        lines += [f"{key} = {','.join(roles)}" for key, roles in values.items()]
    file.write_text("\n".join(lines) + "\n")
    return PropertyProtections(file=str(file))


@settings(max_examples=300, deadline=None)
@given(sections=SECTIONS, actor=ACTORS, name=NAMES, more=st.lists(NAMES))
def test_a_file_of_roles_means_what_it_says(tmp_path_factory, sections, actor, name, more) -> None:
    folder = tmp_path_factory.getbasetemp()
    policy = load_policy(PolicySettings(), _file_of(folder, sections))
    actor = actor.under(policy)
    for operation in OPERATIONS:
        meant = _meant(sections, actor, operation, name)
        assert policy.protections.allows(actor, operation, name) == meant
        if meant:
            require_property(actor, operation, name)
        else:
            with pytest.raises(Forbidden) as refusal:
                require_property(actor, operation, name)
            assert refusal.value.decision.actor["roles"] == sorted(actor.roles)
    readable = readable_by(actor)
    for each in (name, *more):
        meant = _meant(sections, actor, "read", each)
        assert (readable is None or each in readable) == meant
    if readable is not None:
        names = [name, *more, "id", "tags", "checksum", "min_disk"]
        known = [_meant(sections, actor, "read", each) for each in (name, *more)]
        assert readable.holds_all(names) == all(known)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.fixed_dictionaries(dict.fromkeys(OPERATIONS, st.sampled_from([*RULES, "@", "!", ""]))),
        min_size=2,
        max_size=2,
    ),
    actor=ACTORS,
)
def test_a_file_of_policies_asks_the_rule_and_never_about_an_image(values, actor) -> None:
    protections = protections_of(zip(["^x_", ".*"], values, strict=True), "policies")
    actor = actor.under(Policy(RULES, protections=protections))
    meant = {
        "nobody": False, "everyone": True, "admins": "admin" in actor.roles, "looks": False,
        "biller": "billing" in actor.roles, "@": True, "!": False, "": False,
    }  # fmt: skip
    for section, name in zip(values, ["x_a", "other"], strict=True):
        for operation in OPERATIONS:
            allowed = protections.allows(actor, operation, name)
            assert allowed == meant[section[operation]], (operation, name)
        readable = readable_by(actor)
        assert (readable is None or name in readable) == meant[section["read"]]


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("[]=:#;%@!,\n ^.*x_adminrolecreatedelete"), max_size=120))
def test_any_file_is_either_used_or_refused_naming_it(tmp_path_factory, text) -> None:
    file = tmp_path_factory.getbasetemp() / "any.conf"
    file.write_text(text)
    protected = PropertyProtections(file=str(file))
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text)
        whole = all(parser.has_option(name, key) for name in _kept(parser) for key in OPERATIONS)
    except configparser.Error:
        whole = False
    if not whole:
        with pytest.raises(SettingsError, match=f"^property_protections.file: {file}: "):
            load_policy(PolicySettings(), protected)
        return
    with suppress(SettingsError):  # It may say other nonsense still.
        policy = load_policy(PolicySettings(), protected)
        assert [section.text for section in policy.protections.sections] == _kept(parser)


def _kept(parser: configparser.ConfigParser) -> list[str]:
    return [name for name in parser.sections() if not name.startswith("os_glance")]


ALL = "create = @\nread = @\nupdate = @\ndelete = @\n"


@pytest.mark.parametrize(
    ("text", "form", "why"),
    [
        ("[^x]\ncreate = @\nread = @\ndelete = @\n", "roles", r"\[\^x\] update: is missing; write"),
        (f"[(x]\n{ALL}", "roles", r"\[\(x\] is not a regular expression"),
        (f"[x]\n{ALL}".replace("update = @", "update = @,!"), "roles", r"\[x\] update: '@' and"),
        (f"[x]\n{ALL}".replace("read = @", "read = a,b"), "policies", r"\[x\] read: .*exactly one"),
        (f"[x]\n{ALL}".replace("read = @", "read = tpyo"), "policies", r"\[x\] read: .*'tpyo'"),
        (f"[x]\n{ALL}[x]\n{ALL}", "roles", r"line 6: \[x\] is there twice"),
        (f"[x]\n{ALL}read = a\n", "roles", r"line 6: \[x\] read is there twice"),
        (f"{ALL}[x]\n", "roles", "line 1: stands before"),
        (f"[x]\n{ALL}nonsense\n", "roles", "line 6: is neither"),
        (f"[x]\n{ALL}".replace("read = @", "read = 10%"), "roles", r"\[x\] read: write %%"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_fix(tmp_path, text, form, why) -> None:
    file = tmp_path / "protections.conf"
    file.write_text(text)
    with pytest.raises(SettingsError, match=why) as refusal:
        load_policy(PolicySettings(), PropertyProtections(file=str(file), format=form))
    assert str(file) in str(refusal.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path) -> None:
    for file in (tmp_path / "none.conf", tmp_path / "bytes.conf"):
        (tmp_path / "bytes.conf").write_bytes(b"\xff\xfe[x]")
        with pytest.raises(SettingsError, match=rf"{file.name}: cannot be read"):
            load_policy(PolicySettings(), PropertyProtections(file=str(file)))


def _protected(**values: str) -> Actor:
    section = {operation: values.get(operation, "!") for operation in OPERATIONS}
    protections = protections_of([(".*", section)], "roles")
    return Actor("u", "p", frozenset({"r"})).under(Policy(protections=protections))


@pytest.mark.parametrize(
    ("op", "exists", "rights", "refusal"),
    [
        ("add", False, "create", None),
        ("add", False, "read update delete", Forbidden),
        ("add", True, "read update", None),
        ("add", True, "read create delete", Forbidden),
        ("add", True, "create update delete", Forbidden),
        ("replace", True, "read update", None),
        ("replace", True, "read create delete", Forbidden),
        ("replace", True, "create update delete", Conflict),
        ("replace", False, "create read update delete", Conflict),
        ("remove", True, "read delete", None),
        ("remove", True, "read create update", Forbidden),
        ("remove", True, "create update delete", Conflict),
        ("remove", False, "create read update delete", Conflict),
    ],
)
def test_each_step_of_a_patch_needs_its_right(op, exists, rights, refusal) -> None:
    actor = _protected(**dict.fromkeys(rights.split(), "r"))
    if refusal is None:
        require_change(actor, op, "x", exists=exists)
    else:
        with pytest.raises(refusal):
            require_change(actor, op, "x", exists=exists)


def test_the_old_patch_adds_nothing_that_exists_and_tells_only_who_may_know() -> None:
    with pytest.raises(Conflict, match="already exists"):
        require_change(_protected(read="r", update="r"), "add", "x", exists=True, strict=True)
    with pytest.raises(Forbidden):
        require_change(_protected(update="r"), "add", "x", exists=True, strict=True)


def test_who_reads_everything_is_found_out_once_and_costs_nothing() -> None:
    everywhere = dict.fromkeys(OPERATIONS, "r")
    protections = protections_of(
        [("^x_", everywhere), (".*", everywhere), ("y", {**everywhere, "read": "!"})], "roles"
    )
    reader = Actor("u", "p", frozenset({"r"})).under(Policy(protections=protections))
    assert readable_by(reader) is None
    stranger = Actor("u", "p", frozenset({"s"})).under(reader.policy)
    first = readable_by(stranger)
    assert first is readable_by(Actor("other", "q", frozenset({"t"})).under(reader.policy))


@given(name=st.text())
def test_what_is_taken_to_be_found_everywhere_is(name) -> None:
    assert all(re.search(pattern, name) for pattern in FOUND_EVERYWHERE)


def test_any_number_of_names_takes_bounded_memory() -> None:
    section = {operation: "r" for operation in OPERATIONS}
    policy = Policy(
        protections=protections_of([("^x", section), (".*", {**section, "read": "s"})], "roles")
    )
    readable = readable_by(Actor("u", "p", frozenset({"r"})).under(policy))
    for number in range(10_000):
        assert f"x{number}" in readable
        assert f"y{number}" not in readable
    assert len(readable._names) + len(readable._hidden) <= 4097
    assert readable.holds_all(["x1", "id", "tags", "status"])
    with pytest.raises(BadProtection):
        protections_of([("x", {})], "roles")
