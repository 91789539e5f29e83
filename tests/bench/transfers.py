"""Scenarios with image data: uploads and downloads, small and large."""

import os
import shutil
import urllib.request
from pathlib import Path
from statistics import median

from tests.bench.figures import MEGABYTE, Row, Slice, Target, median_ratio, row_of
from tests.bench.hashing import hashing_cpu_seconds
from tests.bench.pipeline import PipelineFloor, pipeline_floor
from tests.bench.processes import settle
from tests.bench.rig import Endpoint, Requests, Rig
from tests.bench.sendfile import FileServer
from tests.bench.subjects import Subject, creating_raw

SMALL_UPLOAD_CONNECTIONS = 8
"""At which the target for small uploads is set."""
SMALL_DOWNLOAD_CONNECTIONS = 16
_LARGE_SECONDS = 600.0
_PUT_TYPE = "application/octet-stream"


def size_name(size_bytes: int) -> str:
    """A size as the tables print it."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


def measure_upload(rig: Rig, subject: Subject) -> None:
    """PUT of image data to the file store, hashed twice."""
    options = rig.options
    for connections in sorted({*options.connections, SMALL_UPLOAD_CONNECTIONS}):
        _measure_small_uploads(rig, subject, connections)
    for connections in sorted({1, *options.connections}):
        if connections == 1:
            _measure_large_upload(rig, subject)
        else:
            _watch_large_uploads(rig, subject, connections)


def queued(rig: Rig, subject: Subject, count: int) -> list[str]:
    """New images without data, that are counted nowhere."""
    made = rig.run(
        subject.endpoint,
        creating_raw(),
        connections=min(16, count),
        seconds=60.0,
        count=count,
    )
    if len(made.ids) < count:
        raise RuntimeError(f"only {len(made.ids)} of {count} images were made: {made.failures}")
    settle(subject.endpoint.pid)
    return made.ids


def delete(rig: Rig, subject: Subject, ids: list[str]) -> None:
    """Deletes these images, counted nowhere."""
    paths = [f"/v2/images/{image_id}" for image_id in ids]
    asked = Requests("DELETE", paths, expect=204)
    rig.run(subject.endpoint, asked, connections=4, seconds=120.0, count=len(ids))
    settle(subject.endpoint.pid)


def uploads(ids: list[str], size_bytes: int) -> Requests:
    """Requests that give each of these images data of that size."""
    paths = [f"/v2/images/{image_id}/file" for image_id in ids]
    return Requests("PUT", paths, expect=204, content_type=_PUT_TYPE, upload_bytes=size_bytes)


def _measure_small_uploads(rig: Rig, subject: Subject, connections: int) -> None:
    options = rig.options
    size_bytes = options.small_bytes
    count = max(connections * 2, options.small_transfers)
    hashing: list[float] = []
    slices: list[Slice] = []
    for _ in range(options.rounds):
        ids = queued(rig, subject, count)
        hashing.append(hashing_cpu_seconds(size_bytes))
        slices.append(
            rig.run(
                subject.endpoint,
                uploads(ids, size_bytes),
                connections=connections,
                seconds=options.slice_seconds * 4,
                count=count,
            )
        )
        delete(rig, subject, ids)
    scenario = f"upload {size_name(size_bytes)}"
    row = _row(scenario, subject, connections, slices)
    row.floors["hashing cpu ms"] = median(hashing) * 1000
    row.ratios["cpu / hashing"] = ratio = median(
        part.cpu_per_request / floor for part, floor in zip(slices, hashing, strict=True)
    )
    rig.found(row)
    if connections == SMALL_UPLOAD_CONNECTIONS:
        what = f"{scenario}, {connections} connections"
        rig.targets.append(Target(what, subject.log, ratio, 2.0, True, "times hashing"))


def _measure_large_upload(rig: Rig, subject: Subject) -> None:
    options = rig.options
    size_bytes = options.large_bytes
    floors: list[PipelineFloor] = []
    slices: list[Slice] = []
    for _ in range(options.rounds):
        ids = queued(rig, subject, 1)
        # What older writes left in memory would otherwise be written during one of the two.
        os.sync()
        floors.append(pipeline_floor(rig.folder, size_bytes))
        os.sync()
        slices.append(
            rig.run(
                subject.endpoint,
                uploads(ids, size_bytes),
                connections=1,
                seconds=_LARGE_SECONDS,
                count=1,
            )
        )
        delete(rig, subject, ids)
    scenario = f"upload {size_name(size_bytes)}"
    row = _row(scenario, subject, 1, slices)
    _enter_pipeline(row, slices, floors, size_bytes)
    rig.found(row)
    for name, figure, target, at_most in (
        ("rate", row.ratios["rate / pipeline"], 0.85, False),
        ("cpu", row.ratios["cpu / pipeline"], 1.2, True),
    ):
        what = f"{scenario}: {name}"
        rig.targets.append(Target(what, subject.log, figure, target, at_most, "of the floor"))


def _enter_pipeline(
    row: Row, slices: list[Slice], floors: list[PipelineFloor], size_bytes: int
) -> None:
    row.floors["pipeline MB/s"] = (
        median(size_bytes / floor.wall_seconds for floor in floors) / MEGABYTE
    )
    row.floors["pipeline cpu ms"] = median(floor.cpu_seconds for floor in floors) * 1000
    pairs = list(zip(slices, floors, strict=True))
    row.ratios["rate / pipeline"] = median(
        part.bytes_per_second * floor.wall_seconds / size_bytes for part, floor in pairs
    )
    row.ratios["cpu / pipeline"] = median(
        part.cpu_per_request / floor.cpu_seconds for part, floor in pairs
    )


def _watch_large_uploads(rig: Rig, subject: Subject, connections: int) -> None:
    """Large uploads side by side, watched for a while and then cut off."""
    options = rig.options
    ids = queued(rig, subject, connections)
    os.sync()
    seen = _window(rig, subject.endpoint, uploads(ids, options.large_bytes), connections)
    delete(rig, subject, ids)
    scenario = f"upload {size_name(options.large_bytes)}, window"
    rig.found(_row(scenario, subject, connections, [seen]))


def _window(rig: Rig, endpoint: Endpoint, asked: Requests, connections: int) -> Slice:
    seconds = rig.options.window_seconds
    seen = rig.run(
        endpoint, asked, connections=connections, seconds=seconds, ramp_seconds=seconds / 4
    )
    settle(endpoint.pid)
    return seen


def measure_download(rig: Rig, subject: Subject) -> None:
    """GET of image data, beside the same files from nginx."""
    options = rig.options
    files = rig.folder / "files"
    files.mkdir(exist_ok=True)
    with FileServer(rig.folder / "file-server", files) as server:
        floor = Endpoint(server.port, server.pid)
        for size_bytes in (options.small_bytes, options.large_bytes):
            image_id = queued(rig, subject, 1)[0]
            uploaded = rig.run(
                subject.endpoint,
                uploads([image_id], size_bytes),
                connections=1,
                seconds=_LARGE_SECONDS,
                count=1,
            )
            if uploaded.failures:
                raise RuntimeError(f"the upload to download failed: {uploaded.failures}")
            url = f"http://127.0.0.1:{subject.endpoint.port}/v2/images/{image_id}/file"
            _copy(url, files / str(size_bytes), size_bytes)
            _measure_downloads(rig, subject, floor, server.name, image_id, size_bytes)
            delete(rig, subject, [image_id])
            (files / str(size_bytes)).unlink()


def _copy(url: str, path: Path, size_bytes: int) -> None:
    """Fetches a file for the floor to serve; now it is in memory on both sides, and whole."""
    with urllib.request.urlopen(url, timeout=120) as source, path.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    if path.stat().st_size != size_bytes:
        raise RuntimeError(f"{url} gave {path.stat().st_size} of {size_bytes} bytes")


def _measure_downloads(
    rig: Rig,
    subject: Subject,
    floor: Endpoint,
    floor_name: str,
    image_id: str,
    size_bytes: int,
) -> None:
    options = rig.options
    of_image = Requests("GET", [f"/v2/images/{image_id}/file"])
    of_file = Requests("GET", [f"/{size_bytes}"])
    large = size_bytes == options.large_bytes
    wanted = {1 if large else SMALL_DOWNLOAD_CONNECTIONS, *options.connections}
    for connections in sorted(wanted):
        window = large and connections > 1
        floors: list[Slice] = []
        slices: list[Slice] = []
        for _ in range(1 if window else options.rounds + 2 * large):
            for endpoint, asked, seen in (
                (floor, of_file, floors),
                (subject.endpoint, of_image, slices),
            ):
                seen.append(_download(rig, endpoint, asked, connections, large, window))
        name = f"download {size_name(size_bytes)}" + (", window" if window else "")
        row = _row(name, subject, connections, slices)
        rate = median(part.bytes_per_second for part in floors)
        row.floors[f"{floor_name} MB/s"] = rate / MEGABYTE
        row.ratios[f"rate / {floor_name}"] = share = median_ratio(
            slices, floors, lambda part: part.bytes_per_second
        )
        row.ratios[f"cpu / {floor_name}"] = median_ratio(
            slices, floors, lambda part: part.cpu_per_byte
        )
        rig.found(row)
        if connections == (1 if large else SMALL_DOWNLOAD_CONNECTIONS):
            target = 0.9 if large else 0.6
            what = f"{name}, {connections} connections"
            rig.targets.append(Target(what, subject.log, share, target, False, f"of {floor_name}"))


def _download(
    rig: Rig, endpoint: Endpoint, asked: Requests, connections: int, large: bool, window: bool
) -> Slice:
    if window:
        return _window(rig, endpoint, asked, connections)
    if large:
        return rig.run(endpoint, asked, connections=1, seconds=_LARGE_SECONDS, count=2)
    return rig.run(endpoint, asked, connections=connections, seconds=rig.options.slice_seconds)


def _row(scenario: str, subject: Subject, connections: int, slices: list[Slice]) -> Row:
    return row_of(
        slices,
        scenario=scenario,
        log=subject.log,
        images=subject.images,
        connections=connections,
        with_bytes=True,
    )
