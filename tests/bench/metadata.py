"""Scenarios without image data: show, list, create, patch."""

import json
from statistics import median
from typing import Any
from urllib.parse import urlencode

from tests.bench.figures import Row, Slice, Target, median_ratio, row_of
from tests.bench.processes import Partner
from tests.bench.rig import Endpoint, Requests, Rig
from tests.bench.subjects import (
    COMMON_NAME,
    COMMON_PROPERTY,
    COMMON_TAG,
    COMMON_VALUE,
    Subject,
    creating,
    image_body,
    patching,
    showing,
)

PAGE = 25
_WARM_SECONDS = 0.2

LISTS: dict[str, dict[str, str]] = {
    "list": {},
    "list sorted by name": {"sort": "name:asc"},
    "list by name": {"name": COMMON_NAME},
    "list by tag": {"tag": COMMON_TAG},
    "list by property": {COMMON_PROPERTY: COMMON_VALUE},
    "list by tag, sorted by name": {"tag": COMMON_TAG, "sort": "name:asc"},
}


def measure_show(rig: Rig, few: Subject, many: Subject) -> None:
    """GET of one image, over all images in turn."""
    for subject in (few, many):
        for connections in rig.options.connections:
            row = _against_bare(rig, "show", subject, showing(subject.ids), connections)
            _aim(rig, row, "show", 8)


def measure_list(rig: Rig, few: Subject, many: Subject) -> None:
    """GET of a page of 25, plain, filtered and sorted, at both numbers of images in turn."""
    for name, query in LISTS.items():
        path = "/v2/images?" + urlencode({"limit": str(PAGE), **query})
        asked = Requests("GET", [path])
        for connections in rig.options.connections:
            _few_against_many(rig, name, asked, connections, few, many)
    _measure_find(rig, many)


def _measure_find(rig: Rig, many: Subject) -> None:
    """What clients do to turn a unique name into an image."""
    name = _name_of(many, rig)
    asked = Requests("GET", ["/v2/images?" + urlencode({"limit": str(PAGE), "name": name})])
    for connections in rig.options.connections:
        _against_bare(rig, "find by unique name", many, asked, connections)


