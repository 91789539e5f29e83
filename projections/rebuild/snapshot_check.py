"""Snapshots compared with what the log gives, image by image, folded from birth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS, encode_image
from calotype.projections.past import row_version_snapshots
from calotype.projections.past.row_versions import ImageTimeline, Noted, written
from calotype.projections.rebuild.fold_by_stream import decoder, events_by_stream
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

    def wrong(self, recorder: GroupCommitRecorder) -> Iterator[tuple[str, str]]:
        """The key of each snapshot that would be used and is not what the log gives, and why.

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
                    yield from self._wrong_of(fetch, after)
            if len(ids) < _PAGE_IMAGES:
                return

    def forget(self, recorder: GroupCommitRecorder) -> None:
        """Throws all snapshots away; they are made again in time."""
        recorder.fetch_now(f"DELETE FROM {self.table.name}")

    def _wrong_of(self, fetch: Fetch, image_id: UUID) -> Iterator[tuple[str, str]]:
        rows = fetch(
            f"SELECT version, state FROM {self.table.name} WHERE {self.table.owner} = :id "
            "AND fingerprint = :fingerprint",
            {"id": image_id, "fingerprint": self.fingerprint},
        )
        states: dict[int, str] = dict(rows)
        decode, life = decoder(), ImageTimeline()
        noted: Noted = {}
        for event in events_by_stream(fetch, image_id, image_id, 2**62):
            life.apply(decode(event), event.position, noted)
            written(noted)
            state = states.pop(event.version, None)
            if state is not None and state != self.encode(life):
                yield f"{image_id}/{event.version}", "differs in state"
        for version in states:
            yield f"{image_id}/{version}", "not in the log"


OF_IMAGES = SnapshotTable(
    SNAPSHOTS, IMAGE_SNAPSHOTS.fingerprint, lambda life: encode_image(life.image)
)
OF_VERSIONS = SnapshotTable(
    row_version_snapshots.VERSION_SNAPSHOTS,
    row_version_snapshots.FINGERPRINT,
    row_version_snapshots.encode,
)
