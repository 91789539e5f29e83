"""Serial work on shared threads."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from calotype.stores.images.threads import Strand


def test_jobs_of_a_strand_run_in_order_and_never_two_at_once():
    with ThreadPoolExecutor(4) as pool:
        strands = [Strand(pool) for _ in range(6)]
        done: list[list[int]] = [[] for _ in strands]
        busy = [threading.Lock() for _ in strands]
        overlaps: list[int] = []
        finished = threading.Semaphore(0)

        def job(number: int, step: int) -> None:
            if not busy[number].acquire(blocking=False):
                overlaps.append(number)
            time.sleep(random.random() / 5000)
            done[number].append(step)
            busy[number].release()
            finished.release()

        for step in range(100):
            for number, strand in enumerate(strands):
                strand.submit(lambda number=number, step=step: job(number, step))
        for _ in range(600):
            assert finished.acquire(timeout=10)
    assert done == [list(range(100))] * 6
    assert overlaps == []


def test_an_idle_strand_holds_no_thread():
    with ThreadPoolExecutor(1) as pool:
        for strand in [Strand(pool) for _ in range(50)]:
            ran = threading.Event()
            strand.submit(ran.set)
            assert ran.wait(5)


def test_a_strand_with_much_work_lets_others_have_the_thread():
    with ThreadPoolExecutor(1) as pool:
        greedy, modest = Strand(pool), Strand(pool)
        order: list[str] = []
        gate, end = threading.Event(), threading.Event()
        greedy.submit(gate.wait)
        for _ in range(100):
            greedy.submit(lambda: order.append("greedy"))
        modest.submit(lambda: order.append("modest"))
        greedy.submit(end.set)
        gate.set()
        assert end.wait(10)
    assert order.index("modest") < 20
