-- Names are a space of each renter's. By the same index what one renter has is counted with every claim.
DROP INDEX gpurent_rental_live_name;
CREATE UNIQUE INDEX gpurent_rental_live_name ON gpurent_rental (host_id, renter, name) WHERE phase <> 'ended';

-- What a renter's rentals of late came to.
CREATE INDEX gpurent_rental_of_renter ON gpurent_rental (host_id, renter, created_at) WHERE phase = 'ended';

-- The environment of a rental is erased with its end; of those that have ended it is erased now.
UPDATE gpurent_rental SET body = json_set(body, '$.spec.environment', json('{}'))
WHERE phase = 'ended' AND body -> '$.spec.environment' <> '{}';
UPDATE gpurent_event SET body = json_set(body, '$.spec.environment', json('{}'))
WHERE name = 'claimed' AND body -> '$.spec.environment' <> '{}'
  AND rental_id IN (SELECT id FROM gpurent_rental WHERE phase = 'ended');
