// Calls the endpoints and shows their answers; model output is set as textContent only.

const $ = (id) => document.getElementById(id);
const NO_KEY = "Type an API key first.";
const NO_ANSWER = "No answer came: the service cannot be reached, or it cut the upload off.";
const BROKEN = "The connection broke before the answer was whole.";

let key = ""; // kept in memory only
let image = null; // {file, name, type, url}
let captioned = null; // {sent, answer}: the shown caption and its request
let turns = []; // {question, answer, shown}: all shown turns are sent again
let keyCheck = null; // promise of the last key's check
let running = null; // AbortController of the request

class Failure extends Error {} // a sentence for people

function notify(sentence, kind = "") {
  $("status").textContent = sentence;
  $("status").className = kind;
  if (kind) $("status").scrollIntoView({ block: "nearest" });
}

function make(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

async function request(path, { headers = {}, ...options } = {}) {
  if (key) headers = { ...headers, authorization: `Bearer ${key}` };
  const response = await rethrow(fetch(path, { ...options, headers }), NO_ANSWER);
  if (!response.ok) throw new Failure(await describeError(response));
  return response;
}

async function describeError(response) {
  const { status, headers } = response;
  const found = (await response.json().catch(() => null))?.error;
  const words = (found?.message ?? `The service answers ${status}`).replace(/\.$/, "");
  const wait = Number(headers.get("retry-after"));
  const again = wait > 0 ? `; try again in ${wait} s` : "";
  if (status === 401) return key ? "This API key is not known: check it and try again." : NO_KEY;
  if (status === 413) return `The image is too large: ${words}.`;
  if (status === 429) return `Too many requests: ${words}${again}.`;
  return `${words}${found?.code ? ` (${found.code})` : ""}${again}.`;
}

function rethrow(reading, sentence = BROKEN) {
  return reading.catch((error) => {
    throw error.name === "AbortError" ? error : new Failure(sentence);
  });
}

async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await rethrow(reader.read());
      if (done) throw new Failure(BROKEN);
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function setBusy(busy) {
  const { activeElement } = document; // disabling a button drops its focus
  $("stop").disabled = !busy;
  if (activeElement === $("send") && busy) $("stop").focus();
  $("send").disabled = busy;
  if (activeElement === $("stop") && !busy) $("send").focus();
  $("modes").disabled = busy;
  for (const id of ["caption", "chat"]) $(id).setAttribute("aria-busy", busy);
  offerCopies();
}

async function run(work) {
  if (running) return;
  running = new AbortController();
  setBusy(true);
  notify("Waiting for the answer\u2026");
  try {
    notify(await work(running.signal));
  } catch (error) {
    if (error.name === "AbortError") return notify("Stopped.");
    const isKnown = error instanceof Failure;
    notify(isKnown ? error.message : "Something went wrong in this page.", "error");
    if (!isKnown) throw error;
  } finally {
    running = null;
    setBusy(false);
  }
}

function useKey() {
  const typed = $("key").value.trim();
  $("key").value = "";
  if (typed || !key) keyCheck = tryKey(typed);
}

async function tryKey(typed) {
  try {
    if (/[^\x21-\x7e]/.test(typed)) throw new Failure("This is no API key: it has strange signs.");
    key = typed;
    const models = (await rethrow((await request("v1/models")).json())).data;
    $("model").replaceChildren(...models.map(({ id }) => new Option(id)));
    $("model").disabled = false;
    $("key").placeholder = "in use; type another";
    notify("The key is accepted.");
  } catch (error) {
    key = $("key").placeholder = "";
    notify(error.message, "error");
  }
}

function chooseImage(file) {
  if (image) URL.revokeObjectURL(image.url);
  const type = file?.type.startsWith("image/") ? file.type : "application/octet-stream";
  image = file && { file, name: file.name || "image", type, url: URL.createObjectURL(file) };
  $("about").textContent = image
    ? `${image.name}, ${Math.ceil(file.size / 1024)} KiB`
    : "Drop, paste or choose an image.";
  $("preview").src = image?.url ?? "";
  $("preview").alt = image ? `The image: ${image.name}` : "";
  if (!image && document.activeElement === $("remove")) $("file").focus();
  $("preview").hidden = $("remove").hidden = !image;
  if (turns.length) restart("Another image, a new conversation.");
}

function takeImage(files) {
  const found = [...files].find((file) => file.type.startsWith("image/")) ?? files[0];
  if (found) chooseImage(found);
  return Boolean(found);
}

function readDataUrl(file, type) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(`data:${type};base64,${reader.result.split(",")[1] ?? ""}`);
    reader.onerror = () => reject(new Failure("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

function buildPath({ model, prompt }) {
  return `v1/caption?${new URLSearchParams({ model, ...(prompt && { prompt }) })}`;
}

async function caption(signal) {
  if (!image) {
    $("file").focus();
    throw new Failure("Choose an image first.");
  }
  captioned = null; // not to be shown beside a new image
  $("caption").replaceChildren();
  const sent = { image, model: $("model").value, prompt: $("prompt").value.trim() };
  const headers = { "content-type": image.type };
  const options = { method: "POST", body: image.file, headers, signal };
  const response = await request(buildPath(sent), options);
  captioned = { sent, answer: await rethrow(response.json()) };
  showCaption(captioned);
  return `${sent.image.name} is done.`;
}

function showCaption({ sent, answer }) {
  const { tokens, timings } = answer;
  const status = {
    ok: "ok: it passed the gate",
    rejected: `rejected by the gate: ${answer.reason}`,
    error: `error: ${answer.reason}`,
  }[answer.status];
  const facts = {
    Image: sent.image.name,
    Size: `${answer.width} \u00d7 ${answer.height} ${answer.image_format}`,
    Attempts: answer.attempts,
    Tokens: `${tokens.prompt ?? "\u2013"} in, ${tokens.output ?? "\u2013"} out`,
    Decoding: `${Math.round(timings.decode_ms)} ms`,
    Generating: `${Math.round(timings.generate_ms)} ms`,
  };
  const list = make("dl");
  for (const [name, value] of Object.entries(facts)) {
    list.appendChild(make("div")).append(make("dt", "", name), make("dd", "", value));
  }
  const card = $("caption").appendChild(make("article"));
  const text = make("p", "text", answer.caption ?? "");
  card.append(make("p", `status ${answer.status}`, status), text, list);
  card.scrollIntoView({ block: "nearest" });
}

function buildMessages(url) {
  return turns.flatMap(({ question, answer }, number) => {
    const parts = [{ type: "image_url", image_url: { url } }, { type: "text", text: question }];
    const message = { role: "user", content: number === 0 && url !== null ? parts : question };
    return answer ? [message, { role: "assistant", content: answer }] : [message];
  });
}

function addTurn(question, model) {
  const shown = [make("article", "question"), make("article")];
  shown[0].append(make("p", "who", "You"), make("p", "text", question));
  shown[1].append(make("p", "who", model), make("p", "text"), make("p", "meta"));
  $("chat").append(...shown);
  const turn = { question, answer: "", shown };
  turns.push(turn);
  return turn;
}

async function chat(signal) {
  const question = $("prompt").value.trim();
  if (!question) throw new Failure("Type a message first.");
  const model = $("model").value;
  const turn = addTurn(question, model);
  $("prompt").value = "";
  try {
    return await streamAnswer(turn, model, signal);
  } finally {
    if (!turn.answer) {
      turns = turns.filter((other) => other !== turn);
      turn.shown.forEach((element) => element.remove());
      $("prompt").value ||= question;
    }
  }
}

async function streamAnswer(turn, model, signal) {
  const url = image && await readDataUrl(image.file, image.type);
  const streaming = { stream: true, stream_options: { include_usage: true } };
  const body = JSON.stringify({ model, messages: buildMessages(url), ...streaming });
  const headers = { "content-type": "application/json" };
  const started = performance.now();
  const elapsed = () => ((performance.now() - started) / 1000).toFixed(1);
  const response = await request("v1/chat/completions", { method: "POST", body, headers, signal });
  const [, text, meta] = turn.shown[1].children;
  let first = "", tokens = null, finish = "";
  for await (const event of readEvents(response)) {
    if (event.error) throw new Failure(event.error.message);
    const choice = event.choices?.[0];
    if (choice?.delta?.content) {
      first ||= elapsed();
      const follow = $("status").getBoundingClientRect().top < innerHeight; // unless scrolled up
      text.textContent = turn.answer += choice.delta.content;
      meta.textContent = "not complete";
      if (follow) $("status").scrollIntoView({ block: "nearest" });
    }
    finish = choice?.finish_reason ?? finish;
    tokens = event.usage ?? tokens;
  }
  if (!turn.answer) throw new Failure("The model said nothing.");
  meta.textContent = [
    tokens && `${tokens.prompt_tokens} tokens in, ${tokens.completion_tokens} out`,
    `first words after ${first} s, all after ${elapsed()} s`,
    finish === "length" && "cut at the token limit",
  ].filter(Boolean).join("; ");
  return "The answer is complete.";
}

function restart(sentence) {
  stop();
  turns = [];
  $("chat").replaceChildren();
  notify(sentence);
  offerCopies();
}

const isChat = () => document.querySelector("[name=mode]:checked").value === "chat";
const quote = (text) => `'${text.replace(/'/g, "'\\''")}'`;

function offerCopies() {
  const nothing = Boolean(running) || (isChat() ? !turns.length : !captioned);
  $("copy-json").disabled = $("copy-curl").disabled = nothing;
}

function formatJson() {
  if (!isChat()) return JSON.stringify(captioned.answer, null, 2);
  const sent = buildMessages(image && image.name);
  return JSON.stringify({ model: $("model").value, messages: sent }, null, 2);
}

function formatCurl() {
  const head = (path, type) => [
    `curl ${quote(new URL(path, location).href)}`,
    '-H "Authorization: Bearer $S4V_KEY"',
    `-H ${quote(`Content-Type: ${type}`)}`,
    "--data-binary ",
  ].join(" \\\n  ");
  // A terminal obeys pasted control characters, also in a file name.
  const file = (name) => quote(name.replace(/[\x00-\x1f\x7f-\x9f]/g, "_"));
  if (!isChat()) {
    const { sent } = captioned;
    return `${head(buildPath(sent), sent.image.type)}${file(`@${sent.image.name}`)}\n`;
  }
  const sent = buildMessages(image && "").slice(0, -1);
  // An image is too long for an argument, so it goes into a here-document, in which the shell
  // expands nothing else.
  const body = JSON.stringify({ model: $("model").value, messages: sent })
    .replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .replace(/[\\$`]/g, "\\$&");
  const bytes = image && `$(base64 < ${file(image.name)} | tr -d '\\n')`;
  const full = body.replace('"url":""', () => `"url":"data:${image.type};base64,${bytes}"`);
  return `${head("v1/chat/completions", "application/json")}@- <<END\n${full}\nEND\n`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // missing without https, except on localhost
    const { activeElement } = document;
    const field = document.body.appendChild(make("textarea"));
    field.value = text;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    activeElement.focus();
    if (!done) return notify("The browser does not let this page copy.", "error");
  }
  notify("Copied.");
}

async function send() {
  if (running) return;
  if ($("key").value) useKey();
  await keyCheck;
  if (!$("model").value) {
    $("key").focus();
    return notify(NO_KEY, "error");
  }
  return run(isChat() ? chat : caption);
}

function showMode() {
  const chatting = isChat();
  $("caption").hidden = chatting;
  $("chat").hidden = $("anew").hidden = !chatting;
  $("prompt-label").textContent = chatting ? "Message" : "Prompt (empty: the model\u2019s own)";
  notify("");
  offerCopies();
}

const on = (target, type, act) => target.addEventListener(type, act);
const stop = () => running?.abort();

on(document, "submit", (event) => {
  event.preventDefault();
  event.target === $("ask") ? send() : useKey();
});
on($("key"), "blur", () => $("key").value && useKey());
on($("prompt"), "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
on(document, "keydown", (event) => event.key === "Escape" && stop());
on($("stop"), "click", stop);
on($("anew"), "click", () => restart("A new conversation."));
on($("modes"), "change", showMode);
on($("file"), "change", () => {
  takeImage($("file").files);
  $("file").value = ""; // so that the same file can be chosen again
});
on($("remove"), "click", () => chooseImage(null));
on($("preview"), "error", () => { $("preview").hidden = true; });
on(document, "paste", (event) => takeImage(event.clipboardData.files) && event.preventDefault());
for (const type of ["dragover", "dragleave", "drop"]) {
  on(document, type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
  });
}
on(document, "drop", (event) => {
  if (!takeImage(event.dataTransfer.files)) notify("Drop an image file.", "error");
});
on($("copy-json"), "click", () => copy(formatJson()));
on($("copy-curl"), "click", () => copy(formatCurl()));
chooseImage(null);
showMode();
