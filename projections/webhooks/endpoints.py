"""The endpoints of webhooks as they are stored: where they lead, their secrets, how they fare.

They are what callers and the deliverer have said, and not made of the log: nothing here can be
made again from it. An endpoint belongs to a project, or to the operators of the service.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from secrets import token_hex
from typing import Any

import orjson

from calotype.commands.errors import LimitExceeded, NotFound
from calotype.projections.webhooks.signing import new_secret
from calotype.projections.webhooks.vault import Vault
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch

MISSING = "There is no such webhook."
BY_OWNER, BY_ENDPOINT, BY_FAILURES = (
    "by its owner",
    "the endpoint answered 410 Gone",
    "nothing was delivered for too long",
)
"""Why nothing is delivered to an endpoint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint; times in seconds since 1970."""

    project: str
    """Whose it is, and whose feed it gets; empty: the operators', with every event."""
    name: str
    """Unique in the project."""
    revision: str
    """Another one after each change by a caller."""
    url: str
    types: tuple[str, ...]
    """Only these event types; empty for all."""
    disabled: str
    """Why nothing is delivered; empty: something is."""
    created_at: float
    failures: int
    """Failed attempts since the last delivery."""
    failing_since: float | None
    """When the first of these was."""
    failed_at: float | None
    """When the last of these was."""
    last_error: str
    """What it said."""
    next_try_at: float | None
    """Until then nothing is sent, because of these failures."""
    secrets: str = field(repr=False)
    """What signs, the newest first, and until when; closed by the vault."""

    @property
    def key(self) -> tuple[str, str]:
        return self.project, self.name


_NAMES = [each.name for each in fields(Endpoint)]
_COLUMNS = ", ".join(_NAMES)
_SELECT = f"SELECT {_COLUMNS} FROM webhooks"
_ONE = f"{_SELECT} WHERE project = :project AND name = :name"
_COUNT = "SELECT count(*) FROM webhooks WHERE project = :project"
_INSERT = f"INSERT INTO webhooks ({_COLUMNS}) VALUES ({', '.join(':' + name for name in _NAMES)})"
_CHANGE = (
    "UPDATE webhooks SET revision = :revision, url = :url, types = :types, disabled = :disabled, "
    "failures = 0, failing_since = NULL, failed_at = NULL, last_error = '', "
    "next_try_at = NULL "
    "WHERE project = :project AND name = :name"
)
_SECRETS = (
    "UPDATE webhooks SET revision = :revision, secrets = :secrets "
    "WHERE project = :project AND name = :name"
)
_DELETE = "DELETE FROM webhooks WHERE project = :project AND name = :name"
# What is told of an endpoint that was changed meanwhile is about one that is no more.
_FARES = (
    "UPDATE webhooks SET disabled = :disabled, failures = :failures, "
    "failing_since = :failing_since, failed_at = :failed_at, last_error = :last_error, "
    "next_try_at = :next_try_at "
    "WHERE project = :project AND name = :name AND revision = :revision"
)


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """How an endpoint fares, as the deliverer finds it; the fields are those of Endpoint."""

    failures: int = 0
    failing_since: float | None = None
    failed_at: float | None = None
    last_error: str = ""
    next_try_at: float | None = None
    disabled: str = ""


