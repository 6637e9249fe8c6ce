// Rents, follows and ends a rental with types that were generated from the API's own description.
//
// Usage: node rent.js URL KEY, compiled beside the generated `schema.d.ts`.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

type Rental = components["schemas"]["RentalView"];
type State = components["schemas"]["StateSchema"];

const [url, key] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${key}` } });

function there<T>(value: T | undefined, what: unknown): T {
  if (value === undefined) throw new Error(`nothing came back: ${JSON.stringify(what)}`);
  return value;
}

function expect(is: boolean, what: unknown): void {
  if (!is) throw new Error(JSON.stringify(what));
}

async function show(id: string): Promise<Rental> {
  const { data, error } = await client.GET("/v1/rentals/{id}", { params: { path: { id } } });
  return there(data, error);
}

async function until(id: string, state: State): Promise<Rental> {
  for (let n = 0; n < 300; n++) {
    const rental = await show(id);
    if (rental.state === state) return rental;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${id} is never ${state}`);
}

async function main(): Promise<void> {
  const gpus = await client.GET("/v1/gpus");
  const gpu = there(there(gpus.data, gpus.error).gpus[0], gpus);
  expect(gpu.model.length > 0 && gpu.memory_mib > 0, gpu);

  const body = { gpu: "V100", image: "ubuntu:22.04", duration: "1h", name: "typed", ports: [6006, "9000/udp"] };
  const params = { header: { "Idempotency-Key": "typed-1" } };
  const made = await client.POST("/v1/rentals", { body, params });
  const { id } = there(made.data, made.error);
  const again = await client.POST("/v1/rentals", { body, params });
  expect(there(again.data, again.error).id === id, "one key is one rental");

  const ready = await until(id, "ready");
  expect(ready.ports.some((port) => port.container === 9000 && port.transport === "udp"), ready.ports);
  expect(ready.bill.lines.length > 0 && ready.expires_at! > ready.started_at!, ready);
  const access = await client.GET("/v1/rentals/{id}/access", { params: { path: { id } } });
  expect(there(access.data, access.error).port === ready.ports[0]!.host, access.data);
  const page = await client.GET("/v1/rentals", { params: { query: { state: "ready", name: "typed" } } });
  expect(there(page.data, page.error).rentals.map((found) => found.id).join() === id, page.data);
  const events = await client.GET("/v1/events", { params: { query: { rental: id } } });
  const told = there(events.data, events.error);
  // A stream of text where that is asked for.
  if (typeof told === "string") throw new Error(told);
  const kinds = told.events.map((event) => event.type);
  expect(kinds[0] === "claimed" && kinds.includes("verified"), kinds);

  const ended = await client.DELETE("/v1/rentals/{id}", { params: { path: { id } } });
  there(ended.data, ended.error);
  const { end } = await until(id, "terminated");
  expect(end?.fault === "nobody" && end.message.length > 0, end);

  const refused = await client.POST("/v1/rentals", { body: { ...body, image: "Not An Image", name: "other" } });
  const problem = there(refused.error, refused.data);
  expect(problem.status === 422 && problem.field === "image", problem);

  // What the types do not know does not compile.
  // @ts-expect-error: there is no such state.
  const wrong: State = "sleeping";
  // @ts-expect-error: a rental needs an image.
  const lacking: components["schemas"]["CreateRental"] = { gpu: "V100", duration: "1h", wrong };
  expect(lacking !== undefined, "used");
  console.log("rented, followed and ended");
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
