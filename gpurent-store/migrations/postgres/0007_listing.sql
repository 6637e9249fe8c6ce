-- Lists cost their page and not the history: each of their parts walks an index that has its rows newest first.
DROP INDEX gpurent.rental_of_renter;
CREATE INDEX rental_of_renter ON gpurent.rental (host_id, renter, created_at DESC, id DESC);
CREATE INDEX rental_ended ON gpurent.rental (host_id, end_kind, created_at DESC, id DESC) WHERE phase = 'ended';
CREATE INDEX rental_ended_of_renter ON gpurent.rental (host_id, renter, end_kind, created_at DESC, id DESC)
    WHERE phase = 'ended';

-- What rentals are found by besides: their labels, and under the empty label their names. Written once. Found by `digest`,
-- the first half of the SHA-256 of `name=value`, since an index takes no value of more than 2.7 kB, and since PostgreSQL
-- believes that names and values have nothing to do with each other.
CREATE TABLE gpurent.tag (
    host_id    TEXT NOT NULL,
    renter     TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    digest     BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    rental_id  UUID NOT NULL REFERENCES gpurent.rental (id),
    PRIMARY KEY (rental_id, name)
);
WITH tag AS (
    SELECT host_id, renter, '' AS name, name AS value, created_at, id FROM gpurent.rental
    UNION ALL
    SELECT rental.host_id, rental.renter, label.key, label.value, rental.created_at, rental.id
    FROM gpurent.rental AS rental, jsonb_each_text(coalesce(rental.body #> '{spec,labels}', '{}')) AS label
)
INSERT INTO gpurent.tag (host_id, renter, name, value, digest, created_at, rental_id)
SELECT host_id, renter, name, value, substr(sha256(convert_to(name || '=' || value, 'UTF8')), 1, 16), created_at, id FROM tag;
CREATE INDEX tag_newest ON gpurent.tag (host_id, digest, created_at DESC, rental_id DESC);
CREATE INDEX tag_newest_of_renter ON gpurent.tag (host_id, renter, digest, created_at DESC, rental_id DESC);

-- Ended rentals by when they ended: those of an age are exported and deleted.
ALTER TABLE gpurent.rental ADD COLUMN ended_at BIGINT;
UPDATE gpurent.rental SET ended_at = (extract(epoch FROM (body #>> '{state,at}')::timestamptz) * 1000000)::bigint
WHERE phase = 'ended';
CREATE INDEX rental_by_end ON gpurent.rental (host_id, ended_at, id) WHERE phase = 'ended';

-- What refers to a rental is found when that is deleted.
CREATE INDEX idempotency_rental ON gpurent.idempotency (rental_id);
