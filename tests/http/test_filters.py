"""Query strings: any of them is understood or refused, and quoting loses nothing."""

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from calotype.commands.errors import Invalid
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.http.v2.filters import SORT_KEYS, page_links, parse_list
from calotype.projections.images.listing import Filter

ADMIN = Actor("admin", "default", frozenset({"admin"}), policy=DEFAULT_POLICY)
PLAIN = Actor("someone", "default", frozenset({"member"}), policy=DEFAULT_POLICY)
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


@pytest.mark.parametrize("character", ["n", "\n", "\r", "\\", '"', ",", "☃"])
def test_a_backslash_in_quotes_stands_before_any_character_even_a_line_break(character):
    query = parse_list([("name", f'in:"a\\{character}b",c')])
    assert query.filters == (Filter("name", "in", (f"a{character}b", "c")),)


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "-1"), ("limit", "1.0"), ("limit", ""), ("sort", "foo"), ("sort", "name:up"),
        ("sort", ""), ("sort_key", "foo"), ("sort_dir", "up"), ("visibility", "secret"),
        ("member_status", "maybe"), ("os_hidden", "1"), ("protected", "True"),
        ("name", "neq:x"), ("id", "gt:x"), ("status", 'in:"a'), ("status", 'in:a"b'),
        ("created_at", "x"), ("updated_at", "in:2026-01-01"), ("updated_at", "gt:"),
        ("size", "in:1"), ("min_disk_max", "x"), ("virtual_size_min", "1.5"),
        ("changes-since", "2026-01-01"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_parameter_that_is_wrong(name, value):
    with pytest.raises(Invalid, match=f"'{name}'"):
        parse_list([("limit", "5"), (name, value)])


@pytest.mark.parametrize("key", ["sort_key", "sort_dir"])
def test_the_two_ways_to_sort_do_not_mix(key):
    value = "name" if key == "sort_key" else "asc"
    with pytest.raises(Invalid, match="'sort'"):
        parse_list([("sort", "name:asc"), (key, value)])


def test_directions_are_one_for_all_keys_or_one_for_each():
    keys = [("sort_key", "name"), ("sort_key", "size")]
    one = parse_list([*keys, ("sort_dir", "asc")]).sort
    assert one == (("name", "asc"), ("size", "asc"), ("created_at", "asc"), ("id", "asc"))
    each = parse_list([*keys, ("sort_dir", "asc"), ("sort_dir", "desc")]).sort
    assert each[:2] == (("name", "asc"), ("size", "desc"))
    with pytest.raises(Invalid, match="sort_dir"):
        parse_list([*keys, ("sort_key", "id"), ("sort_dir", "asc"), ("sort_dir", "asc")])


def test_the_limit_is_25_unless_given_and_never_more_than_the_largest():
    assert parse_list([]).limit == 25
    assert parse_list([], default_limit=7, max_limit=5).limit == 5
    assert parse_list([("limit", "0")]).limit == 0
    assert parse_list([("limit", "9" * 30)], max_limit=300).limit == 300


@pytest.mark.parametrize("column", ["size", "virtual_size", "min_disk", "min_ram"])
def test_integer_columns_have_bounds(column):
    query = parse_list([(f"{column}_min", "1"), (f"{column}_max", "9"), (column, "5")])
    assert query.filters == (
        Filter(column, "gte", (1,)),
        Filter(column, "lte", (9,)),
        Filter(column, "eq", (5,)),
    )
    assert query.properties == ()


@pytest.mark.parametrize(
    "name", ["foo_min", "created_at_max", "name_min", "_min", "members", "locations", "properties",
             "is_public", "", "os_distro", "stores", "Name"],
)  # fmt: skip
def test_any_other_key_is_a_custom_property_taken_literally(name):
    query = parse_list([(name, "in:a,b")])
    assert query.properties == ((name, "in:a,b"),)
    assert query.filters == ()


@pytest.mark.parametrize("column", ["owner", "checksum", "os_hash_algo", "os_hash_value"])
def test_operators_mean_nothing_where_only_equality_is_known(column):
    assert parse_list([(column, "in:a,b")]).filters == (Filter(column, "eq", ("in:a,b",)),)


def test_deleted_is_ignored_and_protected_and_hidden_are_booleans():
    query = parse_list([("deleted", "true"), ("protected", "false"), ("os_hidden", "TRUE")])
    assert query.filters == (Filter("protected", "eq", (False,)),)
    assert query.properties == ()
    assert query.hidden is True


def test_tags_are_kept_in_order_and_each_once():
    assert parse_list([("tag", "b"), ("tag", "a,c"), ("tag", "b")]).tags == ("b", "a,c")


@pytest.mark.parametrize("name", ["ubuntu:22.04", "a:b:c", ":x", "x:", "12:30:00", "eq", "in"])
def test_a_colon_after_anything_but_an_operator_belongs_to_the_name(name):
    assert parse_list([("name", name)]).filters == (Filter("name", "eq", (name,)),)
    assert parse_list([("name", f"eq:{name}")]).filters == (Filter("name", "eq", (name,)),)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.999999Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31T12:00:00 02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31T12:00:00 0200", "2026-01-31T10:00:00Z"),
        ("2026-01-31 12:00:00 02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31 12:00:00", "2026-01-31T12:00:00Z"),
        ("2026-01-01T00:30:00-01:00", "2026-01-01T01:30:00Z"),
        ("0500-01-01", "0500-01-01T00:00:00Z"),
    ],
)
def test_times_are_normalised_to_whole_seconds_utc(written, meant):
    """A plus sign that nobody percent-encoded arrives as a blank, and is understood."""
    for given_value, operator in [(written, "eq"), (f"lt:{written}", "lt")]:
        query = parse_list([("updated_at", given_value)])
        assert query.filters == (Filter("updated_at", operator, (meant,)),)


def test_links_are_percent_encoded_paths_without_a_host():
    parameters = [("tag", "a b&c=d"), ("tag", "é/+"), ("marker", "old"), ("limit", "2")]
    first, following = page_links(parameters, "m")
    assert first == "/v2/images?tag=a%20b%26c%3Dd&tag=%C3%A9%2F%2B&limit=2"
    assert following == first + "&marker=m"
    assert page_links([], None) == ("/v2/images", None)
    assert page_links([("marker", "x")], "m") == ("/v2/images", "/v2/images?marker=m")
