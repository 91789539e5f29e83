-- The length of each lease: one that ends much later than that was written before the clock was set
-- back.
ALTER TABLE leases ADD COLUMN seconds double precision;
