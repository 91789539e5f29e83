"""Pages are published in each image's order, to the last message, whatever the broker says."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from eventsourcing.persistence import Notification, StoredEvent

from calotype.projections.sinks import pages
from calotype.projections.sinks.contract import Message, Refused, TryLater
from calotype.projections.sinks.pages import Page, Publication, page_after
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder


class Script:
    """A broker that answers as it is told: `answers` by message id, used up one by one."""

    def __init__(self, **answers: list[Exception]) -> None:
        self.answers = answers
        self.taken: list[str] = []
        self.under_way: set[str] = set()
        self.most_under_way = 0

    async def open(self) -> None:
        pass

    async def publish(self, message: Message) -> None:
        assert message.ordering_key not in self.under_way, "two of one key at a time"
        self.under_way.add(message.ordering_key)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        await asyncio.sleep(0)
        self.under_way.discard(message.ordering_key)
        if self.answers.get(message.id):
            raise self.answers[message.id].pop(0)
        self.taken.append(message.id)

    async def close(self) -> None:
        pass


def page(*ids: str) -> Page:
    """Messages called `LANE NUMBER`, one for each position."""
    messages = [
        (number, Message(id=text, ordering_key=text[0], route="r", kind="k", body=b""))
        for number, text in enumerate(ids, 1)
    ]
    return Page(len(ids), full=False, messages=messages)


async def test_messages_of_one_key_are_in_order_and_keys_go_side_by_side() -> None:
    broker = Script()
    await Publication(broker, page("a1", "b1", "a2", "c1", "b2", "a3")).publish()
    assert [text for text in broker.taken if text[0] == "a"] == ["a1", "a2", "a3"]
    assert [text for text in broker.taken if text[0] == "b"] == ["b1", "b2"]
    assert broker.most_under_way == 3


async def test_what_is_confirmed_is_not_sent_again_and_nothing_overtakes_what_is_not() -> None:
    broker = Script(a2=[TryLater("down"), TryLater("down")])
    publication = Publication(broker, page("a1", "a2", "a3", "b1"))
    for _ in range(2):
        with pytest.raises(TryLater, match="down"):
            await publication.publish()
    assert sorted(broker.taken) == ["a1", "b1"]
    await publication.publish()
    assert broker.taken[2:] == ["a2", "a3"]
    await publication.publish()
    assert len(broker.taken) == 4


async def test_what_is_refused_for_good_is_noted_and_passed() -> None:
    broker = Script(a1=[Refused("too large")])
    some = page("a1", "a2")
    await Publication(broker, some).publish()
    assert broker.taken == ["a2"]
    assert some.refused == {1: "too large"}


async def test_a_surprise_is_not_taken_for_a_broker_that_is_away() -> None:
    broker = Script(a1=[TryLater("down")], b1=[ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        await Publication(broker, page("a1", "b1")).publish()


async def test_nothing_is_sent_once_the_lease_is_in_doubt() -> None:
    broker = Script()
    sure = [True, False]
    publication = Publication(broker, page("a1", "a2"), lambda: sure.pop(0))
    with pytest.raises(TryLater, match="lease"):
        await publication.publish()
    assert broker.taken == ["a1"]


class Words:
    """Tells each event by its topic; some cannot be told."""

    def __init__(self, error: Exception | None = None, size: int = 1) -> None:
        self.error = error
        self.size = size
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1

    def messages(self, event: Notification) -> Sequence[Message]:
        if event.topic == "bad" and self.error is not None:
            raise self.error
        body = b"x" * self.size
        return [Message(id=event.topic, ordering_key="l", route="r", kind="k", body=body)]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[GroupCommitRecorder]:
    recorder = open_log(f"sqlite:///{tmp_path / 'log.sqlite'}")
    recorder.migrate()
    events = [StoredEvent(UUID(int=n), 1, topic, b"{}") for n, topic in enumerate("abcd")]
    events[2] = StoredEvent(UUID(int=9), 1, "bad", b"{}")
    recorder.insert_events(events)
    yield recorder
    recorder.close_now()


def test_a_poisoned_event_is_refused_alone(recorder: GroupCommitRecorder) -> None:
    words = Words(KeyError("size"))
    some = page_after(recorder, words, 0)
    assert some is not None
    assert [message.id for _, message in some.messages] == ["a", "b", "d"]
    assert list(some.refused) == [3]
    assert "KeyError('size')" in some.refused[3]
    assert some.topics[3] == "bad"
    assert words.forgotten == 1


def test_trouble_of_our_own_is_not_the_events_fault(recorder: GroupCommitRecorder) -> None:
    words = Words(OSError("the disk"))
    with pytest.raises(OSError, match="the disk"):
        page_after(recorder, words, 0)
    assert words.forgotten == 1


def test_a_page_ends_early_where_it_becomes_long(
    recorder: GroupCommitRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 150)
    some = page_after(recorder, Words(size=100), 0)
    assert some is not None
    assert (some.last, some.full, len(some.messages)) == (2, True, 2)
    rest = page_after(recorder, Words(size=100), some.last)
    assert rest is not None
    assert (rest.last, rest.full) == (4, False)


def test_there_is_no_page_after_the_end(recorder: GroupCommitRecorder) -> None:
    assert page_after(recorder, Words(), 4) is None
    limited = page_after(recorder, Words(), 1, until=2)
    assert limited is not None
    assert limited.last == 2
