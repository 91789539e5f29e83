-- The identities that this log had before, in the order in which it had them. Each ended when the
-- log was set back to an older copy: what it had given out up to valid_to holds, and nothing beyond.
CREATE TABLE log_lineage (
    number integer PRIMARY KEY,
    id text NOT NULL UNIQUE,
    valid_to bigint NOT NULL,
    last_event_at text NOT NULL,
    ended_at text NOT NULL
);
