"""What stands in front of every call: browsers of other origins, proxies, hostile bytes."""

import asyncio
import gzip
import json
import zlib
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from calotype.http.connections import Runner
from calotype.http.routes import application

HORIZON = "https://horizon.example.org"
CORS = {"allowed_origin": [HORIZON]}
BEHIND_TLS = {"Host": "10.0.0.5:9292", "X_Forwarded_Proto": "https"}


@pytest.fixture
def log_url(tmp_path: Any) -> str:
    """Nothing here depends on the kind of log."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


async def raw(cloud: Any, request: bytes) -> tuple[int, bytes, bytes]:
    """The answer to exactly these bytes: its status, head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cloud.client.port)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), head, body


# ---- browsers ----


async def test_a_browser_asks_first_and_is_told_what_it_may_do(open_cloud: Any) -> None:
    cloud = await open_cloud(identity={"kind": "headers"}, cors=CORS)
    asked = {
        "Origin": HORIZON,
        "Access_Control_Request_Method": "PUT",
        "Access_Control_Request_Headers": "content-type, x-auth-token",
    }
    for path in ("/v2/images/x/file", "/log/v1/events", "/v2/nothing"):
        answer = await cloud.admin("OPTIONS", path, **asked)
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == HORIZON
        assert answer.headers["Access-Control-Allow-Methods"] == "PUT"
        assert answer.headers["Access-Control-Allow-Headers"] == "content-type,x-auth-token"
        assert answer.headers["Access-Control-Max-Age"] == "3600"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in answer.headers["Vary"]
    for change in (
        {"Origin": "https://evil.example.org"},
        {"Access_Control_Request_Method": "TRACE"},
        {"Access_Control_Request_Headers": "x-other"},
    ):
        answer = await cloud.admin("OPTIONS", "/v2/images", **{**asked, **change})
        assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (200, False)


async def test_every_answer_carries_the_origin_also_refusals_and_downloads(open_cloud: Any) -> None:
    cloud = await open_cloud(cors=CORS)
    image = await cloud.admin.create_active(b"bytes")
    for method, path, status in (
        ("GET", "/v2/images", 200),
        ("GET", f"/v2/images/{image['id']}/file", 200),
        ("GET", "/v2/nothing", 404),
        ("GET", "/log/v1/events", 200),
    ):
        answer = await cloud.admin(method, path, Origin=HORIZON)
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == HORIZON
        assert "X-OpenStack-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        other = await cloud.admin(method, path, Origin="https://evil.example.org")
        assert "Access-Control-Allow-Origin" not in other.headers
        assert "Origin" in other.headers["Vary"]


async def test_no_other_origin_is_let_in_unless_somebody_says_so(admin: Any) -> None:
    answer = await admin("GET", "/v2/images", Origin=HORIZON)
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


# ---- proxies ----


async def test_links_are_those_of_a_trusted_proxy(open_cloud: Any) -> None:
    proxied = {"enable_proxy_headers_parsing": True, "trusted_proxies": ["127.0.0.0/8"]}
    cloud = await open_cloud(http=proxied)
    for headers, base in (
        (BEHIND_TLS, "https://10.0.0.5:9292"),
        ({**BEHIND_TLS, "X_Forwarded_Host": "images.example.org"}, "https://images.example.org"),
        ({**BEHIND_TLS, "X_Forwarded_Prefix": "/image"}, "https://10.0.0.5:9292/image"),
        ({"Forwarded": 'for=1.2.3.4;proto=https;host="[::1]:5"'}, "https://[::1]:5"),
    ):
        made = await cloud.admin("POST", "/v2/images", json={}, **headers)
        assert made.headers["Location"] == f"{base}/v2/images/{made.json['id']}"
        listed = await cloud.admin("GET", "/versions", **headers)
        assert listed.json["versions"][0]["links"][0]["href"] == f"{base}/v2/"
        assert (await cloud.admin("GET", "/v2", **headers)).headers["Location"] == f"{base}/v2/"
    for name, text in (
        ("X_Forwarded_Host", "evil\t.org"),
        ("X_Forwarded_Host", "a/b"),
        ("X_Forwarded_Proto", "javascript"),
        ("X_Forwarded_Prefix", "//evil.example.org"),
    ):
        answer = await cloud.admin("POST", "/v2/images", json={}, **{name: text})
        assert answer.status == 400, name
    assert len(await cloud.admin.names()) == 4


