// openai for node: chat completions.
import OpenAI from "openai";

const [url, key, model, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
const part = { type: "image_url", image_url: { url: image } };
const about = { role: "user", content: [{ type: "text", text: "What is it?" }, part] };
const properties = { answer: { type: "string" }, count: { type: "integer" } };
const schema = { type: "object", properties, required: ["answer", "count"] };
const ask = async (messages, more = {}) =>
  (await client.chat.completions.create({ model, messages, ...more })).choices[0].message;

const first = await ask([about]);
let streamed = "";
const chunks = await client.chat.completions.create({ model, messages: [about], stream: true });
for await (const chunk of chunks) streamed += chunk.choices[0]?.delta?.content ?? "";
const stopped = (await ask([about], { stop: [" caption"] })).content;
const form = { type: "json_schema", json_schema: { name: "bound", schema, strict: true } };
const bound = (await ask([about], { response_format: form })).content;
const second = (await ask([about, first, { role: "user", content: "And now?" }])).content;
console.log(JSON.stringify({ image: first.content, streamed, stopped, bound, second }));
