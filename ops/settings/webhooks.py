"""`[webhooks]`: where webhooks may lead, and how patient their delivery is."""

from pydantic import Field, field_validator

from calotype.ops.settings.table import Networks, Table
from calotype.projections.webhooks.vault import Vault, split_keys


class Webhooks(Table):
    """`[webhooks]`: events sent to endpoints that callers name."""

    deliver: bool = True
    """Deliver; false: leave that to other processes, and only let callers manage webhooks."""
    per_project: int = Field(20, ge=0)
    """Webhooks of one project at most."""
    encryption_key: str = Field("", repr=False)
    """Encrypts secrets in the database: 32 bytes in URL-safe base64, several with commas, of which
    the first encrypts and all decrypt; better given in the environment. Empty = not encrypted."""
    plain_http: bool = False
    """Let webhooks lead to http:// too."""
    allow: Networks = []
    """Networks that may be called besides the public Internet, such as `10.1.0.0/16`."""
    deny: Networks = []
    """Networks that may not be called, whatever else holds."""
    ports: list[int] = []
    """The only ports that may be called; empty = any."""
    cafile: str = ""
    """File with the authorities whose certificates are trusted; empty = those of the system."""
    timeout_seconds: float = Field(15.0, gt=0, le=300)
    """How long one attempt may take, redirects included."""
    attempts: int = Field(16, ge=1)
    """A message that has failed so often is parked; holds for webhooks made or put since."""
    first_retry_seconds: float = Field(5.0, gt=0)
    """How long the second attempt waits; each further one twice as long."""
    longest_retry_seconds: float = Field(6 * 3600.0, gt=0)
    """But no longer than this."""
    disable_after_seconds: float = Field(5 * 86400.0, ge=0)
    """An endpoint that has only failed for so long is disabled; 0 = never."""
    deliveries_per_webhook: int = Field(8, ge=1)
    """Deliveries of one webhook at once, each of another image."""
    deliveries: int = Field(64, ge=0)
    """Deliveries at once of a process, not counting one for each webhook, which it always has."""

    @field_validator("encryption_key")
    @classmethod
    def _keys(cls, keys: str) -> str:
        Vault(split_keys(keys))
        return keys
