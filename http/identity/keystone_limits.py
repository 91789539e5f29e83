"""What projects may have, as Keystone's unified limits say it."""

import time
from typing import Any

import structlog

from calotype.commands.policy.quotas import MEBIBYTE, ProjectLimits
from calotype.http.identity.keystone_calls import Keystone, KeystoneUnavailable
from calotype.http.identity.token_cache import TokenCache

CACHE_PROJECTS = 10_000
RESOURCES = {
    "image_size_total": ("bytes", MEBIBYTE),
    "image_stage_total": ("staged_bytes", MEBIBYTE),
    "image_count_total": ("images", 1),
    "image_count_uploading": ("uploading", 1),
}
"""What each registered resource limits, and the unit that Keystone gives its limit in."""
UNLIMITED = -1
LOOK_AGAIN_SECONDS = 10.0
"""How often a catalogue that has not our endpoint is asked for again."""

log = structlog.get_logger("calotype.keystone")

_Listed = list[dict[str, Any]]


class KeystoneLimits:
    """Asks for limits of the service that `endpoint_id` names, or `service` (a type) and `region`.

    A project's own limit goes before what is registered for all, and what is not registered is 0.
    Answers are used for `cache_seconds`, and those who want the same one at the same time share
    one question.
    """

    def __init__(
        self,
        keystone: Keystone,
        *,
        endpoint_id: str = "",
        service: str = "image",
        region: str = "",
        cache_seconds: float = 10.0,
    ) -> None:
        self._keystone = keystone
        self._endpoint_id = endpoint_id
        self._service = service
        self._region = region
        self._missing_since = float("-inf")
        self._projects: TokenCache[ProjectLimits] = TokenCache(
            seconds=cache_seconds, refused_seconds=0.0, entries=CACHE_PROJECTS
        )
        self._registered: TokenCache[_Listed] = TokenCache(
            seconds=cache_seconds, refused_seconds=0.0, entries=1
        )

    async def close(self) -> None:
        await self._keystone.close()

    async def __call__(self, project: str) -> ProjectLimits:
        """The limits of a project. Raises KeystoneUnavailable while they cannot be found out."""
        limits = await self._projects.find(project.encode(), lambda: self._ask(project))
        assert limits is not None
        return limits

    async def _ask(self, project: str) -> ProjectLimits:
        service_id, region = await self._endpoint()
        registered = await self._registered.find(
            b"registered",
            lambda: self._keystone.listed("registered_limits", service_id=service_id),
        )
        own = await self._keystone.listed("limits", service_id=service_id, project_id=project)
        assert registered is not None
        limits: dict[str, int | None] = {}
        for resource, (name, unit) in RESOURCES.items():
            # The query is said again here, because no other project's limit must ever count.
            found = _limit(
                [each for each in own if each.get("project_id") == project],
                resource,
                "resource_limit",
                region,
            )
            if found is None:
                found = _limit(registered, resource, "default_limit", region)
            limits[name] = None if found == UNLIMITED else (found or 0) * unit
        return ProjectLimits(**limits)

    async def _endpoint(self) -> tuple[str, str]:
        """The ids of our service and region."""
        for service in await self._keystone.catalogue():
            for endpoint in service.get("endpoints", ()):
                region = endpoint.get("region_id") or ""
                if self._endpoint_id:
                    if endpoint.get("id") == self._endpoint_id:
                        return service["id"], region
                elif service.get("type") == self._service and self._region in ("", region):
                    return service["id"], self._region
        now = time.monotonic()
        if now - self._missing_since >= LOOK_AGAIN_SECONDS:
            self._missing_since = now
            self._keystone.renew()  # A catalogue is as old as the token that it came with.
            wanted = self._endpoint_id or f"{self._service} {self._region}".strip()
            log.error("keystone's catalogue has no such endpoint: no limits", endpoint=wanted)
        raise KeystoneUnavailable


def _limit(listed: _Listed, resource: str, key: str, region: str) -> int | None:
    """The limit of a resource in the region, else the one that is for all regions; None: neither.

    Where no region is ours, and there is none for all, the least of them.
    """
    found: dict[str, int] = {
        each.get("region_id") or "": each[key]
        for each in listed
        if each.get("resource_name") == resource and isinstance(each.get(key), int)
    }
    if region or "" in found:
        return found.get(region, found.get(""))
    bounded = [limit for limit in found.values() if limit != UNLIMITED]
    return min(bounded or found.values(), default=None)
