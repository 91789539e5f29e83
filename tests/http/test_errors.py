"""Every refusal has its status, and the form of an error follows Accept."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from calotype.commands import errors
from calotype.http.errors import SENTENCES, STATUS, error_answer, problem, status_of


def kinds_of_refusal() -> list[type[errors.CalotypeError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.CalotypeError)
        and kind is not errors.CalotypeError
    ]


@pytest.mark.parametrize("kind", kinds_of_refusal())
def test_every_kind_of_refusal_has_a_status_of_its_own(kind):
    assert kind in STATUS


def test_a_refusal_of_a_more_particular_kind_has_the_status_of_its_kind():
    class NotThisTime(errors.Conflict):
        pass

    assert status_of(NotThisTime("no")) == 409
    assert status_of(errors.CalotypeError("no")) == 500


@given(accept=some.text(max_size=60) | some.none(), status=some.sampled_from(sorted(SENTENCES)))
def test_any_accept_header_gives_one_of_the_three_forms(accept, status):
    answer = error_answer(status, "because <b>", accept)
    assert answer.status == status
    assert answer.content_type in ("text/html", "application/json", "text/plain")
    assert "because" in answer.body.decode()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*;q=0.1, application/json", "application/json"),
        ("application/json, */*", "text/html"),
        ("text/html;q=0, application/json", "application/json"),
        ("text/html;q=0", "text/plain"),
        ("TEXT/HTML", "text/html"),
        ("text/*, application/json;q=0.9", "text/html"),
        ("application/*", "application/json"),
    ],
)
def test_quality_and_wildcards_weigh_as_they_should(accept, content_type):
    assert error_answer(404, "", accept).content_type == content_type


def test_an_error_without_explanation_says_the_sentence_of_its_status():
    assert SENTENCES[500] in error_answer(500, "", None).body.decode()


def test_headers_of_a_refusal_are_sent():
    assert error_answer(405, "", None, headers={"Allow": "GET"}).headers["Allow"] == "GET"


def test_problem_details_name_title_status_and_detail():
    answer = problem(409, "Conflict", "too late", position="7")
    assert answer.status == 409
    assert answer.content_type == "application/problem+json"
    for part in (b'"too late"', b'"status":409', b'"position":"7"'):
        assert part in answer.body
