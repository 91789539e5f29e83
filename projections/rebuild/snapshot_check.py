"""Snapshots compared with what the log gives, image by image, folded from the first event."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS, encode_image
from calotype.projections.past import row_version_snapshots
from calotype.projections.past.row_versions import ImageTimeline, Noted, written
from calotype.projections.rebuild.difference import Difference, compare_rows
from calotype.projections.rebuild.fold_by_stream import Row, decoder, events_by_stream
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import SNAPSHOTS
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Table

_PAGE_IMAGES = 100


@dataclass(frozen=True, slots=True)
class SnapshotTable:
    """A table of snapshots, and how to make what its rows should hold."""

    table: Table
    fingerprint: str
    encode: Callable[[ImageTimeline], str]

    def differences(self, recorder: GroupCommitRecorder) -> Iterator[Difference]:
        """The snapshots that would be used and are not what the log gives.

        Like the other comparisons it works in snapshots of the database, while others write.
        """
        after, owner = UUID(int=0), self.table.owner
        page = (
            f"SELECT DISTINCT {owner} FROM {self.table.name} WHERE {owner} > :after "
            f"AND fingerprint = :fingerprint ORDER BY {owner} LIMIT {_PAGE_IMAGES}"
        )
        while True:
            with recorder.snapshot((self.table,)) as fetch:
                ids = fetch(page, {"after": after, "fingerprint": self.fingerprint})
                for (text,) in ids:
                    after = UUID(str(text))
                    yield from self._differences_of(fetch, after)
            if len(ids) < _PAGE_IMAGES:
                return

    def forget(self, recorder: GroupCommitRecorder) -> None:
        """Deletes all snapshots; followers and appends write new ones."""
        recorder.fetch_now(f"DELETE FROM {self.table.name}")

    def _differences_of(self, fetch: Fetch, image_id: UUID) -> Iterator[Difference]:
        names = ", ".join(column.name for column in self.table.columns)
        there = fetch(
            f"SELECT {names} FROM {self.table.name} WHERE {self.table.owner} = :id "
            "AND fingerprint = :fingerprint",
            {"id": image_id, "fingerprint": self.fingerprint},
        )
        versions = {row[1] for row in there}
        expected: list[Row] = []
        decode, timeline = decoder(), ImageTimeline()
        noted: Noted = {}
        for event in events_by_stream(fetch, image_id, image_id, 2**62):
            timeline.apply(decode(event), event.position, noted)
            written(noted)
            if event.version in versions:
                row = (image_id, event.version, self.fingerprint, self.encode(timeline))
                expected.append(row)
        yield from compare_rows(self.table, expected, there)


OF_IMAGES = SnapshotTable(
    SNAPSHOTS, IMAGE_SNAPSHOTS.fingerprint, lambda timeline: encode_image(timeline.image)
)
OF_VERSIONS = SnapshotTable(
    row_version_snapshots.VERSION_SNAPSHOTS,
    row_version_snapshots.FINGERPRINT,
    row_version_snapshots.encode,
)
