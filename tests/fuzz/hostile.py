"""Hostile requests over every route, made from a seed, and a client that sends them as bytes."""

import asyncio
import gzip
import json
import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field

from calotype.http.routes import ROUTES

HANGS_SECONDS = 60.0
"""An answer that takes longer never comes: even a loaded machine is quicker."""
ANSWERED = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
CREATED = re.compile(rb"/v2/images/([0-9a-f-]{36})\r\n")
LEAKS = re.compile(rb"aiohttp|Python/|Traceback|psycopg|sqlite3|\.py\b", re.IGNORECASE)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
ODD_METHODS = ("TRACE", "PROPFIND", "CONNECT", "FROB", "get", "G\x00T", "M-SEARCH", "", "A" * 200)
TEXTS = (
    "", "a", "0", "-1", "null", "true", "ü", "\u202e", "%00", "%FF", "%C3%28", "%F0%9F%92%A9",
    "%", "%%", "%2e%2e%2f", "../../etc/passwd", "..;/", "a/b", "a%2Fb", "'\"", "' OR 1=1 --",
    "\\", "*", "{}", "[]", "<script>", "x" * 255, "x" * 256, "x" * 5000, "9" * 30, "1e999", "NaN",
    "in:", "in:a,\"b", "gt:x", "eq:", "2026-01-01T00:00:00Z", "gte:9999-99-99", "+", " ", "\t",
    ";", "&", "=", "#", "?", "p000000000000-1", "p0-ffffffffffffffff", "~1", "~2", "urn:uuid:1",
)  # fmt: skip
PARAMETERS = (
    "limit", "marker", "sort", "sort_key", "sort_dir", "visibility", "member_status", "os_hidden",
    "tag", "name", "id", "status", "size_min", "size_max", "created_at", "updated_at", "protected",
    "owner", "deleted", "changes-since", "after", "types", "image", "wait", "snapshot", "as_of",
    "from", "to", "project", "ticket", "version", "position", "old", "new", "max", "prefer", "",
)  # fmt: skip
HEADERS = (
    "Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Encoding",
    "Content-Length", "Content-MD5", "Content-Range", "Content-Type", "Cookie", "Expect",
    "Forwarded", "Host", "If-None-Match", "Last-Event-ID", "Origin", "Range", "TE", "Trailer",
    "Transfer-Encoding", "Upgrade", "X-Auth-Token", "X-Forwarded-Host", "X-Forwarded-Proto",
    "X-Http-Method-Override", "X-Openstack-Image-Size", "X-Openstack-Request-Id", "X-Project-Id",
    "X-Roles", "X-Service-Token", "X-User-Id", "traceparent", "Access-Control-Request-Method",
    "Sec-WebSocket-Key",
)  # fmt: skip
VALUES = (
    b"", b"*", b"*/*", b"text/html;q=x", b"application/json", b"text/event-stream", b"gzip",
    b"deflate", b"br", b"identity", b"chunked", b"gzip, chunked", b"close",
    b"keep-alive, Upgrade", b"websocket", b"100-continue", b"bytes=0-", b"bytes=-0", b"bytes=5-1",
    b"bytes=0-1,3-4", b"bytes 0-1/2", b"bytes=99999999999999999999-", b"application/octet-stream",
    b"\xff\xfe", b"\xc3\x28", b"-1", b"0", b"1", b"99999999999999999999", b"a\x01b", b"x" * 300,
    b"x" * 9000, b"http", b"javascript", b"Basic !!!", b"Basic YTpi", b"Bearer x", b"admin",
    b"member,\xff", b"evil/host", b"[::1", b"\"*\"",
    b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    b"application/openstack-images-v2.1-json-patch", b"application/vnd.openstack.images-v2.7",
    b"application/openstack-images-v2.0-json-patch",
)  # fmt: skip
FIELDS = (
    "name", "id", "tags", "visibility", "owner", "disk_format", "container_format", "min_disk",
    "min_ram", "protected", "os_hidden", "kernel_id", "", "os_glance_x", "locations", "status",
    "x", "member", "url", "types", "position", "claims", "tokens", "token", "reason", "after",
    "start", "max_attempts", "on_parked", "member_name", "limit", "wait", "claim_seconds",
    "seconds", "error", "secret", "image",
)  # fmt: skip
BODIES: dict[str, dict[str, object]] = {
    "/v2/images": {"disk_format": "raw", "container_format": "bare", "visibility": "private"},
    "/v2/images/{image_id}/members": {"member": "blue"},
    "/v2/images/{image_id}/members/{member}": {"status": "accepted"},
    "/log/v1/consumers/{name}": {"types": ["image.created"]},
    "/log/v1/consumers/{name}/fetch": {"limit": 1},
    "/log/v1/consumers/{name}/seek": {"position": "beginning"},
    "/log/v1/images/{image_id}/purge": {"reason": "x"},
    "/log/v1/webhooks/{name}": {"url": "https://hook.invalid/"},
}
"""What is right where, so that some of it can be made wrong."""
MEDIA = (
    b"application/json", b"application/octet-stream", b"text/plain",
    b"application/openstack-images-v2.1-json-patch",
    b"application/openstack-images-v2.0-json-patch",
)  # fmt: skip


