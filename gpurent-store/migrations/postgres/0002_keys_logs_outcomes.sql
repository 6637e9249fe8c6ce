-- How a rental ended, for lists.
ALTER TABLE gpurent.rental ADD COLUMN end_kind TEXT CHECK (end_kind IN ('expired', 'failed', 'terminated'));
UPDATE gpurent.rental SET end_kind = CASE body #>> '{state,reason,why}'
    WHEN 'expired' THEN 'expired' WHEN 'failed' THEN 'failed' ELSE 'terminated' END
WHERE phase = 'ended';

-- A renter's own key for a request makes at most one rental: the primary key is what makes a second
-- one impossible.
CREATE TABLE gpurent.idempotency (
    host_id     TEXT NOT NULL,
    renter      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    rental_id   UUID NOT NULL REFERENCES gpurent.rental (id),
    CONSTRAINT idempotency_once PRIMARY KEY (host_id, renter, key)
);

-- The last lines of a container's output, as a JSON array.
CREATE TABLE gpurent.log_tail (
    rental_id  UUID PRIMARY KEY REFERENCES gpurent.rental (id),
    host_id    TEXT NOT NULL,
    kept_until BIGINT NOT NULL,
    lines      JSONB NOT NULL
);
CREATE INDEX log_tail_out_of_date ON gpurent.log_tail (host_id, kept_until);

-- Digests (SHA-256) of random 256-bit keys, never the keys.
CREATE TABLE gpurent.api_key (
    id         TEXT PRIMARY KEY,
    renter     TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('platform', 'renter')),
    digest     BYTEA NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at BIGINT NOT NULL
);
