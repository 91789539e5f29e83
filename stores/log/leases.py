"""How long leases last: who holds one renews it three times meanwhile."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The lengths of all leases of one installation; every process of it has the same."""

    process_seconds: float = 15.0
    """Of the lease that says that a process lives."""
    leader_seconds: float = 6.0
    """Of each lease of which one process at a time is the holder."""

    @property
    def process_renew_seconds(self) -> float:
        """How often a process renews its lease, looks at those of others, and sweeps."""
        return self.process_seconds / 3

    @property
    def leader_renew_seconds(self) -> float:
        """How often a leader renews its lease."""
        return self.leader_seconds / 3

    @property
    def look_seconds(self) -> float:
        """How often those who could lead look whether they do, when nothing else happens."""
        return self.leader_renew_seconds / 2
