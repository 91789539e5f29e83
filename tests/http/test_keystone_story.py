"""Who may come in: tokens of a real Keystone, of users and of services."""

import asyncio
import math
import time
import urllib.error
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.backends.keystone import Keystone
from tests.backends.keystone_accounts import Accounts

pytestmark = pytest.mark.slow

VALIDATIONS = "GET /v3/auth/tokens"
LOGINS = "POST /v3/auth/tokens"


@pytest.fixture
def log_url(tmp_path: Any) -> str:
    """These stories are about callers and not about the log: one kind is enough."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


@pytest.fixture
def start(open_cloud: Any, keystone: Any) -> Any:
    """Starts an application that asks the real Keystone, with further settings of `[keystone]`."""

    async def start(**settings: Any) -> Any:
        return await open_cloud(
            identity={"kind": "keystone"}, keystone={**keystone.settings, **settings}
        )

    return start


@dataclass
class Brief:
    """The same Keystone's users, with tokens that end after two seconds."""

    server: Keystone
    accounts: Accounts
    passwords: dict[str, str]

    def token(self) -> tuple[str, float]:
        """A token of `member`, and when it ends."""
        made = self.accounts.token("member", self.passwords["member"], project="red")
        return made.id, datetime.fromisoformat(made.facts["expires_at"]).timestamp()


@pytest.fixture(scope="module")
def brief(keystone: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brief]:
    """A second server on the same state."""
    folder, state = tmp_path_factory.mktemp("brief"), keystone.server.data
    with Keystone(folder, token_seconds=2, data=state) as server:
        accounts = Accounts(server.url, keystone.server.admin_password)
        yield Brief(server, accounts, keystone.PASSWORDS)


async def _status(cloud: Any, path: str = "/v2/images", **headers: str) -> int:
    return (await cloud.admin("GET", path, **headers)).status


async def _asked(keystone: Any, line: str = VALIDATIONS) -> int:
    """How many such requests Keystone had; it notes one shortly after it has answered."""
    count = keystone.server.requests(line)
    while True:
        await asyncio.sleep(0.3)
        before, count = count, keystone.server.requests(line)
        if before == count:
            return int(count)


async def _after(end: float) -> None:
    """Waits for the end of a token."""
    await asyncio.sleep(max(0.0, end + 0.05 - time.time()))


async def test_a_token_says_who_acts_in_which_project_with_which_roles(start, keystone):
    cloud = await start()
    body = {"name": "mine"}
    made = await cloud.admin("POST", "/v2/images", json=body, X_Auth_Token=keystone.token("member"))
    assert made.status == 201, made.text
    assert made.json["owner"] == keystone.projects["red"]
    path = f"/v2/images/{made.json['id']}"
    assert await _status(cloud, path, X_Auth_Token=keystone.token("reader")) == 200
    assert await _status(cloud, path, X_Storage_Token=f" {keystone.token('reader')} ") == 200
    assert await _status(cloud, path, X_Auth_Token=keystone.token("neighbour", "blue")) == 404
    admin = keystone.accounts.token("admin", keystone.server.admin_password, project="admin").id
    assert await _status(cloud, path, X_Auth_Token=admin) == 200
    refused = await cloud.admin(
        "POST", "/v2/images", json=body, X_Auth_Token=keystone.token("reader")
    )
    assert refused.status == 403
    history = await cloud.admin(
        "GET", f"/log/v1/images/{made.json['id']}/history", X_Auth_Token=admin
    )
    assert f'"user":"{keystone.users["member"]}"' in history.text.replace(" ", "")


