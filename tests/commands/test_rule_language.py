"""Rules mean here what they mean to oslo.policy; what it would only log is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_policy import policy as oslo

from calotype.commands.policy.actor import Actor, NewImage
from calotype.commands.policy.policy import DEFAULT_POLICY, Policy
from calotype.commands.policy.rule_language import BadRule, target_facts

LEAVES = st.sampled_from([
    "@", "!", "role:member", "role:ADMIN", "role:%(visibility)s", "rule:one", "rule:default",
    "project_id:%(project_id)s", "tenant:%(owner)s", "project_id:%(member_id)s",
    "user_id:%(owner)s", "'public':%(visibility)s", "\"shared\":%(visibility)s",
    "True:%(flavour)s", "roles:reader", "is_admin:True", "user_id:alice", "nobody.at.all:x",
    "'100%':100%%", "None:%(owner)s", "project_id:p1",
])  # fmt: skip
TEXTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
    ),
    max_leaves=6,
)
ACTORS = st.builds(
    Actor,
    st.sampled_from(["alice", "p1", None]),
    st.sampled_from(["p1", "p2", None]),
    st.frozensets(st.sampled_from(["admin", "member", "reader", "public"])),
)
IMAGES = st.builds(
    NewImage,
    st.sampled_from(["p1", "p2", "alice", None]),
    st.sampled_from(["public", "shared", "private", "community"]),
    offered=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, one=LEAVES.filter(lambda leaf: leaf != "rule:one"), actor=ACTORS, image=IMAGES)
def test_every_rule_answers_as_oslo_policy_does(text, one, actor, image) -> None:
    enforcer = oslo.Enforcer(cfg.ConfigOpts(), use_conf=False)
    texts = {"asked": text, "one": one, "default": "role:reader"}
    enforcer.set_rules(oslo.Rules.from_dict(texts, default_rule="default"))
    theirs = enforcer.enforce("asked", target_facts(actor, image), actor.facts())
    assert Policy(texts).holds("asked", actor, image) == bool(theirs)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"get_image": "role:a or"}, "get_image"),
        ({"get_image": "nonsense"}, "get_image"),
        ({"get_image": "rule:tpyo"}, "tpyo"),
        ({"get_image": "rule:x", "x": "not rule:y", "y": "rule:x"}, "circle"),
        ({"get_image": "http://example.org/%(id)s"}, "another server"),
        ({"get_image": "project_id:%(owner)d"}, "%"),
        ({"get_image": 7}, "text"),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(texts, why) -> None:
    with pytest.raises(BadRule, match=why):
        Policy(texts)


@pytest.mark.parametrize(
    ("rule", "owner", "offered", "allowed"),
    [
        ("modify_image", "p1", False, True),
        ("modify_image", "p2", True, False),
        ("modify_member", "p2", True, True),
        ("modify_member", "p1", False, False),
        ("publicize_image", "p1", False, False),
    ],
)
def test_former_defaults_need_no_persona_but_the_owner(rule, owner, offered, allowed) -> None:
    nobody = Actor("alice", "p1", frozenset(), policy=DEFAULT_POLICY)
    image = NewImage(owner, "shared", offered=offered)
    assert Policy(enforce_new_defaults=False).holds(rule, nobody, image) == allowed
    assert not Policy().holds(rule, nobody, image)
