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
