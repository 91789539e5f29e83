"""Real processes under clients that vanish, idle or flood, and workers that freeze."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
HALF_UPLOAD = (
    "PUT /v2/images/{image}/file HTTP/1.1\r\nHost: x\r\n"
    "Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"
)


def opened(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(data)
    return connection


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in text.split()}


# ---- workers that freeze ----


@pytest.fixture
def workers(make_service: Any, until: Any) -> Any:
    """A service of two workers, both of which serve; a frozen one is replaced after 4 seconds."""
    service = make_service(CALOTYPE_WORKER_STALL_SECONDS="4")
    service.start("--workers", "2")
    until(lambda: sum('"event": "ready"' in line for line in service.lines) == 2)
    return service


def test_a_frozen_worker_is_replaced_and_no_new_connection_is_lost_to_it(
    workers: Any, until: Any
) -> None:
    before = children(workers.process.pid)
    frozen = min(before)
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: frozen not in children(workers.process.pid), 60)
    until(lambda: sum('"event": "ready"' in line for line in workers.lines) == 3)
    assert [line for line in workers.lines if "worker frozen" in line and str(frozen) in line]
    assert len(before & children(workers.process.pid)) == 1
    for _ in range(20):  # Each on a connection of its own, which the kernel gives to either.
        assert requests.get(f"{workers.url}/v2/images", timeout=20).status_code == 200


def test_after_a_pause_of_the_whole_machine_nobody_is_taken_for_frozen(workers: Any) -> None:
    before = children(workers.process.pid)
    everybody = [workers.process.pid, *before]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(6)  # The pause itself.
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert requests.get(f"{workers.url}/v2/images", timeout=20).status_code == 200
    assert children(workers.process.pid) == before


# ---- too many connections ----


def test_idle_connections_beyond_the_limit_of_descriptors_shut_nobody_out(
    make_service: Any,
) -> None:
    service = make_service()
    service.under = ["prlimit", "--nofile=300:300"]
    service.start()
    with ExitStack() as stack:
        for number in range(600):  # Half of them in the middle of a head.
            head = b"GET /v2/images HTTP/1.1\r\nHo" if number % 2 else b""
            stack.enter_context(opened(service.port, head))
            if number % 100 == 99:
                answer = requests.get(f"{service.url}/v2/images", timeout=20)
                assert answer.status_code == 200
        image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=20).json()
        url = f"{service.url}/v2/images/{image['id']}/file"
        octets = {"Content-Type": "application/octet-stream"}
        assert requests.put(url, data=b"x", headers=octets, timeout=20).status_code == 204
        assert requests.get(url, timeout=20).content == b"x"


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be(make_service: Any) -> None:
    service = make_service()
    service.under = ["prlimit", "--nofile=256:2000"]
    service.start()
    limits = Path(f"/proc/{service.process.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3:5] == ["2000", "2000"]


def test_where_all_connections_are_busy_the_next_is_told_to_come_back(
    make_service: Any, until: Any
) -> None:
    service = make_service(CALOTYPE_HTTP__CONNECTIONS="4")
    service.start()
    image = requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=20).json()
    half = b"POST /v2/images HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    busy = [opened(service.port, half) for _ in range(4)]

    def refused() -> bool:
        with opened(service.port) as connection:
            connection.settimeout(1)
            try:
                return connection.recv(1000).startswith(b"HTTP/1.1 503 ")
            except TimeoutError:  # It took the place of one that was not busy yet.
                return False

    until(refused)
    for connection in busy:
        connection.close()
    show = f"{service.url}/v2/images/{image['id']}"

    def served() -> bool:
        return requests.get(show, timeout=20).status_code == 200

    until(served)


# ---- a client that vanishes ----


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """Two networks of their own, the service's and a client's, joined by a cable; their names."""
    here, there = f"calotype{os.getpid()}a", f"calotype{os.getpid()}b"

    def run(command: str) -> None:
        subprocess.run(command.split(), check=True, timeout=30)

    run(f"ip netns add {here}")
    run(f"ip netns add {there}")
    try:
        run(f"ip link add cable netns {here} type veth peer name cable netns {there}")
        run(f"ip -n {here} link set lo up")  # Its own address is reached through it.
        for name, address in ((here, "192.0.2.1/30"), (there, "192.0.2.2/30")):
            run(f"ip -n {name} address add {address} dev cable")
            run(f"ip -n {name} link set cable up")
        yield here, there
    finally:
        run(f"ip netns delete {here}")  # And with it its end of the cable.
        run(f"ip netns delete {there}")


def inside(network: str, script: str, *arguments: str) -> list[str]:
    """The command that runs a script of Python in a network."""
    return ["ip", "netns", "exec", network, sys.executable, "-c", script, *arguments]


ASK = """
import sys, urllib.request
url, body = sys.argv[1], sys.argv[2].encode() or None
print(urllib.request.urlopen(urllib.request.Request(url, body), timeout=60).read().decode())
"""
VANISH = """
import socket, sys
connection = socket.create_connection(("192.0.2.1", int(sys.argv[1])), timeout=60)
connection.sendall(sys.argv[2].encode() + b"x" * 500000)
print("sent", flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_a_client_that_vanishes_gives_its_image_back_within_two_minutes(
    make_service: Any, until: Any, cable: tuple[str, str]
) -> None:
    here, there = cable
    service = make_service()
    service.under = ["ip", "netns", "exec", here]
    service.start("--listen", "192.0.2.1:0")
    url = f"http://192.0.2.1:{service.port}/v2/images"

    def ask(url: str, body: str = "") -> Any:
        answer = subprocess.check_output(inside(here, ASK, url, body), timeout=120)
        return json.loads(answer)

    image = ask(url, json.dumps(FORMATS))["id"]
    head = HALF_UPLOAD.format(image=image)
    client = subprocess.Popen(
        inside(there, VANISH, str(service.port), head),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"sent\n"
        until(lambda: ask(f"{url}/{image}")["status"] == "saving")
        cut = f"ip -n {there} link set cable down"
        subprocess.run(cut.split(), check=True, timeout=30)
        since = time.monotonic()
        until(lambda: ask(f"{url}/{image}")["status"] == "queued", 120)
        assert time.monotonic() - since > 10  # Else it was not the kernel's watch that found out.
    finally:
        client.kill()
        client.wait()
    assert not [line for line in service.lines if '"request failed"' in line]