@pytest.mark.parametrize(
    "http", [{}, {"enable_proxy_headers_parsing": True, "trusted_proxies": ["10.0.0.0/8"]}]
)
async def test_nobody_else_s_forwarding_headers_are_believed(open_cloud: Any, http: Any) -> None:
    cloud = await open_cloud(http=http)
    made = await cloud.admin("POST", "/v2/images", json={}, **BEHIND_TLS)
    assert made.headers["Location"].startswith("http://10.0.0.5:9292/")


# ---- hostile bytes ----


@pytest.mark.parametrize("path", [b"/", b"/v2/images", b"/log/v1/events", b"/healthcheck"])
@pytest.mark.parametrize(
    "header",
    [
        b"X-Openstack-Request-Id: req-\xff\xfe",
        b"X-Openstack-Request-Id: req-\x01",
        b"X-User-Id: \xff",
        b"X-Project-Id: \xc3\x28",
        b"X-Roles: member\xff",
        b"X-User-Id: somebody\r\nX-User-Id: else",
    ],
)
async def test_bytes_that_are_no_text_are_the_callers_mistake(
    projects: Any, path: bytes, header: bytes
) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, header + b"\r\n")
    if b"X-User-Id" not in header:
        request = request[:-2] + b"X-User-Id: me\r\n\r\n"
    status, head, _ = await raw(projects, request)
    asks_who = path.startswith((b"/v2", b"/log"))
    wrong = b"X-Openstack" in header or asks_who
    assert (status == 400) == wrong, (status, head)
    assert status < 500


@pytest.mark.parametrize(
    "host", [b"\xff\xfe", b"a/b", b"a b", b"<script>", b"x:y", b"a@b", b"[::1"]
)
async def test_a_host_that_cannot_stand_in_a_link_is_refused(projects: Any, host: bytes) -> None:
    for path in (b"/", b"/versions", b"/v2/images"):
        request = b"GET %b HTTP/1.1\r\nHost: %b\r\nAccept: application/json\r\n\r\n" % (path, host)
        status, _, body = await raw(projects, request)
        assert (status, json.loads(body)["code"]) == (400, "400 Bad Request")


async def test_image_data_is_stored_as_it_comes_whatever_its_encoding_says(admin: Any) -> None:
    packed = zlib.compress(b"\x00" * 5_000_000)
    for encoding, data in (("deflate", packed), ("gzip", gzip.compress(b"x")), ("br", b"no such")):
        image = await admin.create_bare()
        answer = await admin.upload(image["id"], data, Content_Encoding=encoding)
        assert answer.status == 204, answer.text
        assert (await admin.show(image["id"]))["size"] == len(data)


async def test_an_encoded_json_body_is_no_json(admin: Any) -> None:
    for data in (gzip.compress(b"{}"), b"not gzip"):
        answer = await admin(
            "POST",
            "/v2/images",
            data=data,
            Content_Encoding="gzip",
            Content_Type="application/json",
        )
        assert answer.status == 400
    plain = await admin("POST", "/v2/images", data=b"{}", Content_Encoding="gzip")
    assert plain.status == 201  # The body counts, as for Glance, and not what is said of it.


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /secret-path HTTP/1.1\r\nHost: x\r\nBad Header: secret\r\n\r\n", 400),
        (b"GET /secret-path HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"secret" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"FROB /v2/images HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET /v2/images HTTP/1.1\r\nHost: x\r\nExpect: secret\r\n\r\n", 417),
    ],
)
async def test_what_is_not_http_is_refused_quietly(
    cloud: Any, request_bytes: bytes, status: int
) -> None:
    found, head, body = await raw(cloud, request_bytes)
    assert found == status, head
    assert head.split(b"\r\nServer: ")[1].split(b"\r\n")[0] == b"calotype"
    assert b"secret" not in body
    assert body.startswith(b"%d " % status)


