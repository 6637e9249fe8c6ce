"""Rents, follows and ends a rental with a client that was generated from the API's own description.

Usage: rent.py URL KEY, with the folder of the package `generated_client` in PYTHONPATH.
"""

import sys
import time

from generated_client import AuthenticatedClient
from generated_client.api.events import list_events
from generated_client.api.host import list_gpus
from generated_client.api.rentals import create_rental, end_rental, list_rentals, show_access, show_rental
from generated_client.models import CreateRental, FaultSchema, Problem, RentalView, StateSchema


def until(client, rental, states):
    for _ in range(300):
        if rental.state in states:
            return rental
        time.sleep(0.05)
        rental = show_rental.sync(id=rental.id, client=client)
        assert isinstance(rental, RentalView), rental
    raise TimeoutError(f"{rental.state} is none of {states}")


def main(url, key):
    client = AuthenticatedClient(base_url=url, token=key)
    gpus = list_gpus.sync(client=client)
    assert gpus.gpus[0].model and gpus.gpus[0].memory_mib > 0, gpus
    wanted = CreateRental(gpu="V100", image="ubuntu:22.04", duration="1h", name="generated")
    rental = create_rental.sync(client=client, body=wanted, idempotency_key="generated-1")
    assert isinstance(rental, RentalView), rental
    again = create_rental.sync(client=client, body=wanted, idempotency_key="generated-1")
    assert again.id == rental.id, "one key is one rental"
    rental = until(client, rental, [StateSchema.READY])
    assert rental.bill.lines is not None and rental.expires_at > rental.started_at
    access = show_access.sync(id=rental.id, client=client)
    assert access.password and access.port == rental.ports[0].host
    page = list_rentals.sync(client=client, state="ready", name="generated")
    assert [found.id for found in page.rentals] == [rental.id]
    events = list_events.sync(client=client, rental=rental.id)
    kinds = [event.type_ for event in events.events]
    assert kinds[0] == "claimed" and "verified" in kinds, kinds
    end_rental.sync(id=rental.id, client=client)
    rental = until(client, show_rental.sync(id=rental.id, client=client), [StateSchema.TERMINATED])
    assert rental.end.fault == FaultSchema.NOBODY and rental.end.message, rental.end
    refused = create_rental.sync(client=client, body=CreateRental(gpu="V100", image="Not An Image", duration="1h"))
    assert isinstance(refused, Problem) and refused.status == 422 and refused.field == "image", refused
    print("rented, followed and ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
