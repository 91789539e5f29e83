"""`[leases]`: how soon others take over from a process that is gone."""

from pydantic import Field

from calotype.ops.settings.table import Table


class Leases(Table):
    """`[leases]`: how soon others take over from a process that died; the same in all processes."""

    process_seconds: float = Field(15.0, ge=1.0, le=600)
    """How long a process counts as living after it was last seen. Within four times that, an image
    whose upload has died with its process is queued again."""
    leader_seconds: float = Field(6.0, ge=1.0, le=600)
    """After so long another process goes on with what one does for all: sealing, sweeping, sinks,
    webhooks. Leases are renewed three times as often as they must be."""
