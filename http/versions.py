"""The versions document, and which spellings of /v2 are taken for it."""

import orjson

_ALWAYS = ("v2.15", "v2.9", "v2.17", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")
_WITH_STORES = (
    "v2.15", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.8", "v2.17", "v2.7", "v2.6",
    "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0",
)  # fmt: skip
_WITH_CACHE = (
    "v2.18", "v2.17", "v2.16", "v2.15", "v2.14", "v2.9", "v2.7", "v2.6", "v2.5", "v2.4",
    "v2.3", "v2.2", "v2.1", "v2.0",
)  # fmt: skip
_WITH_BOTH = tuple(f"v2.{minor}" for minor in range(18, -1, -1))
_CURRENT = {False: "v2.17", True: "v2.18"}


def _listed(cache: bool, several_stores: bool) -> tuple[str, ...]:
    if cache:
        return _WITH_BOTH if several_stores else _WITH_CACHE
    return _WITH_STORES if several_stores else _ALWAYS


def versions_document(endpoint: str, *, cache: bool = False, several_stores: bool = False) -> bytes:
    """The JSON document for a service reached at `endpoint`, a URL with or without a last slash.

    Which minor versions are listed, and in which order, depends on whether there is an image
    cache and more than one store.
    """
    links = [{"rel": "self", "href": f"{endpoint.rstrip('/')}/v2/"}]
    versions = [
        {
            "id": version,
            "status": "CURRENT" if version == _CURRENT[cache] else "SUPPORTED",
            "links": links,
        }
        for version in _listed(cache, several_stores)
    ]
    return orjson.dumps({"versions": versions})


def accepted_prefix(segment: str, *, cache: bool = False, several_stores: bool = False) -> bool:
    """Whether a path that starts with this segment means /v2; case matters."""
    return segment in ("v2", "v2.15", "v2.17") or segment in _listed(cache, several_stores)
