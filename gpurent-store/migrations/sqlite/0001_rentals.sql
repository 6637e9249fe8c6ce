-- Times are microseconds since 1970 in UTC, as everywhere in gpurent; ids and JSON are text. Every name
-- begins with gpurent_, so that the file can be an application's own.

-- A host id belongs to one engine, and to the process that has its current epoch.
CREATE TABLE gpurent_host (
    id            TEXT PRIMARY KEY,
    engine        TEXT NOT NULL,
    epoch         INTEGER NOT NULL,
    last_position INTEGER NOT NULL DEFAULT 0
) STRICT;

-- `body` is the whole rental; the columns beside it are what constraints guard and queries filter by.
CREATE TABLE gpurent_rental (
    id          TEXT PRIMARY KEY,
    host_id     TEXT NOT NULL,
    renter      TEXT NOT NULL,
    name        TEXT NOT NULL,
    phase       TEXT NOT NULL CHECK (phase IN ('provisioning', 'running', 'ready', 'ending', 'ended')),
    end_kind    TEXT CHECK (end_kind IN ('expired', 'failed', 'terminated')),
    revision    INTEGER NOT NULL CHECK (revision > 0),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    fingerprint BLOB NOT NULL,
    body        TEXT NOT NULL CHECK (json_valid(body))
) STRICT;
CREATE UNIQUE INDEX gpurent_rental_live_name ON gpurent_rental (host_id, name) WHERE phase <> 'ended';
CREATE INDEX gpurent_rental_live ON gpurent_rental (host_id) WHERE phase <> 'ended';
CREATE INDEX gpurent_rental_newest ON gpurent_rental (host_id, created_at DESC, id DESC);

-- What live rentals hold. The primary keys are what makes a second holder impossible.
CREATE TABLE gpurent_gpu_hold (
    host_id   TEXT NOT NULL,
    gpu_uuid  TEXT NOT NULL,
    rental_id TEXT NOT NULL REFERENCES gpurent_rental (id),
    PRIMARY KEY (host_id, gpu_uuid)
) STRICT;
CREATE INDEX gpurent_gpu_hold_rental ON gpurent_gpu_hold (rental_id);
CREATE TABLE gpurent_port_hold (
    host_id   TEXT NOT NULL,
    port      INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    rental_id TEXT NOT NULL REFERENCES gpurent_rental (id),
    PRIMARY KEY (host_id, port)
) STRICT;
CREATE INDEX gpurent_port_hold_rental ON gpurent_port_hold (rental_id);

-- Sealed; erased with the end of the rental.
CREATE TABLE gpurent_credential (
    rental_id TEXT PRIMARY KEY REFERENCES gpurent_rental (id),
    key_id    TEXT NOT NULL,
    sealed    BLOB NOT NULL
) STRICT;

CREATE TABLE gpurent_usage_segment (
    rental_id  TEXT NOT NULL REFERENCES gpurent_rental (id),
    n          INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER CHECK (ended_at >= started_at),
    PRIMARY KEY (rental_id, n)
) STRICT;
CREATE UNIQUE INDEX gpurent_usage_segment_one_open ON gpurent_usage_segment (rental_id) WHERE ended_at IS NULL;

-- `position` is given by the host's one publisher, as in PostgreSQL.
CREATE TABLE gpurent_event (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    host_id   TEXT NOT NULL,
    rental_id TEXT NOT NULL REFERENCES gpurent_rental (id),
    seq       INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    name      TEXT NOT NULL,
    body      TEXT NOT NULL CHECK (json_valid(body)),
    position  INTEGER,
    UNIQUE (rental_id, seq),
    UNIQUE (host_id, position)
) STRICT;
CREATE INDEX gpurent_event_unpublished ON gpurent_event (host_id, id) WHERE position IS NULL;

-- A renter's own key for a request makes at most one rental.
CREATE TABLE gpurent_idempotency (
    host_id     TEXT NOT NULL,
    renter      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    rental_id   TEXT NOT NULL REFERENCES gpurent_rental (id),
    PRIMARY KEY (host_id, renter, key)
) STRICT;

-- The last lines of a container's output, as a JSON array.
CREATE TABLE gpurent_log_tail (
    rental_id  TEXT PRIMARY KEY REFERENCES gpurent_rental (id),
    host_id    TEXT NOT NULL,
    kept_until INTEGER NOT NULL,
    lines      TEXT NOT NULL CHECK (json_valid(lines))
) STRICT;
CREATE INDEX gpurent_log_tail_out_of_date ON gpurent_log_tail (host_id, kept_until);

-- Digests (SHA-256) of random 256-bit keys, never the keys.
CREATE TABLE gpurent_api_key (
    id         TEXT PRIMARY KEY,
    renter     TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('platform', 'renter')),
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at INTEGER NOT NULL
) STRICT;
