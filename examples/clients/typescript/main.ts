// A program that uses a p2prc node: who is there, free words, an error, a command and its output.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type RunEvent = paths["/v1/run"]["post"]["responses"]["200"]["content"]["application/x-ndjson"];
type Failure = components["schemas"]["ErrorBody"];

const baseUrl = process.env.P2PRC_API ?? "http://127.0.0.1:8089";
const headers = { Authorization: `Bearer ${process.env.P2PRC_TOKEN}` };
const node = createClient<paths>({ baseUrl, headers });

function say(fact: object): void {
  console.log(JSON.stringify(fact));
}

function taken<T>(answer: { data?: T; error?: Failure }): T {
  if (answer.data === undefined) throw new Error(answer.error?.error.message);
  return answer.data;
}

const nodes = taken(await node.GET("/v1/nodes"));
say({ nodes: nodes.map((each) => each.name) });

const told = taken(await node.POST("/v1/metadata", { body: { changes: { from: "typescript" } } }));
say({ told });

const { error, response } = await node.GET("/v1/specs", { params: { query: { node: "nobody" } } });
say({ refused: error?.error.code, status: response.status });

// A stream: one event a line.
const run = await node.POST("/v1/run", {
  body: { target: "ada", argv: ["python3", "-c", "print(6 * 7)"] },
  parseAs: "stream",
});
let printed = "";
let exit: number | null | undefined;
let held = "";
const decoder = new TextDecoder();
for await (const piece of run.data as unknown as AsyncIterable<Uint8Array>) {
  held += decoder.decode(piece, { stream: true });
  const lines = held.split("\n");
  held = lines.pop() ?? "";
  for (const line of lines.filter((each) => each !== "")) {
    const event = JSON.parse(line) as RunEvent;
    if (event.type === "output" && event.channel === 1) {
      printed += Buffer.from(event.content, "base64").toString();
    }
    if (event.type === "ended") exit = event.exit;
  }
}
say({ printed, exit });

const stranger = await createClient<paths>({ baseUrl }).GET("/v1/nodes");
say({ withoutToken: stranger.response.status });
