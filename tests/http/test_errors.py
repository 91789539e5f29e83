"""Every refusal has its status, and the form of an error follows Accept."""

import json
import re

import pytest
from aiohttp import web
from glanceclient.exc import HTTPNotFound, from_response
from hypothesis import given
from hypothesis import strategies as some

from calotype.commands import errors
from calotype.http.errors import FOREIGN, SENTENCES, error_answer, problem


def kinds_of_refusal() -> list[type[errors.CalotypeError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.CalotypeError)
        and kind is not errors.CalotypeError
    ]


STATUSES = {kind.status for kind in kinds_of_refusal()} | {
    status for status, *_ in FOREIGN.values()
}


@pytest.mark.parametrize("kind", kinds_of_refusal())
def test_every_kind_of_refusal_has_a_status_of_its_own(kind):
    assert "status" in vars(kind)


def test_a_refusal_of_a_more_particular_kind_has_the_status_of_its_kind():
    class NotThisTime(errors.Conflict):
        pass

    assert NotThisTime("no").status == 409
    assert errors.CalotypeError("no").status == 500


@given(
    accept=some.text(max_size=60) | some.none(),
    status=some.sampled_from(sorted({*SENTENCES} - {500})),
)
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


EXPLANATION = "No image <i>x</i> & 'y'"
PLAIN = "404 Not Found\n\nNo image <i>x</i> & 'y'\n\n   "
HTML = """<html>
 <head>
  <title>404 Not Found</title>
 </head>
 <body>
  <h1>404 Not Found</h1>
  No image &lt;i&gt;x&lt;/i&gt; &amp; 'y'<br /><br />



 </body>
</html>"""


@pytest.mark.parametrize("accept", [None, "", "  ", ",", "text/plain", "image/png", "*/html"])
def test_who_accepts_neither_html_nor_json_is_answered_in_plain_text(accept):
    answer = error_answer(404, EXPLANATION, accept)
    assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
    assert answer.body.decode() == PLAIN


@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/html, application/json"])
def test_html_shows_the_status_twice_and_escapes_the_explanation(accept):
    answer = error_answer(404, EXPLANATION, accept)
    assert answer.headers["Content-Type"] == "text/html; charset=UTF-8"
    assert answer.body.decode() == HTML


def test_json_holds_three_strings():
    answer = error_answer(404, EXPLANATION, "application/json")
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.body) == {
        "message": EXPLANATION + "<br /><br />\n\n\n",
        "code": "404 Not Found",
        "title": "Not Found",
    }


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*, text/html;q=0.1", "application/json"),
        ("text/html;q=0.1, */*", "application/json"),
        ("*/*, text/html;q=0", "application/json"),
        ("*/*, text/*;q=0.3", "application/json"),
        ("*/*, application/*;q=0.3", "text/html"),
        ("application/json;q=0, application/*", "text/plain"),
        ("application/json;q=0.001", "application/json"),
        ("application/json ; Q=0.5, text/html;q=0.4", "application/json"),
        ("application/json,,", "application/json"),
        ("application/json;charset=utf-8", "application/json"),
    ],
)
def test_the_most_particular_range_decides_wherever_it_stands(accept, content_type):
    assert error_answer(404, "", accept).content_type == content_type


@pytest.mark.parametrize(
    "accept",
    ["garbage", "*", "application/json garbage", ";q=1", "application/json;q=2",
     "application/json;q=x", "application/json;q=", "application/json;q=0.1234", "a/b/c"],
)  # fmt: skip
def test_a_header_that_cannot_be_read_is_taken_for_one_that_accepts_anything(accept):
    assert error_answer(404, "", accept).content_type == "text/html"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_a_500_says_the_generic_sentence_and_never_why(accept):
    text = error_answer(500, "password=hunter2 at /etc/x", accept).body.decode()
    assert "hunter2" not in text
    assert SENTENCES[500] in text


@given(explanation=some.text(some.characters()), accept=some.sampled_from([None, "*/*"]))
def test_any_text_can_be_explained_even_lone_surrogates(explanation, accept):
    body = error_answer(400, "\ud800" + explanation, accept).body.decode()
    assert body.count("<html>") == (1 if accept else explanation.count("<html>"))


def test_lone_surrogates_do_no_harm_to_json():
    body = error_answer(400, "a\udcffb", "application/json").body
    assert json.loads(body)["message"].startswith("a?b")


@pytest.mark.parametrize("status", sorted({*STATUSES, 401, 405, 414, 422, 431, 500, 501}))
def test_every_status_that_we_answer_with_has_a_sentence_and_a_title(status):
    answer = error_answer(status, "", None)
    line, _, sentence = answer.body.decode().partition("\n\n")
    assert line == f"{status} {answer.reason}"
    assert sentence == SENTENCES[status] + "\n\n   "


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (413, "Request Entity Too Large"),
        (414, "Request-URI Too Long"),
        (416, "Request Range Not Satisfiable"),
        (422, "Unprocessable Entity"),
    ],
)
def test_titles_do_not_follow_the_names_of_newer_pythons(status, title):
    assert error_answer(status, "", None).reason == title


def test_problem_details_are_complete_and_their_extras_are_members():
    answer = problem(404, "No such position", "Position 9 is not there.", position="9")
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "No such position",
        "status": 404,
        "detail": "Position 9 is not there.",
        "position": "9",
    }


class Received:
    """An answer of ours as `requests` shows it to glanceclient."""

    def __init__(self, answer: web.Response) -> None:
        self.status_code = answer.status
        self.headers = {"content-type": answer.headers["Content-Type"]}
        self.text = answer.body.decode()


def test_glanceclient_shows_the_explanation_of_the_form_that_it_asks_for():
    answer = error_answer(404, "No image 'x' & nothing", "*/*")
    error = from_response(Received(answer), answer.body)
    assert isinstance(error, HTTPNotFound)
    assert re.search(r"404 Not Found: No image 'x' &amp; nothing", str(error))
