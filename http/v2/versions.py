"""The versions document, and which spellings of /v2 are taken for it."""

import orjson

CURRENT = "v2.9"
LISTED = (CURRENT, "v2.7", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")
"""Clients take what a version brought for granted where it is listed, so none is before all of it
is there: 2.6 brought imports, 2.8 and 2.10 to 2.13 several stores, 2.14, 2.16 and 2.18 the cache,
2.15 details of stores, 2.17 the locations API."""
_TAKEN = frozenset({"v2", "v2.6", "v2.15", "v2.17", *LISTED})
"""Clients that were told to use one of these need no more than is there, so they are served."""


def versions_document(endpoint: str) -> bytes:
    """The JSON document for a service reached at `endpoint`, a URL with or without a last slash."""
    links = [{"rel": "self", "href": f"{endpoint.rstrip('/')}/v2/"}]
    versions = [
        {
            "id": version,
            "status": "CURRENT" if version == CURRENT else "SUPPORTED",
            "links": links,
        }
        for version in LISTED
    ]
    return orjson.dumps({"versions": versions})


def accepted_prefix(segment: str) -> bool:
    """Whether a path that starts with this segment means /v2; case matters."""
    return segment in _TAKEN
