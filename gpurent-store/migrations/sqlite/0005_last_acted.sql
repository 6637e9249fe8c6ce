-- When the host's holder last said that it acts, in seconds since 1970; noted every ten seconds.
ALTER TABLE gpurent_host ADD COLUMN confirmed_at INTEGER;
