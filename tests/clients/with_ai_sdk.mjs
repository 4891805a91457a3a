// The AI SDK with its default model, which calls /v1/responses; stop texts go by its chat model.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, Output, streamText } from "ai";

const [url, key, name, image] = process.argv.slice(2);
const provider = createOpenAI({ baseURL: url, apiKey: key });
// Nothing is stored, so earlier answers are sent and not referred to.
const options = { maxRetries: 0, providerOptions: { openai: { store: false } } };
const part = { type: "image", image };
const about = { role: "user", content: [{ type: "text", text: "What is it?" }, part] };
const properties = { answer: { type: "string" }, count: { type: "integer" } };
const schema = jsonSchema({ type: "object", properties, required: ["answer", "count"] });
const ask = (messages, more = {}) =>
  generateText({ model: provider(name), messages, ...options, ...more });

const first = await ask([about]);
let streamed = "";
const { textStream } = streamText({ model: provider(name), messages: [about], ...options });
for await (const piece of textStream) streamed += piece;
const chat = { model: provider.chat(name), stopSequences: [" caption"] };
const stopped = (await ask([about], chat)).text;
const bound = JSON.stringify((await ask([about], { output: Output.object({ schema }) })).output);
const turns = [about, ...first.response.messages, { role: "user", content: "And now?" }];
const second = (await ask(turns)).text;
console.log(JSON.stringify({ image: first.text, streamed, stopped, bound, second }));
