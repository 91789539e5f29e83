"""An image of thousands of events beside one of five: what calls cost when nothing is cached."""

import json
from contextlib import ExitStack

from tests.backends.postgres import Postgres
from tests.backends.service import Service
from tests.bench.figures import Slice, Target, median_ratio, row_of
from tests.bench.processes import settle
from tests.bench.rig import Endpoint, Requests, Rig
from tests.bench.subjects import creating

FEW_EVENTS, MANY_EVENTS = 5, 5000
MOST_GROWTH = 2.0
_FILL_SECONDS = 300.0
_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"


def measure_long_image(rig: Rig, log_name: str) -> None:
    """A refused PATCH, and pages of the history, on both images in turn."""
    folder = rig.folder / f"{log_name}-long-image"
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        url = ""
        if log_name == "postgresql":
            postgres = stack.enter_context(Postgres(folder / "server", durable=True))
            url = postgres.create_database("long_image")
        server = stack.enter_context(Service(folder / "data", url, CALOTYPE_LOG__CACHE_BYTES="0"))
        endpoint = Endpoint(server.port, server.pid)
        images = [_image_of(rig, endpoint, events) for events in (FEW_EVENTS, MANY_EVENTS)]
        settle(server.pid, patience_seconds=120.0)
        for scenario, asked in (
            ("refused patch", [_refused(path) for path in images]),
            ("first page of a history", [_history(path) for path in images]),
        ):
            _compare(rig, log_name, endpoint, scenario, asked)


def _image_of(rig: Rig, endpoint: Endpoint, events: int) -> str:
    """The path of a new image with so many events."""
    made = rig.run(
        endpoint, creating(collect_ids=True), connections=1, seconds=_FILL_SECONDS, count=1
    )
    path = f"/v2/images/{made.ids[0]}"
    change = [{"op": "replace", "path": "/name", "value": "name @n@"}]
    patches = _patch(path, change, expect=200)
    rig.run(endpoint, patches, connections=1, seconds=_FILL_SECONDS, count=events - 1)
    return path


def _patch(path: str, change: object, expect: int) -> Requests:
    body = json.dumps(change)
    return Requests("PATCH", [path], expect=expect, bodies=[body], content_type=_PATCH_TYPE)


def _refused(path: str) -> Requests:
    return _patch(path, [{"op": "remove", "path": "/name"}], expect=403)


def _history(path: str) -> Requests:
    image_id = path.rpartition("/")[2]
    return Requests("GET", [f"/log/v1/images/{image_id}/history?limit={FEW_EVENTS}"])


def _compare(
    rig: Rig, log_name: str, endpoint: Endpoint, scenario: str, asked: list[Requests]
) -> None:
    seen: list[list[Slice]] = [[], []]
    for _ in range(rig.options.rounds):
        for slices, requests in zip(seen, asked, strict=True):
            seconds = rig.options.slice_seconds
            slices.append(rig.run(endpoint, requests, connections=1, seconds=seconds))
    for slices, events in zip(seen, (FEW_EVENTS, MANY_EVENTS), strict=True):
        named = f"{scenario}, {events} events"
        row = row_of(slices, scenario=named, log=log_name, images=2, connections=1)
        if events == MANY_EVENTS:
            growth = median_ratio(seen[1], seen[0], lambda part: part.cpu_per_request)
            row.ratios[f"cpu / at {FEW_EVENTS} events"] = growth
            what = f"{scenario}, {MANY_EVENTS} against {FEW_EVENTS} events"
            rig.targets.append(Target(what, log_name, growth, MOST_GROWTH, True, "times the cpu"))
        rig.found(row)
