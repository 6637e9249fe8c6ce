-- A rental may be suspended: it lives on without a container, GPUs and ports. SQLite cannot change the check of a
-- column, so the column is made anew.
DROP INDEX gpurent_rental_live_name;
DROP INDEX gpurent_rental_live;
ALTER TABLE gpurent_rental ADD COLUMN phase_now TEXT NOT NULL DEFAULT 'ended'
    CHECK (phase_now IN ('provisioning', 'running', 'ready', 'suspending', 'suspended', 'ending', 'ended'));
UPDATE gpurent_rental SET phase_now = phase;
ALTER TABLE gpurent_rental DROP COLUMN phase;
ALTER TABLE gpurent_rental RENAME COLUMN phase_now TO phase;
CREATE UNIQUE INDEX gpurent_rental_live_name ON gpurent_rental (host_id, name) WHERE phase <> 'ended';
CREATE INDEX gpurent_rental_live ON gpurent_rental (host_id) WHERE phase <> 'ended';

-- An operator's key; a key that is good only from certain networks (as text, with a comma between two).
ALTER TABLE gpurent_api_key ADD COLUMN role_now TEXT NOT NULL DEFAULT 'renter'
    CHECK (role_now IN ('platform', 'operator', 'renter'));
UPDATE gpurent_api_key SET role_now = role;
ALTER TABLE gpurent_api_key DROP COLUMN role;
ALTER TABLE gpurent_api_key RENAME COLUMN role_now TO role;
ALTER TABLE gpurent_api_key ADD COLUMN allowed_ips TEXT NOT NULL DEFAULT '';

-- Ports that are one renter's, from the first time they rent until they are given back.
CREATE TABLE gpurent_port_range (
    host_id      TEXT NOT NULL,
    renter       TEXT NOT NULL,
    first_port   INTEGER NOT NULL CHECK (first_port BETWEEN 1 AND 65535),
    last_port    INTEGER NOT NULL CHECK (last_port BETWEEN first_port AND 65535),
    allocated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    PRIMARY KEY (host_id, renter),
    UNIQUE (host_id, first_port)
) STRICT;

-- Who did what.
CREATE TABLE gpurent_audit (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    renter  TEXT NOT NULL,
    role    TEXT NOT NULL,
    key_id  TEXT,
    address TEXT,
    action  TEXT NOT NULL,
    status  INTEGER NOT NULL
) STRICT;

-- Whose container it was: ids that were given out stay good.
CREATE INDEX gpurent_event_container ON gpurent_event (substr(body ->> '$.container', 1, 12))
    WHERE name IN ('created', 'adopted');
