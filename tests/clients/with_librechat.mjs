// LibreChat, whose requests @librechat/agents makes, with its settings for a custom endpoint.
import { AIMessage, HumanMessage } from "@langchain/core/messages";
import { Providers, Run } from "@librechat/agents";

const [url, key, model, image] = process.argv.slice(2);
const part = { type: "image_url", image_url: { url: image, detail: "auto" } };
const about = new HumanMessage({ content: [{ type: "text", text: "What is it?" }, part] });
const schema = {
  type: "object",
  properties: { answer: { type: "string" }, count: { type: "integer" } },
  required: ["answer", "count"],
};

const endpoint = {
  provider: Providers.OPENAI,
  model,
  apiKey: key,
  user: "6748f0e1c2",
  streaming: true,
  streamUsage: true,
  configuration: { baseURL: url },
};

const ask = async (messages, more = {}) => {
  const graphConfig = { type: "standard", llmConfig: { ...endpoint, ...more } };
  const run = await Run.create({ runId: crypto.randomUUID(), graphConfig, returnContent: true });
  const settings = { configurable: { thread_id: "chat" }, streamMode: "values", version: "v2" };
  const parts = await run.processStream({ messages }, settings);
  return parts.map((one) => one.text ?? "").join("");
};

const entitle = async (answer) => {
  const graphConfig = { type: "standard", llmConfig: endpoint };
  const run = await Run.create({ runId: crypto.randomUUID(), graphConfig });
  const contentParts = [{ type: "text", text: answer }];
  const clientOptions = { ...endpoint, streaming: false };
  const asked = { provider: Providers.OPENAI, inputText: "What is it?", contentParts };
  return (await run.generateTitle({ ...asked, clientOptions })).title;
};

const streamed = await ask([about]);
if (!(await entitle(streamed))) throw new Error("LibreChat got no title for the chat");
const stopped = await ask([about], { stop: [" caption"] });
const form = { type: "json_schema", json_schema: { name: "bound", schema, strict: true } };
const bound = await ask([about], { modelKwargs: { response_format: form } });
const second = await ask([about, new AIMessage(streamed), new HumanMessage("And now?")]);
const whole = await ask([about], { streaming: false, disableStreaming: true });
console.log(JSON.stringify({ image: whole, streamed, stopped, bound, second }));
