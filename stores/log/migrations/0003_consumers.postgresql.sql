-- Named consumers of the feed: what each wants, and up to where it has taken from the feed. The
-- feed is that of a project, or '' for that of operators; revision changes with every change.
CREATE TABLE consumers (
    feed text NOT NULL,
    name text NOT NULL,
    revision text NOT NULL,
    types text NOT NULL,
    image text,
    on_parked text NOT NULL,
    max_attempts bigint NOT NULL,
    taken_to bigint NOT NULL,
    created_at text NOT NULL,
    created_by text,
    PRIMARY KEY (feed, name)
);

-- What was taken from the feed and is not acknowledged. due_at, in seconds since 1970, is for state
-- waiting: not before; claimed: until; parked: since.
CREATE TABLE consumer_deliveries (
    feed text NOT NULL,
    name text NOT NULL,
    position bigint NOT NULL,
    image text NOT NULL,
    size_bytes bigint NOT NULL,
    state text NOT NULL,
    due_at double precision NOT NULL,
    attempts bigint NOT NULL,
    claimed_at double precision,
    member text,
    nonce text,
    error text,
    PRIMARY KEY (feed, name, position)
);

-- Who asked last, and when.
CREATE TABLE consumer_members (
    feed text NOT NULL,
    name text NOT NULL,
    member text NOT NULL,
    seen_at double precision NOT NULL,
    PRIMARY KEY (feed, name, member)
);
