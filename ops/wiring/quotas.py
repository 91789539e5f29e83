"""From settings to quotas: fixed ones, or those that Keystone knows."""

from calotype.commands.policy.quotas import NO_LIMITS, ProjectLimits, Quotas, SameForAll
from calotype.http.identity.keystone_limits import KeystoneLimits
from calotype.ops.settings.limits import Limits
from calotype.ops.settings.settings import Settings
from calotype.ops.wiring.identity import keystone_of
from calotype.stores.log.recorder import GroupCommitRecorder


def quotas_of(settings: Settings, recorder: GroupCommitRecorder) -> Quotas:
    """What `[limits]` says of projects."""
    table = settings.limits
    if table.keystone:
        keystone = keystone_of(settings.keystone, system_scope=table.system_scope)
        unified = KeystoneLimits(
            keystone,
            endpoint_id=table.endpoint_id,
            service=table.service,
            region=table.region,
            cache_seconds=table.cache_seconds,
        )
        return Quotas(recorder, unified)
    limits = _fixed(table)
    return Quotas(recorder, None if limits == NO_LIMITS else SameForAll(limits))


def _fixed(table: Limits) -> ProjectLimits:
    return ProjectLimits(
        images=None if table.project_images < 0 else table.project_images,
        uploading=None if table.project_uploads < 0 else table.project_uploads,
        bytes=table.user_storage_bytes or None,
    )
