"""A list has bounds: filters, values, the time it may take, and callers that are still there."""

import asyncio
import time

import psycopg
import pytest

NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")
TEXTS = (
    "name", "status", "container_format", "disk_format", "checksum", "os_hash_algo",
    "os_hash_value", "owner",
)  # fmt: skip
FREEDOM = {"limits": {"list_filters": 20, "filter_values": 10}}
ATTRIBUTES = [
    *(f"{name}{end}=1" for name in NUMBERS for end in ("", "_min", "_max")),
    *(f"{name}=a" for name in TEXTS),
    "protected=true",
]
MIXED = "/v2/images?sort=status:asc,name:desc"
"""No index has this order."""


async def test_too_many_filters_of_a_kind_are_refused_by_name(open_cloud):
    admin = (await open_cloud(**FREEDOM)).admin
    for kind, given in (
        ("tag", [f"tag=t{n}" for n in range(21)]),
        ("custom property", [f"p{n}=v" for n in range(21)]),
        ("attribute", ATTRIBUTES),
    ):
        refused = await admin("GET", "/v2/images?" + "&".join(given))
        assert refused.status == 400
        assert f"at most 20 filters by {kind} (limits.list_filters)" in refused.text
        answered = await admin("GET", "/v2/images?" + "&".join(given[:20]))
        assert answered.status == 200, answered.text
    values = ",".join(f"n{n}" for n in range(11))
    refused = await admin("GET", f"/v2/images?name=in:{values}")
    assert refused.status == 400
    assert "limits.filter_values" in refused.text


async def test_the_same_filter_a_thousand_times_is_one(admin):
    image = await admin.create(name="a", tags=["t"], k="v")
    for name, value in (("size", "1"), ("tag", "t"), ("k", "v"), ("name", "a")):
        answer = await admin("GET", "/v2/images?" + "&".join([f"{name}={value}"] * 900))
        assert answer.status == 200, answer.text
        found = [one["id"] for one in answer.json["images"]]
        assert found == ([] if name == "size" else [image["id"]])


@pytest.mark.timeout(60)
async def test_many_tags_and_properties_are_found_at_once(admin):
    """PostgreSQL used to think for seconds about a hundred, and for minutes about more."""
    tags = [f"t{n}" for n in range(20)]
    properties = {f"p{n}": "v" for n in range(20)}
    image = await admin.create(name="a", tags=tags, **properties)
    await admin.create(name="b", tags=tags[:19], **properties)
    given = [f"tag={tag}" for tag in tags] + [f"{name}=v" for name in properties]
    started = time.monotonic()
    answer = await admin("GET", "/v2/images?" + "&".join(given))
    assert [one["id"] for one in answer.json["images"]] == [image["id"]]
    assert time.monotonic() - started < 5


async def test_a_list_that_takes_too_long_is_a_503_that_says_so(open_cloud, log_url):
    """In PostgreSQL somebody locks the table; on SQLite no time at all is allowed."""
    seconds = 0.000001 if log_url.startswith("sqlite") else 0.5
    admin = (await open_cloud(log={"read_seconds": seconds})).admin
    image = await admin.create(name="a")
    if log_url.startswith("sqlite"):
        answer = await admin("GET", MIXED)
        assert (await admin.show(image["id"]))["id"] == image["id"]
    else:
        with psycopg.connect(log_url) as other:
            other.execute("LOCK TABLE images_1 IN ACCESS EXCLUSIVE MODE")
            answer = await admin("GET", MIXED)
            other.rollback()
        assert (await admin("GET", MIXED)).status == 200
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "30"
    assert "took too long" in answer.text


@pytest.mark.slow
@pytest.mark.parametrize("log_url", ["postgresql"], indirect=True)  # Threads: see test_reading.py.
async def test_a_scan_ends_when_its_caller_has_gone(open_cloud, log_url, becomes):
    admin = (await open_cloud(log={"read_seconds": 60, "batch_seconds": 90})).admin
    await admin.create(name="a")
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database()"
    )
    with psycopg.connect(log_url) as locker, psycopg.connect(log_url, autocommit=True) as looker:
        locker.execute("LOCK TABLE images_1 IN ACCESS EXCLUSIVE MODE")
        asked = asyncio.ensure_future(admin("GET", MIXED))
        await becomes(lambda: looker.execute(waiting).fetchone() == (1,))
        asked.cancel()
        await becomes(lambda: looker.execute(waiting).fetchone() == (0,))
        locker.rollback()
