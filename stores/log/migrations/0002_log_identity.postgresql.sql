-- Which log this is, made once at random: positions that leave the service name it.
CREATE TABLE log_identity (id text PRIMARY KEY);
INSERT INTO log_identity (id) VALUES (right(replace(gen_random_uuid()::text, '-', ''), 12));
