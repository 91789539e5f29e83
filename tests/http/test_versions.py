"""Which versions are listed and which spellings of /v2 are taken."""

import json
import re
from typing import Any

import pytest
from glanceclient.common.utils import has_version
from hypothesis import given
from hypothesis import strategies as some

from calotype.http.routes import ROUTES
from calotype.http.v2.versions import LISTED, accepted_prefix, versions_document

ENDPOINT = "http://images.example:9292"
IMAGE = "/v2/images/{}"
FIRST = {
    "GET /v2/images", "POST /v2/images", f"GET {IMAGE}", f"PATCH {IMAGE}", f"DELETE {IMAGE}",
    f"GET {IMAGE}/file", f"PUT {IMAGE}/file", f"PUT {IMAGE}/tags/{{}}",
    f"DELETE {IMAGE}/tags/{{}}", f"GET {IMAGE}/members", f"POST {IMAGE}/members",
    f"GET {IMAGE}/members/{{}}", f"PUT {IMAGE}/members/{{}}", f"DELETE {IMAGE}/members/{{}}",
    "GET /v2/schemas/{}",
}  # fmt: skip
PROMISED: dict[str, set[str]] = {
    "v2.0": FIRST,
    "v2.1": set(),  # the second media type of PATCH
    "v2.2": set(),
    "v2.3": {f"POST {IMAGE}/actions/deactivate", f"POST {IMAGE}/actions/reactivate"},
    "v2.4": set(),
    "v2.5": set(),  # visibilities
    "v2.6": {f"PUT {IMAGE}/stage", f"POST {IMAGE}/import", "GET /v2/info/import"},
    "v2.7": set(),  # hidden images, and hashes of the operator's choice
    "v2.8": {"GET /v2/info/stores", f"POST {IMAGE}/import"},
    "v2.9": set(),
    "v2.10": {"DELETE /v2/stores/{}/{}"},
    "v2.11": {f"POST {IMAGE}/import"},
    "v2.12": {f"GET {IMAGE}/tasks"},
    "v2.13": {"GET /v2/info/usage", f"POST {IMAGE}/import"},
    "v2.14": {"GET /v2/cache", "PUT /v2/cache/{}", "DELETE /v2/cache/{}", "DELETE /v2/cache"},
    "v2.15": {"GET /v2/info/stores/detail"},
    "v2.16": {"PUT /v2/cache/{}"},
    "v2.17": {f"GET {IMAGE}/locations", f"POST {IMAGE}/locations"},
    "v2.18": {"POST /v2/cache/clean", "POST /v2/cache/prune"},
}
"""What each version brought. Those of several stores (2.8, 2.11, 2.13) are worth nothing without
imports into them."""


def versions(endpoint: str = ENDPOINT) -> list[dict[str, Any]]:
    content = json.loads(versions_document(endpoint))
    assert set(content) == {"versions"}
    return content["versions"]


def test_a_version_is_listed_when_all_that_it_brought_is_routed_and_not_before():
    routed = {f"{method} {re.sub(r'{[^}]*}', '{}', path)}" for method, path, _ in ROUTES}
    whole = {version for version, routes in PROMISED.items() if routes <= routed}
    assert set(LISTED) == whole


def test_until_imports_stores_and_the_locations_api_are_there_the_last_version_is_2_9():
    statuses = [(version["id"], version["status"]) for version in versions()]
    assert statuses == [
        ("v2.9", "CURRENT"),
        *((f"v2.{minor}", "SUPPORTED") for minor in (7, 5, 4, 3, 2, 1, 0)),
    ]


@pytest.mark.parametrize("endpoint", [ENDPOINT, ENDPOINT + "/", "https://cloud.example/image"])
def test_every_version_links_to_v2_with_a_slash_at_the_end(endpoint):
    expected = [{"rel": "self", "href": endpoint.rstrip("/") + "/v2/"}]
    for version in versions(endpoint):
        assert set(version) == {"id", "status", "links"}
        assert version["links"] == expected


def test_prefixes_are_those_of_an_image_service_with_one_store_and_no_cache():
    taken = {minor for minor in range(40) if accepted_prefix(f"v2.{minor}")}
    assert taken == {0, 1, 2, 3, 4, 5, 6, 7, 9, 15, 17}
    assert accepted_prefix("v2")


@pytest.mark.parametrize(
    "segment",
    ["", "v", "v1", "v3", "V2", "V2.1", "v2.", "v2.01", "v2.1 ", " v2", "v2.19", "v2.1.0", "v2/",
     "v2.-1", "v２.1", "v2.\x00", "2.1", "v2.1\n"],
)  # fmt: skip
def test_other_spellings_mean_nothing(segment):
    assert not accepted_prefix(segment)


@given(segment=some.text())
def test_a_prefix_is_taken_only_if_it_is_v2_or_a_known_version(segment):
    if accepted_prefix(segment):
        assert segment == "v2" or segment in PROMISED


class Answering:
    """What glanceclient asks for /versions, answered by our document."""

    def get(self, path: str) -> tuple[None, dict[str, Any]]:
        assert path == "/versions"
        return None, json.loads(versions_document(ENDPOINT))


@pytest.mark.parametrize(
    ("version", "brought"),
    [("v2.12", "tasks of an image"), ("v2.14", "cache"), ("v2.17", "locations")],
)
def test_glanceclient_looks_for_no_feature_that_is_not_there(version, brought):
    assert not has_version(Answering(), version), brought
