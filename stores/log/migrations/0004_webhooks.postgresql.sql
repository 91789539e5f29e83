-- Webhooks: where they lead, what signs them, and how they fare. An empty project is the operators';
-- times in seconds since 1970.
CREATE TABLE webhooks (
    project text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    revision text NOT NULL,
    url text NOT NULL,
    types text NOT NULL,
    secrets text NOT NULL,
    disabled text NOT NULL,
    created_at double precision NOT NULL,
    failures bigint NOT NULL,
    failing_since double precision,
    failed_at double precision,
    last_error text NOT NULL,
    next_try_at double precision,
    PRIMARY KEY (project, name)
);
