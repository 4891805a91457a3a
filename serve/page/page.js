// Asks the endpoints and shows what they say; a model's words only ever become textContent.

const at = (id) => document.getElementById(id);
const NO_KEY = "Type an API key first.";
const BROKEN = "The connection broke before the answer was whole.";
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

let key = ""; // here and nowhere else
let image = null; // {file, name, type, url}
let captioned = null; // {sent, answer}: the caption that is shown and what was asked for it
let turns = []; // {question, answer, shown}: what is shown is what is sent again
let trying = null; // the promise of models for a key
let running = null; // AbortController of the question that is being answered

class Failure extends Error {} // its message is a sentence for people

function tell(sentence, kind = "") {
  at("told").textContent = sentence;
  at("told").className = kind;
}

function made(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

// ---- asking

async function ask(path, { headers = {}, ...options } = {}) {
  if (key) headers = { ...headers, authorization: `Bearer ${key}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("No answer came: the service cannot be reached, or it cut the upload off.");
  }
  if (!response.ok) throw new Failure(await sentenceOf(response));
  return response;
}

async function sentenceOf(response) {
  const found = (await response.json().catch(() => null))?.error;
  const message = found?.message ?? `The service answered with status ${response.status}`;
  const words = message.replace(/\.$/, "");
  const wait = Number(response.headers.get("retry-after"));
  const again = wait > 0 ? `; try again in ${wait} s` : "";
  if (response.status === 401) {
    return key ? "This API key is not known here: check it and type it again." : NO_KEY;
  }
  if (response.status === 413) return `The image is too large for this service: ${words}.`;
  if (response.status === 429) return `Too many requests: ${words}${again}.`;
  return `${words}${found?.code ? ` (${found.code})` : ""}${again}.`;
}

function whole(reading) {
  return reading.catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Failure(BROKEN);
  });
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await whole(reader.read());
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
  const { activeElement } = document; // a button that is disabled would lose the focus to nowhere
  at("stop").disabled = !busy;
  if (activeElement === at("send") && busy) at("stop").focus();
  at("send").disabled = busy;
  if (activeElement === at("stop") && !busy) at("send").focus();
  at("modes").disabled = busy;
  for (const id of ["caption", "chat"]) at(id).setAttribute("aria-busy", busy);
  offerCopies();
}

async function run(work) {
  if (running) return;
  running = new AbortController();
  setBusy(true);
  tell("Waiting for the answer\u2026");
  try {
    tell(await work(running.signal));
  } catch (error) {
    if (error.name === "AbortError") return tell("Stopped.");
    tell(error instanceof Failure ? error.message : "Something went wrong in this page.", "error");
    if (!(error instanceof Failure)) throw error;
  } finally {
    running = null;
    setBusy(false);
  }
}

// ---- key and models

function useKey() {
  const typed = at("key").value.trim();
  at("key").value = "";
  if (typed || !key) trying = tryKey(typed);
}

async function tryKey(typed) {
  try {
    if (/[^\x21-\x7e]/.test(typed)) throw new Failure("This is no API key: it has strange signs.");
    key = typed;
    const models = (await whole((await ask("v1/models")).json())).data;
    at("model").replaceChildren(...models.map(({ id }) => new Option(id)));
    at("model").disabled = false;
    at("key").placeholder = "in use; type another";
    tell("The key is accepted.");
  } catch (error) {
    key = at("key").placeholder = "";
    tell(error.message, "error");
  }
}

// ---- image

function choose(file) {
  if (image) URL.revokeObjectURL(image.url);
  image = null;
  if (file) {
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    image = { file, name: file.name || "image", type, url: URL.createObjectURL(file) };
    at("preview").src = image.url;
    at("about").textContent = `${image.name}, ${Math.ceil(file.size / 1024)} KiB`;
  } else {
    at("preview").removeAttribute("src");
    at("about").textContent = "Drop or paste an image, or choose a file.";
    at("file").value = "";
  }
  at("preview").alt = image ? `The image: ${image.name}` : "";
  at("preview").hidden = at("remove").hidden = !image;
  if (turns.length) startAnew("Another image, a new conversation.");
}

function take(files, event) {
  const found = [...files].find((file) => file.type.startsWith("image/")) ?? files[0];
  if (!found) return false;
  event.preventDefault();
  at("file").value = "";
  choose(found);
  return true;
}

function dataUrl(file, type) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(`data:${type};base64,${reader.result.split(",")[1] ?? ""}`);
    reader.onerror = () => reject(new Failure("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

// ---- caption

function captionPath({ model, prompt }) {
  return `v1/caption?${new URLSearchParams(prompt ? { model, prompt } : { model })}`;
}

async function caption(signal) {
  if (!image) {
    at("file").focus();
    throw new Failure("Choose an image first.");
  }
  const sent = { image, model: at("model").value, prompt: at("prompt").value.trim() };
  const headers = { "content-type": image.type };
  const options = { method: "POST", body: image.file, headers, signal };
  const response = await ask(captionPath(sent), options);
  captioned = { sent, answer: await whole(response.json()) };
  showCaption(captioned);
  return `${sent.image.name} is done.`;
}

function showCaption({ sent, answer }) {
  const status = {
    ok: "ok: the caption passed the gate",
    rejected: `rejected by the gate: ${answer.reason}`,
    error: `error: ${answer.reason}`,
  }[answer.status];
  const facts = {
    "Image": sent.image.name,
    "Size": `${answer.width} \u00d7 ${answer.height} ${answer.image_format}`,
    "Attempts": answer.attempts,
    "Tokens in": answer.tokens.prompt ?? "\u2013",
    "Tokens out": answer.tokens.output ?? "\u2013",
    "Decoding": `${Math.round(answer.timings.decode_ms)} ms`,
    "Generating": `${Math.round(answer.timings.generate_ms)} ms`,
  };
  const list = made("dl");
  for (const [name, value] of Object.entries(facts)) {
    const pair = made("div");
    pair.append(made("dt", "", name), made("dd", "", value));
    list.append(pair);
  }
  const card = made("article");
  const said = made("p", "said", answer.caption ?? "");
  card.append(made("p", `status ${answer.status}`, status), said, list);
  at("caption").replaceChildren(card);
}

// ---- chat

function messages(url) {
  return turns.flatMap(({ question, answer }, number) => {
    const parts = [{ type: "image_url", image_url: { url } }, { type: "text", text: question }];
    const asked = { role: "user", content: number === 0 && url !== null ? parts : question };
    return answer ? [asked, { role: "assistant", content: answer }] : [asked];
  });
}

function addTurn(question, model) {
  const shown = [made("article", "question"), made("article")];
  shown[0].append(made("p", "who", "You"), made("p", "said", question));
  shown[1].append(made("p", "who", model), made("p", "said"), made("p", "meta"));
  at("chat").append(...shown);
  const turn = { question, answer: "", shown };
  turns.push(turn);
  return turn;
}

async function chat(signal) {
  const question = at("prompt").value.trim();
  if (!question) throw new Failure("Type a message first.");
  const model = at("model").value;
  const turn = addTurn(question, model);
  at("prompt").value = "";
  try {
    return await answered(turn, model, signal);
  } finally {
    if (!turn.answer) {
      turns = turns.filter((other) => other !== turn);
      turn.shown.forEach((element) => element.remove());
      at("prompt").value ||= question;
    }
  }
}

async function answered(turn, model, signal) {
  const url = image && await dataUrl(image.file, image.type);
  const streaming = { stream: true, stream_options: { include_usage: true } };
  const body = JSON.stringify({ model, messages: messages(url), ...streaming });
  const headers = { "content-type": "application/json" };
  const started = performance.now();
  const response = await ask("v1/chat/completions", { method: "POST", body, headers, signal });
  const [, said, meta] = turn.shown[1].children;
  let first = 0, tokens = null, finish = "";
  for await (const event of events(response)) {
    if (event.error) throw new Failure(event.error.message);
    const choice = event.choices?.[0];
    if (choice?.delta?.content) {
      first ||= performance.now() - started;
      said.textContent = turn.answer += choice.delta.content;
      meta.textContent = "not complete";
      said.scrollIntoView({ block: "nearest" });
    }
    finish = choice?.finish_reason ?? finish;
    tokens = event.usage ?? tokens;
  }
  if (!turn.answer) throw new Failure("The model said nothing.");
  meta.textContent = [
    tokens && `${tokens.prompt_tokens} tokens in, ${tokens.completion_tokens} out`,
    `first words after ${seconds(first)}, all after ${seconds(performance.now() - started)}`,
    finish === "length" && "cut at the token limit",
  ].filter(Boolean).join("; ");
  return "The answer is complete.";
}

function startAnew(sentence) {
  stop();
  turns = [];
  at("chat").replaceChildren();
  tell(sentence);
  offerCopies();
}

// ---- copies

const isChat = () => document.querySelector("[name=mode]:checked").value === "chat";
const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

function offerCopies() {
  const nothing = Boolean(running) || (isChat() ? !turns.length : !captioned);
  at("copy-json").disabled = at("copy-curl").disabled = nothing;
}

function asJson() {
  if (!isChat()) return JSON.stringify(captioned.answer, null, 2);
  const said = messages(image && image.name);
  return JSON.stringify({ model: at("model").value, messages: said }, null, 2);
}

function asCurl() {
  const head = (path, type) => [
    `curl ${quoted(new URL(path, location).href)}`,
    '-H "Authorization: Bearer $S4V_KEY"',
    `-H ${quoted(`Content-Type: ${type}`)}`,
  ].join(" \\\n  ");
  // A terminal obeys control characters in what is pasted, also in the name of a file.
  const file = (name) => quoted(name.replace(/[\x00-\x1f\x7f-\x9f]/g, "_"));
  if (!isChat()) {
    const { sent } = captioned;
    const bytes = file(`@${sent.image.name}`);
    return `${head(captionPath(sent), sent.image.type)} \\\n  --data-binary ${bytes}\n`;
  }
  const said = messages(image && "").slice(0, -1);
  // The image is too long for an argument, so the shell puts it into a document; what people and
  // models said must stay words there.
  const body = JSON.stringify({ model: at("model").value, messages: said })
    .replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .replace(/[\\$`]/g, "\\$&");
  const bytes = image && `$(base64 < ${file(image.name)} | tr -d '\\n')`;
  const full = body.replace('"url":""', () => `"url":"data:${image.type};base64,${bytes}"`);
  const line = head("v1/chat/completions", "application/json");
  return `${line} \\\n  --data-binary @- <<END\n${full}\nEND\n`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text); // only there with https, or on this machine
    tell("Copied.");
  } catch {
    const { activeElement } = document;
    const field = document.body.appendChild(document.createElement("textarea"));
    field.value = text;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    activeElement.focus();
    tell(done ? "Copied." : "The browser does not let this page copy.", done ? "" : "error");
  }
}

