"""A subscription wakes when something happens and stops when it is told."""

import threading
import time
from queue import SimpleQueue
from types import ModuleType
from uuid import uuid4

from calotype.stores.log.recorder import GroupCommitRecorder


def test_an_event_of_another_process_wakes_a_waiting_subscription(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    """Well before the second after which it would look anyway."""
    arrivals: SimpleQueue[tuple[int, float]] = SimpleQueue()
    subscription = other_recorder.subscribe()

    def follow() -> None:
        with subscription:
            for one in subscription:
                arrivals.put((one.id, time.monotonic()))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    delays = []
    for number in range(1, 6):
        time.sleep(0.15)  # Long enough that it has read to the end and waits.
        notes.write(recorder, uuid4(), 1, "wake up").result(10)
        written = time.monotonic()
        position, arrived = arrivals.get(timeout=5)
        assert position == number
        delays.append(arrived - written)
    subscription.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert sorted(delays)[2] < 0.3


def test_a_waiting_subscription_stops_promptly(recorder: GroupCommitRecorder) -> None:
    subscription = recorder.subscribe()
    finished = threading.Event()

    def follow() -> None:
        with subscription:
            assert list(subscription) == []
        finished.set()

    threading.Thread(target=follow, daemon=True).start()
    time.sleep(0.3)
    started = time.monotonic()
    subscription.stop()
    assert finished.wait(5)
    assert time.monotonic() - started < 0.5


def test_a_subscription_starts_after_a_position_and_keeps_to_its_topics(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    for _ in range(5):
        notes.write(recorder, uuid4(), 1, "x").result(10)
    with recorder.subscribe(gt=3) as subscription:
        assert [next(subscription).id, next(subscription).id] == [4, 5]
    with recorder.subscribe(topics=["another.topic"]) as subscription:
        threading.Timer(0.3, subscription.stop).start()
        assert list(subscription) == []
