-- Names are a space of each renter's. By the same index what one renter has is counted with every claim.
DROP INDEX gpurent.rental_live_name;
CREATE UNIQUE INDEX rental_live_name ON gpurent.rental (host_id, renter, name) WHERE phase <> 'ended';

-- What a renter's rentals of late came to.
CREATE INDEX rental_of_renter ON gpurent.rental (host_id, renter, created_at) WHERE phase = 'ended';
