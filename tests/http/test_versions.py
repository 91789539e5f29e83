"""Which versions are listed and which spellings of /v2 are taken, with and without features."""

import json
from typing import Any

import pytest
from glanceclient.common.utils import has_version
from hypothesis import given
from hypothesis import strategies as some

from calotype.http.versions import accepted_prefix, versions_document

OLDEST = [7, 6, 5, 4, 3, 2, 1, 0]
LISTED = {
    # (cache, several stores): minors in the order in which the Image API lists them.
    (True, True): list(range(18, -1, -1)),
    (True, False): [18, 17, 16, 15, 14, 9, *OLDEST],
    (False, True): [15, 13, 12, 11, 10, 9, 8, 17, *OLDEST],
    (False, False): [15, 9, 17, *OLDEST],
}
every_combination = pytest.mark.parametrize(("cache", "several_stores"), list(LISTED))
ENDPOINT = "http://images.example:9292"


def versions(cache: bool, several_stores: bool, endpoint: str = ENDPOINT) -> list[dict[str, Any]]:
    written = versions_document(endpoint, cache=cache, several_stores=several_stores)
    content = json.loads(written)
    assert set(content) == {"versions"}
    return content["versions"]


@every_combination
def test_the_versions_are_those_of_the_reference_in_its_order(cache, several_stores):
    listed = [version["id"] for version in versions(cache, several_stores)]
    assert listed == [f"v2.{minor}" for minor in LISTED[cache, several_stores]]


@every_combination
def test_exactly_one_version_is_current_and_the_others_are_supported(cache, several_stores):
    statuses = {version["id"]: version["status"] for version in versions(cache, several_stores)}
    current = "v2.18" if cache else "v2.17"
    assert statuses.pop(current) == "CURRENT"
    assert set(statuses.values()) == {"SUPPORTED"}


@every_combination
@pytest.mark.parametrize("endpoint", [ENDPOINT, ENDPOINT + "/", "https://cloud.example/image"])
def test_every_version_links_to_v2_with_a_slash_at_the_end(cache, several_stores, endpoint):
    expected = [{"rel": "self", "href": endpoint.rstrip("/") + "/v2/"}]
    for version in versions(cache, several_stores, endpoint):
        assert set(version) == {"id", "status", "links"}
        assert version["links"] == expected


def test_without_features_the_document_is_that_of_one_store_and_no_cache():
    expected = versions_document(ENDPOINT, cache=False, several_stores=False)
    assert versions_document(ENDPOINT) == expected


@every_combination
def test_prefixes_are_taken_for_v2_as_far_as_features_go(cache, several_stores):
    always = {17, 15, 9, *OLDEST}
    of_cache = {14, 16, 18} if cache else set()
    of_stores = {8, 10, 11, 12, 13} if several_stores else set()
    taken = {
        minor
        for minor in range(40)
        if accepted_prefix(f"v2.{minor}", cache=cache, several_stores=several_stores)
    }
    assert taken == always | of_cache | of_stores
    assert accepted_prefix("v2", cache=cache, several_stores=several_stores)


@pytest.mark.parametrize(
    "segment",
    ["", "v", "v1", "v3", "V2", "V2.1", "v2.", "v2.01", "v2.1 ", " v2", "v2.19", "v2.1.0", "v2/",
     "v2.-1", "v２.1", "v2.\x00", "2.1", "v2.1\n"],
)  # fmt: skip
def test_other_spellings_mean_nothing(segment):
    assert not accepted_prefix(segment, cache=True, several_stores=True)


@given(segment=some.text(), cache=some.booleans(), several_stores=some.booleans())
def test_a_prefix_is_taken_only_if_it_is_v2_or_a_known_version(segment, cache, several_stores):
    if accepted_prefix(segment, cache=cache, several_stores=several_stores):
        known = {f"v2.{minor}" for minor in LISTED[cache, several_stores]} | {"v2.15", "v2.17"}
        assert segment == "v2" or segment in known


class Answering:
    """What glanceclient asks for /versions, answered by our document."""

    def __init__(self, document: bytes) -> None:
        self.document = document

    def get(self, path: str) -> tuple[None, dict[str, Any]]:
        assert path == "/versions"
        return None, json.loads(self.document)


@every_combination
def test_glanceclient_finds_the_features_that_there_are(cache, several_stores):
    written = versions_document(ENDPOINT, cache=cache, several_stores=several_stores)
    client = Answering(written)
    assert has_version(client, "v2.17")  # locations
    assert has_version(client, "v2.12") == several_stores  # tasks of an image
    assert has_version(client, "v2.14") == cache
