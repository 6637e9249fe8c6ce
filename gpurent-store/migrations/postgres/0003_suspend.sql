-- A rental may be suspended: it lives on without a container, GPUs and ports.
ALTER TABLE gpurent.rental DROP CONSTRAINT rental_phase_check;
ALTER TABLE gpurent.rental ADD CONSTRAINT rental_phase_check CHECK (
    phase IN ('provisioning', 'running', 'ready', 'suspending', 'suspended', 'ending', 'ended')
);