async def test_without_a_valid_token_only_versions_and_health_are_told(start, keystone):
    cloud = await start(public_url="https://keystone.example.org/v3")
    believed = {
        "X_User_Id": "somebody",
        "X_Project_Id": "red",
        "X_Roles": "admin",
        "X_Identity_Status": "Confirmed",
        "X_Is_Admin_Project": "True",
    }
    for headers in (
        {},
        believed,
        {"X_Auth_Token": "nonsense"},
        {"X_Auth_Token": "  "},
        {"X_Auth_Token": "n\u00f6nsense"},
        {"X_Auth_Token": "x" * 6000},
        {"X_Auth_Token": keystone.token("member"), "X_Service_Token": "nonsense"},
        {"X_Service_Token": keystone.token("nova", "service")},
    ):
        for path in ("/v2/images", "/v2.9/images", "/v2/nothing", "/v2", "/v2/schemas/image"):
            answer = await cloud.admin("GET", path, **headers)
            assert answer.status == 401, (path, headers)
            challenge = answer.headers["WWW-Authenticate"]
            assert challenge == 'Keystone uri="https://keystone.example.org/v3"'
    problem = await cloud.admin("GET", "/log/v1/events")
    assert problem.status == 401
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert await _status(cloud, "/") == 300
    assert await _status(cloud, "/versions") == 200
    assert await _status(cloud, "/healthcheck") == 200


async def test_a_hundred_requests_with_a_new_token_are_one_question(start, keystone):
    cloud = await start()
    token = keystone.token("member")
    before = await _asked(keystone)
    statuses = await asyncio.gather(*(_status(cloud, X_Auth_Token=token) for _ in range(100)))
    assert statuses == [200] * 100
    assert await _status(cloud, X_Auth_Token=token) == 200
    assert await _asked(keystone) == before + 1
    refused = await asyncio.gather(*(_status(cloud, X_Auth_Token="wrong") for _ in range(50)))
    assert refused == [401] * 50
    assert await _asked(keystone) == before + 2


async def test_a_revoked_token_is_refused_when_it_is_forgotten(start, keystone, until):
    cloud = await start(cache_seconds=1)
    token = keystone.token("member")
    assert await _status(cloud, X_Auth_Token=token) == 200
    keystone.accounts.revoke(token)
    revoked = time.monotonic()
    while await _status(cloud, X_Auth_Token=token) == 200:
        assert time.monotonic() - revoked < 5
        await asyncio.sleep(0.05)
    assert await _status(cloud, X_Auth_Token=token) == 401


async def test_the_end_of_a_token_is_kept_although_it_is_remembered(start, keystone, brief):
    cloud = await start()
    token, end = brief.token()
    assert await _status(cloud, X_Auth_Token=token) == 200
    await _after(end)
    assert await _status(cloud, X_Auth_Token=token) == 401


async def test_an_upload_ends_well_although_its_token_has_ended(start, keystone, brief):
    cloud = await start()
    lasting = keystone.token("member")
    formats = {"disk_format": "raw", "container_format": "bare"}
    made = await cloud.admin("POST", "/v2/images", json=formats, X_Auth_Token=lasting)
    token, end = brief.token()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"begun "
        await _after(end)
        yield b"and ended"

    path = f"/v2/images/{made.json['id']}"
    media = "application/octet-stream"
    sent = await cloud.admin(
        "PUT", f"{path}/file", data=slowly(), X_Auth_Token=token, Content_Type=media
    )
    assert sent.status == 204, sent.text
    assert await _status(cloud, path, X_Auth_Token=token) == 401
    data = await cloud.admin("GET", f"{path}/file", X_Auth_Token=lasting)
    assert data.body == b"begun and ended"


async def test_a_stream_of_events_ends_with_its_token(start, keystone, brief):
    cloud = await start()
    token, end = brief.token()
    headers = {"X-Auth-Token": token, "Accept": "text/event-stream"}
    async with cloud.client.get("/log/v1/events", headers=headers) as response:
        assert response.status == 200
        async with asyncio.timeout(10):
            while await response.content.readany():
                assert time.time() < end + 1
    assert end <= time.time() < end + 2
    assert await _status(cloud, "/log/v1/events", X_Auth_Token=token) == 401