@dataclass
class Known:
    """Things that exist, so that hostile requests get past the first door."""

    names: dict[str, list[str]]
    """By the name of a part of a path."""


@dataclass
class Sent:
    """One hostile request."""

    data: bytes
    after: bytes = b""
    """What is sent after a pause."""
    ends: bool = False
    """The client then closes its side, so that there need be no answer."""


def make(random_: random.Random, known: Known) -> Sent:
    """The next hostile request of a seed."""
    method, path, _ = random_.choice(ROUTES)
    if method == "*" or random_.random() < 0.15:
        method = random_.choice(METHODS)
    if random_.random() < 0.02:
        method = random_.choice(ODD_METHODS)
    target = _target(random_, path, known)
    body, framing, ends = _body(random_, method, path)
    headers = _headers(random_, framing)
    line = f"{method} ".encode("utf-8", "surrogateescape") + target
    line += random_.choice((b" HTTP/1.1",) * 90 + (b" HTTP/1.0", b" HTTP/2.0", b"", b" HTTP/1.1 x"))
    head = b"\r\n".join([line, *headers]) + b"\r\n\r\n"
    if random_.random() < 0.01:
        head = _broken(random_, head)
    half = random_.randrange(len(body) + 1) if random_.random() < 0.05 else len(body)
    return Sent(head + body[:half], body[half:], ends)


def _broken(random_: random.Random, data: bytes) -> bytes:
    at = random_.randrange(len(data))
    return random_.choice((
        data[:at] + bytes([random_.randrange(256)]) + data[at + 1 :],
        data.replace(b"\r\n", b"\n"),
        random_.randbytes(40) + b"\r\n\r\n",
    ))  # fmt: skip


def _text(random_: random.Random) -> str:
    if random_.random() < 0.1:
        return "".join(chr(random_.randrange(1, 0x3000)) for _ in range(random_.randrange(12)))
    return random_.choice(TEXTS)


def _target(random_: random.Random, path: str, known: Known) -> bytes:
    def fill(match: re.Match[str]) -> str:
        name = match[0][1:-1].partition(":")[0]
        if random_.random() < 0.7 and (there := known.names.get(name)):
            return random_.choice(there)
        return _text(random_).replace("/", "%2F") if random_.random() < 0.8 else _text(random_)

    filled = re.sub(r"\{[^}]*\}", fill, path)
    chance = random_.random()
    if chance < 0.03:
        filled += random_.choice(("/", "//", "/..", "/.", ";x", "%20", "/x", "?", "#"))
    elif chance < 0.05:
        filled = random_.choice(
            ("", "*", "//", "http://evil/x", "/log", "/v2.9", "/v9", "x:1", "/\x7f")
        )
    if random_.random() < 0.5:
        pairs = [
            f"{random_.choice(PARAMETERS)}={_text(random_)}"
            for _ in range(random_.choice((1, 1, 1, 2, 4)))
        ]
        if random_.random() < 0.01:
            pairs = pairs * 200
        filled += "?" + "&".join(pairs)
    target = filled.encode("utf-8", "surrogateescape")
    if random_.random() < 0.97:  # Else the parser refuses it, which is another kind of attack.
        target = b"".join(
            b"%%%02X" % byte if byte < 33 or byte > 126 else bytes([byte]) for byte in target
        )
    return target


