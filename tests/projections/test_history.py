"""A history tells everything: its patches, applied in order, give exactly the present image."""

import importlib.util
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant

from calotype.projections.past.history import changes_of, difference, shown_document
from calotype.stores.log.log import event_mapper


def _image_life() -> Any:
    """The machine of random wishes that the image's own properties are tested with."""
    path = Path(__file__).parents[1] / "commands" / "test_image_properties.py"
    spec = importlib.util.spec_from_file_location("image_life", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ImageLife


def patched(document: Any, patch: list[dict[str, Any]]) -> Any:
    """RFC 6902 for whole documents and their members, written without the code under test."""
    for operation in patch:
        path = operation["path"]
        if path == "":
            document = None if operation["op"] == "remove" else dict(operation["value"])
            continue
        assert path[0] == "/"
        name = path[1:].replace("~1", "/").replace("~0", "~")
        assert (name in document) == (operation["op"] != "add")
        if operation["op"] == "remove":
            del document[name]
        else:
            document[name] = operation["value"]
    return document


class HistoryLife(_image_life()):  # type: ignore[misc]
    """Random wishes, and after each of them the whole history."""

    def rows(self) -> list[tuple[Any, ...]]:
        stored = [event_mapper().to_stored_event(event) for event in self.events]
        # Other images' events lie in between, so positions have gaps.
        return [(s.originator_version, s.topic, s.state, 3 * n) for n, s in enumerate(stored, 1)]

    @invariant()
    def the_patches_give_the_present_image(self) -> None:
        _, changes = changes_of(None, self.image.id, self.rows())
        document = None
        for change in changes:
            document = patched(document, change.patch)
        assert document == shown_document(self.image)
        assert len(changes) == len(self.events)

    @invariant()
    def pages_are_the_whole_in_parts(self) -> None:
        rows = self.rows()
        _, whole = changes_of(None, self.image.id, rows)
        image, parts = None, []
        while rows:
            image, changes = changes_of(image, self.image.id, rows[:3])
            parts += changes
            rows = rows[3:]
        assert parts == whole
        assert image is not None
        assert vars(image) == {**vars(self.image), "_pending_events": []}


HistoryLife.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
test_history_life = HistoryLife.TestCase

NAMES = st.text(alphabet="ab/~0 1é", max_size=4)
VALUES = st.none() | st.booleans() | st.integers(0, 1) | NAMES | st.lists(NAMES, max_size=2)
DOCUMENTS = st.none() | st.dictionaries(NAMES, VALUES, max_size=5)


@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_turns_the_one_document_into_the_other(before: Any, after: Any) -> None:
    """Also for names with slashes and tildes, and for values that only differ in their type."""
    assert repr(_sorted(patched(before, difference(before, after)))) == repr(_sorted(after))
    assert difference(after, after) == []


def _sorted(document: Any) -> Any:
    return document and sorted(document.items(), key=lambda pair: pair[0])
