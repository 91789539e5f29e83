-- Webhooks: where they lead, what signs them, and how they fare. An empty project is the operators';
-- times in seconds since 1970.
CREATE TABLE webhooks (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    revision TEXT NOT NULL,
    url TEXT NOT NULL,
    types TEXT NOT NULL,
    secrets TEXT NOT NULL,
    disabled TEXT NOT NULL,
    created_at REAL NOT NULL,
    failures INTEGER NOT NULL,
    failing_since REAL,
    failed_at REAL,
    last_error TEXT NOT NULL,
    next_try_at REAL,
    PRIMARY KEY (project, name)
) WITHOUT ROWID;
