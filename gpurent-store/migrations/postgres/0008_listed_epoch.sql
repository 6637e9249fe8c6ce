-- The last epoch of an agent that writes what lists are read from, `tag` and `ended_at`. An agent of the version before these
-- may have gone on for a while after they were made; the first one that takes over from it writes what is missing.
ALTER TABLE gpurent.host ADD COLUMN listed_epoch BIGINT NOT NULL DEFAULT 0;