def _headers(random_: random.Random, framing: list[bytes]) -> list[bytes]:
    headers = [b"Host: localhost", *framing]
    if random_.random() < 0.95:
        roles = random_.choice((b"admin", b"member", b"member", b"reader", b"auditor", b""))
        headers += [b"X-User-Id: fuzz", b"X-Project-Id: red", b"X-Roles: " + roles]
    for _ in range(random_.choice((0, 0, 0, 1, 1, 2))):
        name = random_.choice(HEADERS).encode()
        if name.lower() in (b"content-length", b"transfer-encoding") and random_.random() < 0.8:
            continue  # These make most requests the parser's affair alone.
        headers = [line for line in headers if not line.startswith(name) or random_.random() < 0.1]
        headers.append(name + b": " + random_.choice(VALUES))
    if random_.random() < 0.003:
        headers += [b"X-%d: y" % number for number in range(300)]
    return headers


def _json(random_: random.Random, depth: int = 0) -> object:
    kind = random_.randrange(9 if depth < 3 else 7)
    if kind < 3:
        return _text(random_)
    if kind == 3:
        return random_.choice((None, True, False))
    if kind < 6:
        return random_.choice((0, -1, 1.5, 1e308, 2**31, 2**63, 2**70, 10**400))
    if kind == 6:
        return "\ud800" if random_.random() < 0.1 else "\x00\U0001f4a9"
    if kind == 7:
        return [_json(random_, depth + 1) for _ in range(random_.randrange(4))]
    return {random_.choice(FIELDS): _json(random_, depth + 1) for _ in range(random_.randrange(5))}


def _document(random_: random.Random) -> bytes:
    chance = random_.random()
    if chance < 0.55:
        content = {random_.choice(FIELDS): _json(random_, 1) for _ in range(random_.randrange(6))}
        return json.dumps(content).encode()
    if chance < 0.75:
        operations = [
            {
                "op": random_.choice(("add", "replace", "remove", "move", "")),
                "path": "/" + random_.choice((*FIELDS, "tags/0", "locations/-", "~1", "~")),
                "value": _json(random_, 1),
            }
            for _ in range(random_.randrange(1, 4))
        ]
        return json.dumps(operations).encode()
    if chance < 0.9:
        return json.dumps(_json(random_)).encode()
    return random_.choice((
        b"{", b"[" * 5000, b'{"a":' * 500, b"\xff\xfe{}", b'"\\ud800"', b'{"name":"\\udfff"}',
        b"nul", b"1", b"\xef\xbb\xbf{}", b"{}" + b" " * 70000, b'{"a":1,"a":2}',
        random_.randbytes(50), b'{"tags":["a","a"]}',
    ))  # fmt: skip


def _almost_right(random_: random.Random, method: str, path: str) -> tuple[bytes, bytes]:
    """A body that is right but for one part, and its media type."""
    if path.endswith("/file"):
        return random_.randbytes(random_.randrange(5000)), MEDIA[1]
    if method == "PATCH":
        value = _json(random_, 2)
        change = {"op": "replace", "path": "/" + random_.choice(FIELDS), "value": value}
        return json.dumps([change]).encode(), MEDIA[3]
    if path not in BODIES:
        return b"", MEDIA[0]
    content = dict(BODIES[path])
    if random_.random() < 0.7:
        content[random_.choice((*content, *FIELDS))] = _json(random_, 2)
    return json.dumps(content).encode(), MEDIA[0]


