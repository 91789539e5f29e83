"""Query strings: any of them is understood or refused, and quoting loses nothing."""

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from calotype.commands.errors import Invalid
from calotype.commands.policy import Actor
from calotype.http.filters import SORT_KEYS, page_links, parse_list
from calotype.projections.listing import Filter

ADMIN = Actor("admin", "default", frozenset({"admin"}))
PLAIN = Actor("someone", "default", frozenset({"member"}))
names = some.sampled_from(
    [
        "limit", "marker", "sort", "sort_key", "sort_dir", "visibility", "member_status",
        "os_hidden", "protected", "owner", "tag", "name", "status", "id", "container_format",
        "disk_format", "created_at", "updated_at", "size_min", "size_max", "min_disk_min",
        "size", "min_ram", "checksum", "changes-since", "deleted", "foo_min", "members",
        "properties", "locations", "virtual_size",
    ]
)  # fmt: skip
values = some.sampled_from(
    [
        "in:", "in:a,b", 'in:"', "gt:2026-01-01", "eq:", "neq:0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00", "name:asc", "name,size:asc", "id", "asc", "true", "all",
        "public", "pending", "0", "-1", "1", "99999999999999999999",
        "8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4",
    ]
)  # fmt: skip
text = some.text(some.characters(exclude_categories=["Cs"]), max_size=30)
parameters = some.lists(some.tuples(names | text, values | text), max_size=5)


@given(parameters=parameters)
def test_any_query_string_is_understood_or_refused_as_invalid(parameters):
    try:
        query = parse_list(parameters)
    except Invalid:
        return
    assert 0 <= query.limit <= 1000
    keys = [key for key, _ in query.sort]
    assert set(keys) <= set(SORT_KEYS)
    assert len(keys) == len(set(keys)), "a key sorts once"
    assert {"created_at", "id"} <= set(keys), "the order is total"


pieces = some.sampled_from(
    [
        "&", "=", "+", "%", ";", ":", ",", "'", "%22", "%5C", "%00", "%0A", "%FF", "%ED%A0%80",
        "%F0%9F%92%A9", "%zz", "%2", "name", "size_min", "tag", "limit", "sort", "in:", "gt:",
        "created_at", "marker", "id", "0", "9" * 30, "x",
    ]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=some.lists(pieces, max_size=9).map("".join))
async def test_no_query_string_as_written_is_answered_with_a_failure(admin, raw):
    answer = await admin("GET", f"/v2/images?{raw}")
    assert answer.status in (200, 400)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parameters=parameters, is_admin=some.booleans())
async def test_what_is_understood_can_be_asked_of_the_database(cloud, parameters, is_admin):
    if any("\x00" in name + value for name, value in parameters):
        return
    try:
        page = await cloud.api.queries.page(parse_list(parameters), ADMIN if is_admin else PLAIN)
    except Invalid:
        return
    assert page.images == []


@given(chosen=some.lists(text, min_size=1, max_size=4))
def test_values_in_quotes_come_back_as_they_were(chosen):
    quoted = ['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in chosen]
    query = parse_list([("name", "in:" + ",".join(quoted))])
    assert query.filters == (Filter("name", "in", tuple(chosen)),)


@given(chosen=some.lists(text.filter(lambda value: not set(value) & set('",')), min_size=1))
def test_values_without_commas_and_quotes_need_no_quotes(chosen):
    query = parse_list([("status", "in:" + ",".join(chosen))])
    assert query.filters == (Filter("status", "in", tuple(chosen)),)


@given(
    moment=some.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),
    minutes=some.integers(-14 * 60, 14 * 60),
    operator=some.sampled_from(["gt", "gte", "lt", "lte", "eq", "neq"]),
)
def test_a_time_in_any_zone_is_the_same_moment(moment, minutes, operator):
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    local = moment.astimezone(timezone(timedelta(minutes=minutes)))
    expected = moment.strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)
    query = parse_list([("created_at", f"{operator}:{local.isoformat()}")])
    assert query.filters == (Filter("created_at", operator, (expected,)),)


@given(parameters=some.lists(some.tuples(text, text)), marker=some.uuids().map(str))
def test_links_keep_every_parameter_but_the_marker_in_order(parameters, marker):
    first, following = page_links([*parameters, ("marker", "old")], marker)
    kept = [(name, value) for name, value in parameters if name != "marker"]

    def read(link):
        return parse_qsl(urlsplit(link).query, keep_blank_values=True)

    assert read(first) == kept
    assert read(following) == [*kept, ("marker", marker)]
    assert page_links(parameters, None)[1] is None


@pytest.mark.parametrize(
    ("parameters", "sort"),
    [
        ([], (("created_at", "desc"), ("id", "desc"))),
        ([("sort_dir", "asc")], (("created_at", "asc"), ("id", "asc"))),
        ([("sort", "name")], (("name", "desc"), ("created_at", "desc"), ("id", "desc"))),
        ([("sort", "id:asc")], (("id", "asc"), ("created_at", "asc"))),
        (
            [("sort", "name:asc,size:desc")],
            (("name", "asc"), ("size", "desc"), ("created_at", "desc"), ("id", "desc")),
        ),
    ],
)
def test_ties_are_broken_by_age_and_id_in_the_one_direction_or_descending(parameters, sort):
    assert parse_list(parameters).sort == sort
