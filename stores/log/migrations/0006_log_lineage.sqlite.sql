-- The identities that this log had before, in the order in which it had them. Each ended when the
-- log was set back to an older copy: what it had given out up to valid_to holds, and nothing beyond.
CREATE TABLE log_lineage (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    valid_to INTEGER NOT NULL,
    last_event_at TEXT NOT NULL,
    ended_at TEXT NOT NULL
);