// ---- controls

async function send() {
  if (running) return;
  if (at("key").value) useKey();
  await trying;
  if (!at("model").value) {
    at("key").focus();
    return tell(NO_KEY, "error");
  }
  return run(isChat() ? chat : caption);
}

function showMode() {
  const chatting = isChat();
  at("caption").hidden = chatting;
  at("chat").hidden = at("anew").hidden = !chatting;
  at("prompt-label").textContent = chatting ? "Message" : "Prompt (empty: the model\u2019s own)";
  tell("");
  offerCopies();
}

const on = (target, type, act) => target.addEventListener(type, act);
const stop = () => running?.abort();

function onSubmit(id, act) {
  on(at(id), "submit", (event) => {
    event.preventDefault();
    act();
  });
}

onSubmit("key-form", useKey);
onSubmit("ask", send);
on(at("key"), "blur", () => at("key").value && useKey());
on(at("prompt"), "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
on(document, "keydown", (event) => event.key === "Escape" && stop());
on(at("stop"), "click", stop);
on(at("anew"), "click", () => {
  startAnew("A new conversation.");
  at("prompt").focus();
});
on(at("modes"), "change", showMode);
on(at("file"), "change", () => at("file").files.length && choose(at("file").files[0]));
on(at("remove"), "click", () => {
  choose(null);
  at("file").focus();
});
on(at("preview"), "error", () => { at("preview").hidden = true; });
on(document, "paste", (event) => take(event.clipboardData.files, event));
on(document, "dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
on(document, "dragleave", () => at("drop").classList.remove("over"));
on(document, "drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (!take(event.dataTransfer.files, event)) tell("Drop an image file.", "error");
});
on(at("copy-json"), "click", () => copy(asJson()));
on(at("copy-curl"), "click", () => copy(asCurl()));
choose(null);
showMode();