def _body(random_: random.Random, method: str, path: str) -> tuple[bytes, list[bytes], bool]:
    """A body, the headers that frame it, and whether the client gives up in its middle."""
    wants = method in ("POST", "PUT", "PATCH")
    if not wants and random_.random() < 0.97:
        return b"", [], False
    media = random_.choice(MEDIA)
    if random_.random() < 0.5:
        body, media = _almost_right(random_, method, path)
    else:
        body = _document(random_) if random_.random() < 0.8 else random_.randbytes(300)
    if random_.random() < 0.1:
        body = random_.choice((gzip.compress(body), zlib.compress(body), b""))
    headers = [b"Content-Type: " + media] if random_.random() < 0.9 else []
    chance = random_.random()
    if chance < 0.75:
        return body, [*headers, b"Content-Length: %d" % len(body)], False
    if chance < 0.8:
        return body, [*headers, b"Content-Length: %d" % (len(body) + 50)], True
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    headers.append(b"Transfer-Encoding: chunked")
    if chance < 0.9:
        return chunked, headers, False
    if chance < 0.95:
        odd = (
            b"-1\r\n",
            b"zz\r\n",
            b"5\r\nhi\r\n",
            b"5;x=\xff\r\nhello\r\n0\r\n\r\n",
            b"ffffffffffffffff1\r\n",
        )
        return random_.choice(odd), headers, True
    return chunked[: random_.randrange(1, len(chunked) + 1)], headers, True


@dataclass
class Result:
    """What a run came to."""

    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    """Requests after which the connection was closed without an answer."""
    failed: list[str] = field(default_factory=list)
    """Answers of 5xx, leaks, and requests that hung; the first of each kind with its bytes."""

    @property
    def sent(self) -> int:
        return sum(self.statuses.values()) + self.closed

    def line(self) -> str:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return f"{self.sent} requests, {self.closed} closed, {len(self.failed)} failed; {counts}"


async def attack(port: int, known: Known, *, requests: int, seed: int, at_once: int = 8) -> Result:
    """Sends the hostile requests of a seed; each on a connection of its own."""
    random_, result, left = random.Random(seed), Result(), requests

    async def one_after_the_other() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            sent = make(random_, known)
            await _send(port, sent, known, result)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return result


async def _send(port: int, sent: Sent, known: Known, result: Result) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(HANGS_SECONDS):
            answer = await _exchange(reader, writer, sent)
    except TimeoutError:
        result.failed.append(f"hung: {sent.data[:400]!r} {sent.after[:100]!r}")
        result.statuses[0] += 1
        return
    except OSError:  # Cut off, perhaps while we still write.
        answer = b""
    finally:
        writer.transport.abort()
    found = ANSWERED.match(answer)
    if found is None:
        result.closed += 1
        if answer or not (sent.ends or sent.after):
            result.failed.append(f"no answer: {sent.data[:400]!r}: {answer[:100]!r}")
        return
    status = int(found[1])
    result.statuses[status] += 1
    # 501 is the answer to methods that there are not, as Glance gives it.
    if status >= 500 and status != 501:
        result.failed.append(f"{status}: {sent.data[:600]!r}: {answer[-300:]!r}")
    made = CREATED.search(answer) if status == 201 else None
    if made is not None:
        images = known.names["image_id"]
        images[len(answer) % 50 :] = [made[1].decode(), *images[len(answer) % 50 + 1 :]]
    if LEAKS.search(answer.partition(b"\r\n\r\n")[0]) or (status >= 400 and LEAKS.search(answer)):
        result.failed.append(f"leak: {sent.data[:400]!r}: {answer[:500]!r}")


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Sent
) -> bytes:
    """Sends the request and returns its answer: the head, and what came with it."""
    writer.write(sent.data)
    if sent.after:
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(sent.after)
    if sent.ends and writer.can_write_eof():
        writer.write_eof()
    answer = b""
    while b"\r\n\r\n" not in answer or answer.startswith(b"HTTP/1.1 100"):
        if answer.startswith(b"HTTP/1.1 100") and b"\r\n\r\n" in answer:
            answer = answer.partition(b"\r\n\r\n")[2]
            continue
        block = await reader.read(1 << 16)
        if not block:
            return answer
        answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
    if length and not sent.data.startswith(b"HEAD") and int(length[1]) < 1 << 20:
        while len(body) < int(length[1]):
            block = await reader.read(1 << 16)
            if not block:
                break
            body += block
    return head + b"\r\n\r\n" + body
