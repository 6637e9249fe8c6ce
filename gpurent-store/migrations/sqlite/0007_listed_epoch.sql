-- The last epoch of an agent that writes what lists are read from, `gpurent_tag` and `ended_at`. An agent of the version before
-- these may have gone on for a while after they were made; the first one that takes over from it writes what is missing.
ALTER TABLE gpurent_host ADD COLUMN listed_epoch INTEGER NOT NULL DEFAULT 0;
