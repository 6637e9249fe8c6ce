-- The application's own tables; names that gpurent uses too are no matter.
CREATE TABLE customer (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE rental (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, car TEXT NOT NULL);
INSERT INTO customer (name) VALUES ('Ada'), ('Grace');
