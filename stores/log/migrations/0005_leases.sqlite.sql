-- A lease ends by the machine's monotonic clock, which no correction moves: expires_at is in its
-- seconds, and means nothing after the boot in which it was written. seconds is the lease's length.
ALTER TABLE leases ADD COLUMN seconds REAL;
ALTER TABLE leases ADD COLUMN boot TEXT;