class Endpoints:
    """Stores endpoints; of one project one change at a time, over all processes."""

    def __init__(self, recorder: GroupCommitRecorder, vault: Vault, most_of_project: int) -> None:
        self._recorder = recorder
        self._vault = vault
        self._most_of_project = most_of_project

    async def of_project(self, project: str) -> list[Endpoint]:
        """The endpoints of a project, by name."""
        sql = f"{_SELECT} WHERE project = :project ORDER BY name"
        return [_endpoint(row) for row in await self._recorder.fetch(sql, {"project": project})]

    async def all(self) -> list[Endpoint]:
        """The endpoints of everybody, by project and name."""
        return [
            _endpoint(row)
            for row in await self._recorder.fetch(f"{_SELECT} ORDER BY project, name")
        ]

    async def get(self, project: str, name: str) -> Endpoint:
        """One endpoint. Raises NotFound."""
        rows = await self._recorder.fetch(_ONE, {"project": project, "name": name})
        return _the_one(rows)

    async def put(
        self, project: str, name: str, url: str, types: Sequence[str], *, enabled: bool
    ) -> tuple[Endpoint, str | None]:
        """Makes or changes an endpoint, and forgets its failures.

        Returns its secret too when it is new, for the only time. Raises LimitExceeded for one
        too many of a project.
        """
        secret = new_secret()
        values = {
            "project": project,
            "name": name,
            "revision": token_hex(8),
            "url": url,
            "types": orjson.dumps(sorted(set(types))).decode(),
            "disabled": "" if enabled else BY_OWNER,
        }

        def work(fetch: Fetch) -> tuple[Endpoint, bool]:
            known = fetch(_ONE, {"project": project, "name": name})
            if known:
                fetch(_CHANGE, values)
            elif fetch(_COUNT, {"project": project})[0][0] >= self._most_of_project:
                raise LimitExceeded(f"A project has at most {self._most_of_project} webhooks.")
            else:
                secrets = self._closed([(secret, None)])
                fetch(_INSERT, {**_new(time.time()), **values, "secrets": secrets})
            return _the_one(fetch(_ONE, {"project": project, "name": name})), not known

        endpoint, made = await self._recorder.transact(_turn(project), work)
        return endpoint, secret if made else None

    async def rotate(self, project: str, name: str, overlap_seconds: float) -> str:
        """Gives the endpoint a new secret and returns it, for the only time.

        The one before it goes on signing beside it for `overlap_seconds`. Raises NotFound.
        """
        secret = new_secret()

        def work(fetch: Fetch) -> None:
            endpoint = _the_one(fetch(_ONE, {"project": project, "name": name}))
            former = self._opened(endpoint)[0][0]
            kept = [(former, time.time() + overlap_seconds)] if overlap_seconds > 0 else []
            values = {"secrets": self._closed([(secret, None), *kept]), "revision": token_hex(8)}
            fetch(_SECRETS, {"project": project, "name": name, **values})

        await self._recorder.transact(_turn(project), work)
        return secret

    async def delete(self, project: str, name: str) -> None:
        """Removes an endpoint. Raises NotFound."""

        def work(fetch: Fetch) -> None:
            _the_one(fetch(_ONE, {"project": project, "name": name}))
            fetch(_DELETE, {"project": project, "name": name})

        await self._recorder.transact(_turn(project), work)

    async def tell(self, endpoint: Endpoint, fares: DeliveryStatus) -> None:
        """Stores how the endpoint fares, unless a caller has changed it meanwhile."""
        values = {
            "project": endpoint.project,
            "name": endpoint.name,
            "revision": endpoint.revision,
            **asdict(fares),
        }
        await self._recorder.transact(_turn(endpoint.project), lambda fetch: fetch(_FARES, values))

    def secrets_now(self, endpoint: Endpoint) -> list[str]:
        """The secrets that sign now, the newest first. Raises Locked."""
        now = time.time()
        return [secret for secret, until in self._opened(endpoint) if until is None or until > now]

    def _opened(self, endpoint: Endpoint) -> list[tuple[str, float | None]]:
        return [
            (secret, until) for secret, until in orjson.loads(self._vault.opened(endpoint.secrets))
        ]

    def _closed(self, secrets: Sequence[tuple[str, float | None]]) -> str:
        return self._vault.closed(orjson.dumps(secrets).decode())


def _new(now: float) -> dict[str, Any]:
    return {
        "created_at": now,
        "failures": 0,
        "failing_since": None,
        "failed_at": None,
        "last_error": "",
        "next_try_at": None,
    }


def _endpoint(row: tuple[Any, ...]) -> Endpoint:
    named = dict(zip(_NAMES, row, strict=True))
    return Endpoint(**{**named, "types": tuple(orjson.loads(named["types"]))})


def _the_one(rows: Sequence[tuple[Any, ...]]) -> Endpoint:
    if not rows:
        raise NotFound(MISSING)
    return _endpoint(rows[0])


def _turn(project: str) -> str:
    """What changes of one project's endpoints wait for."""
    return f"webhooks:{project}"
