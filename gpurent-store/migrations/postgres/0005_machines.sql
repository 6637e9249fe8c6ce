-- The machine of the engine that a host is pinned to, where it is known: clones of a machine have engines of one id.
ALTER TABLE gpurent.host ADD COLUMN machine text;
