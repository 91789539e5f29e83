-- The log itself, in the eventsourcing library's layout; positions are given by the writer.
CREATE TABLE stored_events (
    originator_id uuid NOT NULL,
    originator_version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    notification_id bigint NOT NULL,
    PRIMARY KEY (originator_id, originator_version)
);
CREATE UNIQUE INDEX stored_events_position ON stored_events (notification_id);

-- How far each subscriber has come.
CREATE TABLE tracking (
    application_name text PRIMARY KEY,
    notification_id bigint NOT NULL
);

-- Who does what alone, and who is alive.
CREATE TABLE leases (
    name text PRIMARY KEY,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
