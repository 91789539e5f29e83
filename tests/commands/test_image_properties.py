"""Whatever is wished of an image in whatever order, its rules hold and its history tells it all."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from calotype.commands.errors import CalotypeError
from calotype.commands.images import deletion
from calotype.commands.images.image import Image, create
from calotype.commands.images.image_state import DOOMED, INTENDED, RETAINED, STORED
from calotype.commands.images.snapshots import decode_image, encode_image
from calotype.commands.images.usage import counts
from calotype.commands.policy.actor import Cause
from calotype.projections.images.restorable import restorable_rows
from calotype.projections.images.rows import rows_of
from calotype.stores.log.log import event_mapper
from calotype.stores.log.tables import added

CAUSE = Cause({"user": "u", "project": "p", "roles": []}, "req-1", None, "c")
NAMES = st.sampled_from(["a", "b", "c"])
FIELDS: dict[str, Any] = {
    "name": None,
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "owner": "p",
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 0,
    "min_ram": 0,
}
TRANSITIONS = {
    "queued": {"queued", "saving", "active", "deleted"},
    "saving": {"saving", "active", "queued", "deleted"},
    "active": {"active", "deactivated", "deleted"},
    "deactivated": {"deactivated", "active", "deleted"},
    "deleted": {"deleted", "queued", "active", "deactivated"},
}
"""The Image API's status machine, without import and delayed delete."""


class ImageLife(RuleBasedStateMachine):
    """Random wishes; those that are refused must change nothing."""

    @initialize()
    def born(self) -> None:
        self.uploads = 0
        self.events: list[Any] = []
        self.image: Image = create(
            CAUSE,
            image_id="11111111-2222-3333-4444-555555555555",
            fields=FIELDS,
            tags=[],
            properties={},
        )
        self.events += self.image.collect_events()
        self.status = self.image.status
        self.stored: tuple[Any, ...] | None = None
        self.counted: dict[str, tuple[int, ...]] = {}
        self.count(None)

    def count(self, before: Any) -> None:
        for change in counts(before, self.image.usage):
            self.counted[change.key] = added(self.counted.get(change.key), change.amounts)

    def wish(self, method: Any, *arguments: Any, **details: Any) -> None:
        before, usage = self.image.version, self.image.usage
        if self.image.status == "deleted" and method.__name__ not in (
            "fail_upload",
            "note_data_removed",
            "restore",
            "purge",
        ):
            return  # Commands never get so far: a deleted image is not found.
        try:
            method(CAUSE, *arguments, **details)
        except CalotypeError:
            assert self.image.version == before
            assert not self.image.pending_events
        self.events += self.image.collect_events()
        self.count(usage)

    @rule(announced_size=st.one_of(st.none(), st.integers(0, 9)))
    def start_upload(self, announced_size: int | None) -> None:
        self.uploads += 1
        number = str(self.uploads)
        self.wish(
            self.image.start_upload,
            upload_id=number,
            store="default",
            url=f"file:///s/{number}",
            holder="h",
            announced_size=announced_size,
        )

    @rule(late=st.booleans())
    def store_data(self, late: bool) -> None:
        number = str(self.uploads - late)
        self.wish(
            self.image.store_data,
            upload_id=number,
            url=f"file:///s/{number}",
            size=self.uploads,
            virtual_size=None,
            checksum=number,
            os_hash_algo="sha512",
            os_hash_value=number,
        )

    @rule(late=st.booleans())
    def fail_upload(self, late: bool) -> None:
        self.wish(self.image.fail_upload, upload_id=str(self.uploads - late), reason="r")

    @rule()
    def remove_garbage(self) -> None:
        for url in list(self.image.blobs):
            self.wish(self.image.note_data_removed, url=url, reason="swept")

    @rule(
        name=NAMES,
        value=st.one_of(st.none(), NAMES),
        protected=st.booleans(),
        owner=st.sampled_from([None, "p", "q"]),
    )
    def update(self, name: str, value: str | None, protected: bool, owner: str | None) -> None:
        self.wish(
            self.image.update,
            fields={"protected": protected, "owner": owner},
            properties={} if value is None else {name: value},
            removed_properties=[name] if value is None else [],
            tags=None if value is None else [name, value][: 1 + (name != value)],
        )

    @rule(tag=NAMES, remove=st.booleans())
    def change_tag(self, tag: str, remove: bool) -> None:
        self.wish(self.image.remove_tag if remove else self.image.add_tag, tag)

    @rule(member=NAMES, status=st.sampled_from(["pending", "accepted", "rejected"]))
    def change_member(self, member: str, status: str) -> None:
        self.wish(self.image.add_member, member)
        self.wish(self.image.set_member_status, member, status)

    @rule(member=NAMES)
    def remove_member(self, member: str) -> None:
        self.wish(self.image.remove_member, member)

    @rule(again=st.booleans())
    def switch(self, again: bool) -> None:
        self.wish(self.image.reactivate if again else self.image.deactivate)

    @rule(retention_seconds=st.sampled_from([0.0, 86400.0]))
    def delete(self, retention_seconds: float) -> None:
        self.wish(self.image.delete, retention_seconds=retention_seconds)

    @rule(again=st.booleans())
    def come_back_or_never(self, again: bool) -> None:
        wish = deletion.restore if again else deletion.purge

        def made(cause: Cause, **details: Any) -> None:
            wish(self.image, cause, **details)

        made.__name__ = wish.__name__
        self.wish(made, **({} if again else {"reason": "r"}))

    @invariant()
    def statuses_follow_the_machine(self) -> None:
        assert self.image.status in TRANSITIONS[self.status]
        self.status = self.image.status

    @invariant()
    def bytes_are_written_once(self) -> None:
        image = self.image
        now = (image.size, image.checksum, image.os_hash_value, image.locations)
        if self.stored is not None and image.status != "deleted":
            assert now == self.stored
        if image.status in ("active", "deactivated"):
            self.stored = (*now[:3], list(image.locations))

    @invariant()
    def blobs_say_what_should_lie_in_the_stores(self) -> None:
        states = [blob.state for blob in self.image.blobs.values()]
        alive = self.image.status in ("active", "deactivated")
        assert states.count(STORED) == (1 if alive else 0)
        open_window = bool(restorable_rows(self.image))
        assert states.count(RETAINED) == (1 if open_window and self.stored is not None else 0)
        assert states.count(INTENDED) == (1 if self.image.status == "saving" else 0)
        assert (
            all(blob.state == DOOMED for blob in self.image.blobs.values() if not blob.holder)
            or alive
            or open_window
        )

    @invariant()
    def its_owner_alone_has_what_it_takes_up(self) -> None:
        usage = self.image.usage
        assert {p: held for p, held in self.counted.items() if any(held)} == (
            {usage.project: usage[1:]} if usage.images else {}
        )
        size = self.image.size or 0
        assert usage.bytes == (0 if not usage.images else size + usage.reserved_bytes)
        assert usage.reserved_bytes == 0 or self.image.status == "saving"

    @invariant()
    def the_history_tells_it_all(self) -> None:
        mapper = event_mapper()
        again: Any = None
        for event in self.events:
            again = mapper.to_domain_event(mapper.to_stored_event(event)).mutate(again)
        assert vars(again) == vars(self.image)
        assert rows_of(again, self.events) == rows_of(self.image, self.events)

    @invariant()
    def a_snapshot_holds_it_all(self) -> None:
        again = decode_image(encode_image(self.image))
        assert vars(again) == vars(self.image)
        assert encode_image(again) == encode_image(self.image)


ImageLife.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_image_life = ImageLife.TestCase
