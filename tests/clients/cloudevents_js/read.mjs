// Reads what is sent to us as the SDK for JavaScript does: lines of {"headers", "body"}, one answer.
// Prints, for each event of each message, what the SDK makes of it; fails where the SDK refuses.
import { createInterface } from "node:readline";
import { HTTP } from "cloudevents";

for await (const line of createInterface({ input: process.stdin })) {
  const { headers, body } = JSON.parse(line);
  const read = HTTP.toEvent({ headers, body });
  for (const event of Array.isArray(read) ? read : [read]) {
    event.validate();
    const { id, type, source, dataschema, subject, data } = event;
    console.log(JSON.stringify({ id, type, source, dataschema, subject, data }));
  }
}
