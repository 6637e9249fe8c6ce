-- When the host's holder last said that it acts; noted every ten seconds.
ALTER TABLE gpurent.host ADD COLUMN confirmed_at timestamptz;
