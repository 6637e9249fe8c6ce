-- Lists cost their page and not the history: each of their parts walks an index that has its rows newest first.
DROP INDEX gpurent_rental_of_renter;
CREATE INDEX gpurent_rental_of_renter ON gpurent_rental (host_id, renter, created_at DESC, id DESC);
CREATE INDEX gpurent_rental_ended ON gpurent_rental (host_id, end_kind, created_at DESC, id DESC) WHERE phase = 'ended';
CREATE INDEX gpurent_rental_ended_of_renter ON gpurent_rental (host_id, renter, end_kind, created_at DESC, id DESC)
    WHERE phase = 'ended';

-- What rentals are found by besides: their labels, and under the empty label their names. Written once.
CREATE TABLE gpurent_tag (
    host_id    TEXT NOT NULL,
    renter     TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    rental_id  TEXT NOT NULL REFERENCES gpurent_rental (id),
    PRIMARY KEY (rental_id, name)
) STRICT, WITHOUT ROWID;
INSERT INTO gpurent_tag (host_id, renter, name, value, created_at, rental_id)
SELECT host_id, renter, '', name, created_at, id FROM gpurent_rental;
INSERT INTO gpurent_tag (host_id, renter, name, value, created_at, rental_id)
SELECT rental.host_id, rental.renter, label.key, label.value, rental.created_at, rental.id
FROM gpurent_rental AS rental, json_each(rental.body, '$.spec.labels') AS label;
CREATE INDEX gpurent_tag_newest ON gpurent_tag (host_id, name, value, created_at DESC, rental_id DESC);
CREATE INDEX gpurent_tag_newest_of_renter ON gpurent_tag (host_id, renter, name, value, created_at DESC, rental_id DESC);

-- Ended rentals by when they ended: those of an age are exported and deleted.
ALTER TABLE gpurent_rental ADD COLUMN ended_at INTEGER;
UPDATE gpurent_rental SET ended_at = CAST(unixepoch(body ->> '$.state.at', 'subsec') * 1000000 AS INTEGER)
WHERE phase = 'ended';
CREATE INDEX gpurent_rental_by_end ON gpurent_rental (host_id, ended_at, id) WHERE phase = 'ended';

-- What refers to a rental is found when that is deleted.
CREATE INDEX gpurent_idempotency_rental ON gpurent_idempotency (rental_id);