async def test_a_long_poll_waits_no_longer_than_its_token(start, keystone, brief):
    cloud = await start()
    token, end = brief.token()
    answer = await cloud.admin("GET", "/log/v1/events?wait=60", X_Auth_Token=token)
    assert (answer.status, answer.json) == (200, [])
    assert end - 1 <= time.time() < end + 2
    path, lasting = "/log/v1/consumers/patient", keystone.token("member")
    made = await cloud.admin("PUT", path, json={"start": "end"}, X_Auth_Token=lasting)
    assert made.status == 201, made.text
    token, end = brief.token()
    answer = await cloud.admin("POST", f"{path}/fetch", json={"wait": 20}, X_Auth_Token=token)
    assert (answer.status, answer.json) == (200, {"deliveries": []})
    assert end - 1 <= time.time() < end + 2


async def test_a_stream_ends_when_its_token_is_revoked_and_not_while_nobody_can_tell(
    start, keystone, monkeypatch
):
    monkeypatch.setattr("calotype.http.log.event_stream.JUDGED_AGAIN_SECONDS", 0.2)
    cloud = await start(cache_seconds=0, retries=0)
    token = keystone.token("member")
    headers = {"X-Auth-Token": token, "Accept": "text/event-stream"}
    async with cloud.client.get("/log/v1/events", headers=headers) as response:
        assert await response.content.readline() == b"retry: 1000\n"
        await response.content.readline()
        ending = asyncio.create_task(response.content.readany())
        keystone.server.stop()
        try:
            assert await _status(cloud, X_Auth_Token=token) == 503
            await asyncio.sleep(0.5)
            assert not ending.done()
        finally:
            keystone.server.start()
        keystone.accounts.revoke(token)
        async with asyncio.timeout(10):
            assert await ending == b""


async def test_a_service_goes_on_after_the_end_of_a_users_token(start, keystone, brief):
    cloud = await start()
    loose = await start(service_token_roles_required=False)
    token, end = brief.token()
    await _after(end)
    service, user = keystone.token("nova", "service"), keystone.token("reader")
    late = {"X_Auth_Token": token}
    assert await _status(cloud, **late) == 401
    assert await _status(cloud, **late, X_Service_Token=service) == 200
    # Only the token of a service can: neither a user's, nor one of a service that has ended.
    assert await _status(cloud, **late, X_Service_Token=user) == 401
    assert await _status(loose, **late, X_Service_Token=user) == 401
    assert await _status(cloud, **late, X_Service_Token=token) == 401
    # A token without the role is a token all the same where roles are not required.
    assert await _status(cloud, X_Auth_Token=user, X_Service_Token=user) == 401
    assert await _status(loose, X_Auth_Token=user, X_Service_Token=user) == 200


async def test_an_application_credential_is_for_what_its_rules_say(start, keystone):
    cloud = await start()
    made = await cloud.admin("POST", "/v2/images", json={}, X_Auth_Token=keystone.token("member"))
    path = f"/v2/images/{made.json['id']}"

    def token(**rules: Any) -> str:
        fields = {"name": f"credential {time.time_ns()}", **rules}
        user = keystone.users["member"]
        made = keystone.accounts.call(
            "POST",
            f"/users/{user}/application_credentials",
            {"application_credential": fields},
            token=keystone.token("member"),
        )["application_credential"]
        secret = {"id": made["id"], "secret": made["secret"]}
        identity = {"methods": ["application_credential"], "application_credential": secret}
        return str(keystone.accounts.authenticate(identity).id)

    assert await _status(cloud, X_Auth_Token=token()) == 200
    rule = {"service": "image", "method": "GET", "path": "/v2/images/*"}
    bound = token(access_rules=[rule])
    assert await _status(cloud, path, X_Auth_Token=bound) == 200
    assert await _status(cloud, f"{path}/members", X_Auth_Token=bound) == 401
    assert await _status(cloud, "/v2/images", X_Auth_Token=bound) == 401
    assert (await cloud.admin("DELETE", path, X_Auth_Token=bound)).status == 401
    elsewhere = token(access_rules=[{**rule, "service": "compute"}])
    assert await _status(cloud, path, X_Auth_Token=elsewhere) == 401
    service = keystone.token("nova", "service")
    assert await _status(cloud, X_Auth_Token=bound, X_Service_Token=service) == 200