async def test_a_body_that_breaks_in_its_middle_is_400_and_not_waited_for(cloud: Any) -> None:
    image = await cloud.admin.create_bare()
    for target in (f"PUT /v2/images/{image['id']}/file", "POST /v2/images"):
        request = (
            f"{target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
        )
        status, _, _ = await raw(cloud, request.encode())
        assert status == 400, target
    assert (await cloud.admin.show(image["id"]))["status"] == "queued"


async def test_a_body_that_breaks_behind_another_request_is_not_waited_for(
    cloud: Any, caplog: pytest.LogCaptureFixture
) -> None:
    image = await cloud.admin.create_bare()
    reader, writer = await asyncio.open_connection("127.0.0.1", cloud.client.port)
    after = (await cloud.admin("GET", "/log/v1/events")).headers["Calotype-Position"]
    writer.write(f"GET /log/v1/events?after={after}&wait=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    writer.write(
        f"PUT /v2/images/{image['id']}/file HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    await writer.drain()
    await asyncio.sleep(0.2)  # Two packets: the parser must have taken the head for good.
    writer.write(b"5\r\nhello\r\nzz\r\n")
    async with asyncio.timeout(15):
        answers = await reader.read()
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:3]] == [b"200", b"400"]
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]
    writer.close()


async def test_no_answer_names_the_versions_of_our_libraries(cloud: Any) -> None:
    image = await cloud.admin.create_active(b"bytes")
    for path in ("/", "/v2/images", "/v2/nothing", "/log/v1", f"/v2/images/{image['id']}/file"):
        answer = await cloud.admin("GET", path)
        assert answer.headers["Server"] == "calotype", path


# ---- who is slow ----


