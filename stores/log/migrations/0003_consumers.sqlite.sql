-- Named consumers of the feed: what each wants, and up to where it has taken from the feed. The
-- feed is that of a project, or '' for that of operators; revision changes with every change.
CREATE TABLE consumers (
    feed TEXT NOT NULL,
    name TEXT NOT NULL,
    revision TEXT NOT NULL,
    types TEXT NOT NULL,
    image TEXT,
    on_parked TEXT NOT NULL,
    max_attempts INTEGER NOT NULL,
    taken_to INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    created_by TEXT,
    PRIMARY KEY (feed, name)
) WITHOUT ROWID;

-- What was taken from the feed and is not acknowledged. due_at, in seconds since 1970, is for state
-- waiting: not before; claimed: until; parked: since.
CREATE TABLE consumer_deliveries (
    feed TEXT NOT NULL,
    name TEXT NOT NULL,
    position INTEGER NOT NULL,
    image TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    state TEXT NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    claimed_at REAL,
    member TEXT,
    nonce TEXT,
    error TEXT,
    PRIMARY KEY (feed, name, position)
) WITHOUT ROWID;

-- Who asked last, and when.
CREATE TABLE consumer_members (
    feed TEXT NOT NULL,
    name TEXT NOT NULL,
    member TEXT NOT NULL,
    seen_at REAL NOT NULL,
    PRIMARY KEY (feed, name, member)
) WITHOUT ROWID;
