-- Times are microseconds since 1970 in UTC, as everywhere in gpurent.

-- A host id belongs to one engine, and to the process that has its current epoch.
CREATE TABLE gpurent.host (
    id     TEXT PRIMARY KEY,
    engine TEXT NOT NULL,
    epoch  BIGINT NOT NULL
);

-- Apart from the host, so that publishing does not wait for those who check the epoch.
CREATE TABLE gpurent.journal_head (
    host_id       TEXT PRIMARY KEY REFERENCES gpurent.host (id),
    last_position BIGINT NOT NULL DEFAULT 0
);

-- `body` is the whole rental; the columns beside it are what constraints guard and queries filter by.
CREATE TABLE gpurent.rental (
    id          UUID PRIMARY KEY,
    host_id     TEXT NOT NULL,
    renter      TEXT NOT NULL,
    name        TEXT NOT NULL,
    phase       TEXT NOT NULL CHECK (phase IN ('provisioning', 'running', 'ready', 'ending', 'ended')),
    revision    BIGINT NOT NULL CHECK (revision > 0),
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    fingerprint BYTEA NOT NULL,
    body        JSONB NOT NULL
);
CREATE UNIQUE INDEX rental_live_name ON gpurent.rental (host_id, name) WHERE phase <> 'ended';
CREATE INDEX rental_live ON gpurent.rental (host_id) WHERE phase <> 'ended';
CREATE INDEX rental_newest ON gpurent.rental (host_id, created_at DESC, id DESC);

-- What live rentals hold. The primary keys are what makes a second holder impossible.
CREATE TABLE gpurent.gpu_hold (
    host_id   TEXT NOT NULL,
    gpu_uuid  TEXT NOT NULL,
    rental_id UUID NOT NULL REFERENCES gpurent.rental (id),
    CONSTRAINT gpu_hold_once PRIMARY KEY (host_id, gpu_uuid)
);
CREATE INDEX gpu_hold_rental ON gpurent.gpu_hold (rental_id);
CREATE TABLE gpurent.port_hold (
    host_id   TEXT NOT NULL,
    port      INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    rental_id UUID NOT NULL REFERENCES gpurent.rental (id),
    CONSTRAINT port_hold_once PRIMARY KEY (host_id, port)
);
CREATE INDEX port_hold_rental ON gpurent.port_hold (rental_id);

-- Sealed; erased with the end of the rental.
CREATE TABLE gpurent.credential (
    rental_id UUID PRIMARY KEY REFERENCES gpurent.rental (id),
    key_id    TEXT NOT NULL,
    sealed    BYTEA NOT NULL
);

CREATE TABLE gpurent.usage_segment (
    rental_id  UUID NOT NULL REFERENCES gpurent.rental (id),
    n          INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT CHECK (ended_at >= started_at),
    PRIMARY KEY (rental_id, n)
);
CREATE UNIQUE INDEX usage_segment_one_open ON gpurent.usage_segment (rental_id) WHERE ended_at IS NULL;

-- `position` is given after the commit, by the host's one publisher: a sequence would let readers miss
-- events that are committed out of its order.
CREATE TABLE gpurent.event (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host_id   TEXT NOT NULL,
    rental_id UUID NOT NULL REFERENCES gpurent.rental (id),
    seq       BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    name      TEXT NOT NULL,
    body      JSONB NOT NULL,
    position  BIGINT,
    UNIQUE (rental_id, seq),
    UNIQUE (host_id, position)
);
CREATE INDEX event_unpublished ON gpurent.event (host_id, id) WHERE position IS NULL;