async def test_a_body_that_stalls_is_408_and_the_image_queued_again(open_cloud: Any) -> None:
    cloud = await open_cloud(http={"body_stall_seconds": 0.5})
    image = await cloud.admin.create_bare()
    for target in (f"PUT /v2/images/{image['id']}/file", "POST /v2/images"):
        request = (
            f"{target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            "Content-Length: 100\r\n\r\n{"
        )
        status, head, body = await raw(cloud, request.encode())
        assert status == 408, target
        assert b"0.5 seconds" in body
    assert (await cloud.admin.show(image["id"]))["status"] == "queued"


async def test_a_download_that_nobody_reads_ends(open_cloud: Any, becomes: Any) -> None:
    cloud = await open_cloud(http={"body_stall_seconds": 0.5})
    image = await cloud.admin.create_active(b"x" * (16 << 20))
    reader, writer = await asyncio.open_connection("127.0.0.1", cloud.client.port, limit=1 << 10)
    writer.write(f"GET /v2/images/{image['id']}/file HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await becomes(lambda: cloud.api.running)
    await becomes(lambda: not cloud.api.running)
    writer.close()


async def test_a_head_that_comes_bit_by_bit_is_not_waited_for(cloud: Any) -> None:
    runner = Runner(application(cloud.api), most_connections=10, keepalive_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write(b"GET /v2/images HTTP/1.1\r\n")
    started = asyncio.get_running_loop().time()
    with suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(b"X-A: b\r\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    assert await reader.read(100) == b""
    assert asyncio.get_running_loop().time() - started < 10
    writer.close()
    await runner.shutdown()


# ---- our own paths ----


@pytest.mark.parametrize(
    "path", ["/log/v1/nothing", "/log/v1/events/", "/log/v1/", "/log/v2", "/log"]
)
async def test_an_unknown_path_of_ours_is_a_problem(admin: Any, path: str) -> None:
    answer = await admin("GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert answer.json["status"] == 404


async def test_the_index_lists_every_call(admin: Any) -> None:
    calls = {
        call["path"]: call["methods"] for call in (await admin("GET", "/log/v1")).json["calls"]
    }
    assert calls["/log/v1/events"] == ["GET"]
    assert calls["/log/v1/consumers/{name}"] == ["DELETE", "GET", "PUT"]
    assert (await admin("GET", "/metrics")).status == 404


async def test_the_healthcheck_is_as_load_balancers_know_it(cloud: Any) -> None:
    assert (await cloud.admin("HEAD", "/healthcheck")).status == 204
    answer = await cloud.admin("GET", "/healthcheck", Accept="application/json")
    assert (answer.status, answer.json) == (200, {"detailed": False, "reasons": ["OK"]})
    cloud.api.draining = True
    assert (await cloud.admin("HEAD", "/healthcheck")).status == 503
    answer = await cloud.admin("GET", "/healthcheck", Accept="application/json")
    assert (answer.status, answer.json["reasons"]) == (503, ["DRAINING"])


async def test_many_load_balancers_may_look_at_once(cloud: Any) -> None:
    """Who asks while the answer for others is on its way does not take it from them."""
    recorder = cloud.context.log.recorder

    async def looks(number: int) -> list[str | None]:
        found = []
        for turn in range(30):
            await asyncio.sleep((number + turn) % 5 / 1000)
            found.append(await recorder.trouble())
        return found

    assert not any(any(found) for found in await asyncio.gather(*map(looks, range(40))))


# ---- what an operator chooses, and small things that are as in Glance ----


async def test_formats_are_those_that_the_operator_names_also_in_the_schema(
    open_cloud: Any,
) -> None:
    formats = {"disk_formats": ["raw", "gpt"], "container_formats": ["bare", "tar"]}
    cloud = await open_cloud(formats=formats)
    admin = cloud.admin
    for body, status in (
        ({"disk_format": "gpt", "container_format": "tar"}, 201),
        ({"disk_format": "qcow2"}, 400),
        ({"container_format": "ovf"}, 400),
    ):
        assert (await admin("POST", "/v2/images", json=body)).status == status, body
    image = await admin.create()
    assert (await admin.patch(image["id"], replaced("disk_format", "iso"))).status == 400
    assert (await admin.patch(image["id"], replaced("disk_format", "gpt"))).status == 200
    properties = (await admin("GET", "/v2/schemas/image")).json["properties"]
    assert properties["disk_format"]["enum"] == [None, "raw", "gpt"]
    assert properties["container_format"]["enum"] == [None, "bare", "tar"]


async def test_data_without_a_partition_table_is_no_gpt(open_cloud: Any) -> None:
    admin = (await open_cloud(formats={"disk_formats": ["gpt"]})).admin
    image = await admin.create(disk_format="gpt", container_format="bare")
    assert (await admin.upload(image["id"], b"x" * 4096)).status == 415


async def test_an_empty_visibility_is_none_and_of_several_values_the_last_counts(
    admin: Any,
) -> None:
    await admin.create(name="one", x="1")
    await admin.create(name="two", x="2")
    assert set(await admin.names("?visibility=")) == {"one", "two"}
    assert await admin.names("?name=one&name=two") == ["two"]
    assert await admin.names("?x=2&x=1") == ["one"]


async def test_no_owner_is_no_owner_however_it_is_written(admin: Any) -> None:
    assert (await admin.create(owner=""))["owner"] is None


async def test_a_property_has_a_name(admin: Any) -> None:
    assert (await admin("POST", "/v2/images", json={"": "x"})).status == 400
    image = await admin.create()
    assert (await admin.patch(image["id"], replaced("", "x", "add"))).status == 400


async def test_a_wrong_answer_to_an_offer_tells_nothing_of_images_that_one_may_not_see(
    projects: Any,
) -> None:
    image = await projects.caller("red").create(visibility="shared")
    path = f"/v2/images/{image['id']}/members/blue"
    blue = projects.caller("blue")
    assert (await blue("PUT", path, json={"status": "perhaps"})).status == 404
    await projects.caller("red").share(image["id"], "blue")
    assert (await blue("PUT", path, json={"status": "perhaps"})).status == 400


def replaced(name: str, value: Any, op: str = "replace") -> dict[str, Any]:
    return {"op": op, "path": f"/{name}", "value": value}
