-- Names are a space of each renter's. By the same index what one renter has is counted with every claim.
DROP INDEX gpurent.rental_live_name;
CREATE UNIQUE INDEX rental_live_name ON gpurent.rental (host_id, renter, name) WHERE phase <> 'ended';

-- What a renter's rentals of late came to.
CREATE INDEX rental_of_renter ON gpurent.rental (host_id, renter, created_at) WHERE phase = 'ended';

-- The environment of a rental is erased with its end; of those that have ended it is erased now.
UPDATE gpurent.rental SET body = jsonb_set(body, '{spec,environment}', '{}')
WHERE phase = 'ended' AND body #> '{spec,environment}' <> '{}';
UPDATE gpurent.event AS claim SET body = jsonb_set(claim.body, '{spec,environment}', '{}') FROM gpurent.rental
WHERE rental.id = claim.rental_id AND rental.phase = 'ended' AND claim.name = 'claimed'
  AND claim.body #> '{spec,environment}' <> '{}';
