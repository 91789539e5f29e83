-- The log itself, in the eventsourcing library's layout; positions are given by the writer.
CREATE TABLE stored_events (
    originator_id TEXT NOT NULL,
    originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL,
    state BLOB NOT NULL,
    notification_id INTEGER PRIMARY KEY,
    UNIQUE (originator_id, originator_version)
);

-- How far each subscriber has come.
CREATE TABLE tracking (
    application_name TEXT PRIMARY KEY,
    notification_id INTEGER NOT NULL
) WITHOUT ROWID;

-- Who does what alone, and who is alive; expires_at in seconds since 1970.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at REAL NOT NULL
) WITHOUT ROWID;
