"""Subjects hold whatever a project may be called."""

import pytest

from calotype.projections.sinks.jetstream import subject_token


@pytest.mark.parametrize(
    ("project", "token"),
    [
        ("8f2d0c4e5b", "8f2d0c4e5b"),
        ("with-dash_and_line", "with-dash_and_line"),
        ("a.b", "a%2Eb"),
        ("a b", "a%20b"),
        ("*", "%2A"),
        (">", "%3E"),
        ("é", "%C3%A9"),
        (None, "_"),
        ("", "_"),
        ("_", "%5F"),
    ],
)
def test_a_project_is_one_token_of_its_own(project: str | None, token: str) -> None:
    assert subject_token(project) == token
