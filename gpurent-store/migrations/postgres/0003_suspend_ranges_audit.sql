-- A rental may be suspended: it lives on without a container, GPUs and ports.
ALTER TABLE gpurent.rental DROP CONSTRAINT rental_phase_check;
ALTER TABLE gpurent.rental ADD CONSTRAINT rental_phase_check CHECK (
    phase IN ('provisioning', 'running', 'ready', 'suspending', 'suspended', 'ending', 'ended')
);

-- An operator's key; a key that is good only from certain networks (as text, with a comma between two).
ALTER TABLE gpurent.api_key DROP CONSTRAINT api_key_role_check;
ALTER TABLE gpurent.api_key ADD CONSTRAINT api_key_role_check CHECK (role IN ('platform', 'operator', 'renter'));
ALTER TABLE gpurent.api_key ADD COLUMN allowed_ips TEXT NOT NULL DEFAULT '';

-- Ports that are one renter's, from the first time they rent until they are given back.
CREATE TABLE gpurent.port_range (
    host_id      TEXT NOT NULL,
    renter       TEXT NOT NULL,
    first_port   INTEGER NOT NULL CHECK (first_port BETWEEN 1 AND 65535),
    last_port    INTEGER NOT NULL CHECK (last_port BETWEEN first_port AND 65535),
    allocated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT port_range_one_each PRIMARY KEY (host_id, renter),
    CONSTRAINT port_range_once UNIQUE (host_id, first_port)
);

-- Who did what.
CREATE TABLE gpurent.audit (
    number  BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    renter  TEXT NOT NULL,
    role    TEXT NOT NULL,
    key_id  TEXT,
    address TEXT,
    action  TEXT NOT NULL,
    status  INTEGER NOT NULL
);

-- Whose container it was: ids that were given out stay good.
CREATE INDEX event_container ON gpurent.event (substr(body ->> 'container', 1, 12))
    WHERE name IN ('created', 'adopted');
