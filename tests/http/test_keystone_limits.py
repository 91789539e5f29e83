"""Which of the limits that Keystone lists is meant."""

import pytest

from calotype.http.identity.keystone_limits import _limit


def _listed(**by_region: int) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = [
        {"resource_name": "other", "region_id": None, "default_limit": 99}
    ]
    for region, limit in by_region.items():
        place = None if region == "everywhere" else region
        listed.append({"resource_name": "r", "region_id": place, "default_limit": limit})
    return listed


@pytest.mark.parametrize(
    ("by_region", "region", "limit"),
    [
        ({}, "one", None),
        ({"one": 1, "two": 2, "everywhere": 3}, "two", 2),
        ({"one": 1, "everywhere": 3}, "two", 3),
        ({"one": 1}, "two", None),
        ({"one": 1, "everywhere": 3}, "", 3),
        ({"one": 1}, "", 1),
        ({"one": 5, "two": 2}, "", 2),
        ({"one": -1, "two": 2}, "", 2),
        ({"one": -1}, "", -1),
    ],
)
def test_the_limit_of_the_region_goes_before_that_of_all_and_the_least_holds_for_no_region(
    by_region: dict[str, int], region: str, limit: int | None
) -> None:
    assert _limit(_listed(**by_region), "r", "default_limit", region) == limit