async def test_a_token_that_is_for_no_project_is_told_to_get_one(start, keystone):
    cloud = await start()
    accounts, password = keystone.accounts, keystone.server.admin_password
    user = accounts.call("GET", "/users?name=admin")["users"][0]["id"]
    accounts.grant("/domains/default", user, "admin")
    for scope in ({"system": {"all": True}}, {"domain": {"id": "default"}}):
        token = accounts.token("admin", password, scope=scope).id
        answer = await cloud.admin("GET", "/v2/images", X_Auth_Token=token)
        assert answer.status == 403
        assert "ask for a token of a project" in answer.text
    unscoped = accounts.token("admin", password, scope="unscoped").id
    assert await _status(cloud, X_Auth_Token=unscoped) == 403


async def test_while_keystone_is_down_who_is_known_may_go_on(start, keystone):
    cloud = await start(retries=1)
    known, new = keystone.token("member"), keystone.token("member")
    assert await _status(cloud, X_Auth_Token=known) == 200
    keystone.server.stop()
    try:
        assert await _status(cloud, X_Auth_Token=known) == 200
        answer = await cloud.admin("GET", "/v2/images", X_Auth_Token=new)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert "WWW-Authenticate" not in answer.headers
        assert await _status(cloud, "/healthcheck") == 200
    finally:
        keystone.server.start()
    assert await _status(cloud, X_Auth_Token=new) == 200


async def test_our_own_token_is_renewed_when_it_is_revoked(start, keystone):
    cloud = await start()
    assert await _status(cloud, X_Auth_Token=keystone.token("member")) == 200
    user = f"/users/{keystone.users['calotype']}"
    await _after(math.ceil(time.time()))  # So that the new token is of the revocation's second.
    for enabled in (False, True):  # Which ends all tokens of the user.
        keystone.accounts.call("PATCH", user, {"user": {"enabled": enabled}})
    assert await _status(cloud, X_Auth_Token=keystone.token("member")) == 200


async def test_our_own_token_is_renewed_before_it_ends(start, keystone, brief):
    cloud = await start(url=brief.server.url)
    for _ in range(2):
        before = await _asked(brief, LOGINS)
        assert await _status(cloud, X_Auth_Token=keystone.token("member")) == 200
        assert await _asked(brief, LOGINS) == before + 1
        await _after(time.time() + 2)


async def test_wrong_credentials_of_ours_are_our_trouble_and_not_the_callers(
    start, keystone, capfd
):
    token = keystone.token("member")
    for wrong in ({"password": "MARKER-wrong"}, {"project": "nowhere"}):
        cloud = await start(**wrong)
        answer = await cloud.admin("GET", "/v2/images", X_Auth_Token=token)
        assert answer.status == 503
        said = capfd.readouterr()
        assert "it answers 401 to the credentials of [keystone]" in said.out + said.err
        assert "MARKER-wrong" not in said.out + said.err + answer.text


async def test_calotype_may_use_an_application_credential(start, keystone):
    path = f"/users/{keystone.users['calotype']}/application_credentials"
    made = keystone.accounts.call(
        "POST",
        path,
        {"application_credential": {"name": "ours"}},
        token=keystone.token("calotype", "service"),
    )["application_credential"]
    cloud = await start(
        username="",
        password="",
        application_credential_id=made["id"],
        application_credential_secret=made["secret"],
    )
    assert await _status(cloud, X_Auth_Token=keystone.token("member")) == 200
    with pytest.raises(urllib.error.HTTPError):
        keystone.accounts.token("calotype", "wrong", project="service")