def _name_of(subject: Subject, rig: Rig) -> str:
    for image_id in subject.ids[len(subject.ids) // 2 :]:
        name = str(rig.document(subject.endpoint, f"/v2/images/{image_id}")["name"])
        if name != COMMON_NAME:
            return name
    raise RuntimeError("all images have the same name")


def measure_create(rig: Rig, few: Subject, many: Subject) -> None:
    """POST of an image with seven fields and properties and one or two tags."""
    body = json.loads(image_body(1))
    with Partner("tests.bench.log_floor", few.log_url) as floor:
        for connections in rig.options.connections:
            row = _against_bare(
                rig, "create", few, creating(), connections, _LogFloor(floor, "create", body)
            )
            _aim_write(rig, row, "create", 25)


def measure_patch(rig: Rig, few: Subject, many: Subject) -> None:
    """PATCH of one property, over all images in turn: in and out of the cache of aggregates."""
    with Partner("tests.bench.log_floor", few.log_url) as floor:
        for subject in (few, many):
            for connections in rig.options.connections:
                row = _against_bare(
                    rig,
                    "patch",
                    subject,
                    patching(subject.ids),
                    connections,
                    _LogFloor(floor, "patch", {"os_version": "12"}),
                )
                _aim_write(rig, row, "patch", 30)


class _LogFloor:
    """Measures the log alone once a round, with and without the query rows."""

    def __init__(self, floor: Partner, kind: str, body: dict[str, Any]) -> None:
        self._floor = floor
        self._kind = kind
        self._body = body
        self.rates: dict[str, list[float]] = {}

    def measure(self, waiting: int, seconds: float) -> None:
        for name, rows in (("log alone/s", False), ("log with rows/s", True)):
            seen = self._floor.ask(
                {
                    "kind": self._kind,
                    "body": self._body,
                    "waiting": waiting,
                    "seconds": seconds,
                    "rows": rows,
                }
            )
            self.rates.setdefault(name, []).append(seen["appends"] / seen["seconds"])

    def enter(self, row: Row, slices: list[Slice]) -> None:
        for name, rates in self.rates.items():
            row.floors[name] = median(rates)
            row.ratios[f"rate / {name.removesuffix('/s')}"] = median(
                part.requests_per_second / rate if rate else 0.0
                for part, rate in zip(slices, rates, strict=True)
            )


def _against_bare(
    rig: Rig,
    scenario: str,
    subject: Subject,
    asked: Requests,
    connections: int,
    log_floor: _LogFloor | None = None,
) -> Row:
    options = rig.options
    bare = rig.bare_like(subject.endpoint, asked)
    for endpoint in (bare, subject.endpoint):
        rig.run(endpoint, asked, connections=connections, seconds=_WARM_SECONDS)
    floors: list[Slice] = []
    slices: list[Slice] = []
    for _ in range(options.rounds):
        floors.append(_slice(rig, bare, asked, connections, options.floor_seconds))
        slices.append(_slice(rig, subject.endpoint, asked, connections, options.slice_seconds))
        if log_floor is not None:
            log_floor.measure(connections, options.slice_seconds)
    row = _row(scenario, subject, connections, slices, floors)
    if log_floor is not None:
        log_floor.enter(row, slices)
    rig.found(row)
    return row


def _few_against_many(
    rig: Rig, scenario: str, asked: Requests, connections: int, few: Subject, many: Subject
) -> None:
    options = rig.options
    bare = rig.bare_like(many.endpoint, asked)
    endpoints = (bare, few.endpoint, many.endpoint)
    for endpoint in endpoints:
        rig.run(endpoint, asked, connections=connections, seconds=_WARM_SECONDS)
    seen: list[list[Slice]] = [[], [], []]
    for number in range(options.rounds):
        # Every other round goes backwards, so that a machine that slows down favours nobody.
        for position in (0, 1, 2) if number % 2 == 0 else (2, 1, 0):
            seconds = options.floor_seconds if position == 0 else options.slice_seconds
            seen[position].append(_slice(rig, endpoints[position], asked, connections, seconds))
    small = _row(scenario, few, connections, seen[1], seen[0])
    large = _row(scenario, many, connections, seen[2], seen[0])
    growth = median_ratio(seen[2], seen[1], _cpu_per_request)
    large.ratios[f"cpu / at {few.images} images"] = growth
    rig.found(small)
    rig.found(large)
    if connections == _middle_connections(rig):
        if scenario == "list":
            rig.targets.append(_bare_target("list of 25", small, 14))
        if scenario != "list by tag, sorted by name":
            what = f"{scenario}, {many.images} against {few.images} images"
            rig.targets.append(Target(what, few.log, growth, 1.15, True, "times the cpu"))


def _slice(
    rig: Rig, endpoint: Endpoint, asked: Requests, connections: int, seconds: float
) -> Slice:
    return rig.run(endpoint, asked, connections=connections, seconds=seconds)


def _row(
    scenario: str, subject: Subject, connections: int, slices: list[Slice], floors: list[Slice]
) -> Row:
    row = row_of(
        slices,
        scenario=scenario,
        log=subject.log,
        images=subject.images,
        connections=connections,
    )
    row.floors["bare cpu ms"] = median(map(_cpu_per_request, floors)) * 1000
    row.ratios["cpu / bare"] = median_ratio(slices, floors, _cpu_per_request)
    return row


def _cpu_per_request(part: Slice) -> float:
    return part.cpu_per_request


def _middle_connections(rig: Rig) -> int:
    """At how many connections reads are held against their targets: 16 in a full run."""
    ordered = sorted(rig.options.connections)
    return ordered[len(ordered) // 2]


def _aim(rig: Rig, row: Row, what: str, bares: float) -> None:
    if row.connections == _middle_connections(rig):
        rig.targets.append(_bare_target(f"{what} at {row.images} images", row, bares))


def _aim_write(rig: Rig, row: Row, what: str, bares: float) -> None:
    if row.connections != max(rig.options.connections):
        return
    named = f"{what}, {row.connections} connections, {row.images} images"
    rig.targets.append(_bare_target(named, row, bares))
    share = row.ratios["rate / log with rows"]
    what = "of the log with its rows"
    rig.targets.append(Target(f"{named}: rate", row.log, share, 0.6, False, what))


def _bare_target(what: str, row: Row, bares: float) -> Target:
    return Target(what, row.log, row.ratios["cpu / bare"], bares, True, "bare")
