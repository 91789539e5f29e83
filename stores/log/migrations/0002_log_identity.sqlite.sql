-- Which log this is, made once at random: positions that leave the service name it.
CREATE TABLE log_identity (id TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO log_identity (id) VALUES (lower(hex(randomblob(6))));
