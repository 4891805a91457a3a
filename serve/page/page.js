// Asks the endpoints and shows what they say; a model's words only ever become textContent.

const at = (id) => document.getElementById(id);
const NO_KEY = "Type an API key first.";
const NO_ANSWER = "No answer came: the service cannot be reached, or it cut the upload off.";
const BROKEN = "The connection broke before the answer was whole.";

let key = ""; // here and nowhere else
let image = null; // {file, name, type, url}
let captioned = null; // {sent, answer}: the caption that is shown and what was asked for it
let turns = []; // {question, answer, shown}: what is shown is what is sent again
let trying = null; // the promise of models for a key
let running = null; // AbortController of the request

class Failure extends Error {} // its message is a sentence for people

function tell(sentence, kind = "") {
  at("told").textContent = sentence;
  at("told").className = kind;
  if (kind) at("told").scrollIntoView({ block: "nearest" });
}

function made(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

async function ask(path, { headers = {}, ...options } = {}) {
  if (key) headers = { ...headers, authorization: `Bearer ${key}` };
  const response = await whole(fetch(path, { ...options, headers }), NO_ANSWER);
  if (!response.ok) throw new Failure(await sentenceOf(response));
  return response;
}

async function sentenceOf(response) {
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

function whole(reading, sentence = BROKEN) {
  return reading.catch((error) => {
    throw error.name === "AbortError" ? error : new Failure(sentence);
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

function choose(file) {
  if (image) URL.revokeObjectURL(image.url);
  const type = file?.type.startsWith("image/") ? file.type : "application/octet-stream";
  image = file && { file, name: file.name || "image", type, url: URL.createObjectURL(file) };
  at("about").textContent = image
    ? `${image.name}, ${Math.ceil(file.size / 1024)} KiB`
    : "Drop, paste or choose an image.";
  at("preview").src = image?.url ?? "";
  at("preview").alt = image ? `The image: ${image.name}` : "";
  if (!image && document.activeElement === at("remove")) at("file").focus();
  at("preview").hidden = at("remove").hidden = !image;
  if (turns.length) startAnew("Another image, a new conversation.");
}

function take(files) {
  const found = [...files].find((file) => file.type.startsWith("image/")) ?? files[0];
  if (found) choose(found);
  return Boolean(found);
}

function dataUrl(file, type) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(`data:${type};base64,${reader.result.split(",")[1] ?? ""}`);
    reader.onerror = () => reject(new Failure("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

function captionPath({ model, prompt }) {
  return `v1/caption?${new URLSearchParams({ model, ...(prompt && { prompt }) })}`;
}

async function caption(signal) {
  if (!image) {
    at("file").focus();
    throw new Failure("Choose an image first.");
  }
  captioned = null; // the old one would stand beside the new image
  at("caption").replaceChildren();
  const sent = { image, model: at("model").value, prompt: at("prompt").value.trim() };
  const headers = { "content-type": image.type };
  const asked = { method: "POST", body: image.file, headers, signal };
  const response = await ask(captionPath(sent), asked);
  captioned = { sent, answer: await whole(response.json()) };
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
  const list = made("dl");
  for (const [name, value] of Object.entries(facts)) {
    list.appendChild(made("div")).append(made("dt", "", name), made("dd", "", value));
  }
  const card = at("caption").appendChild(made("article"));
  const said = made("p", "said", answer.caption ?? "");
  card.append(made("p", `status ${answer.status}`, status), said, list);
  card.scrollIntoView({ block: "nearest" });
}

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
  const since = () => ((performance.now() - started) / 1000).toFixed(1);
  const response = await ask("v1/chat/completions", { method: "POST", body, headers, signal });
  const [, said, meta] = turn.shown[1].children;
  let first = "", tokens = null, finish = "";
  for await (const event of events(response)) {
    if (event.error) throw new Failure(event.error.message);
    const choice = event.choices?.[0];
    if (choice?.delta?.content) {
      first ||= since();
      const follow = at("told").getBoundingClientRect().top < innerHeight; // else one reads above
      said.textContent = turn.answer += choice.delta.content;
      meta.textContent = "not complete";
      if (follow) at("told").scrollIntoView({ block: "nearest" });
    }
    finish = choice?.finish_reason ?? finish;
    tokens = event.usage ?? tokens;
  }
  if (!turn.answer) throw new Failure("The model said nothing.");
  meta.textContent = [
    tokens && `${tokens.prompt_tokens} tokens in, ${tokens.completion_tokens} out`,
    `first words after ${first} s, all after ${since()} s`,
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
    "--data-binary ",
  ].join(" \\\n  ");
  // A terminal obeys control characters in what is pasted, also in the name of a file.
  const file = (name) => quoted(name.replace(/[\x00-\x1f\x7f-\x9f]/g, "_"));
  if (!isChat()) {
    const { sent } = captioned;
    return `${head(captionPath(sent), sent.image.type)}${file(`@${sent.image.name}`)}\n`;
  }
  const said = messages(image && "").slice(0, -1);
  // The image is too long for an argument, so the shell puts it into a document; what people and
  // models said must stay words there.
  const body = JSON.stringify({ model: at("model").value, messages: said })
    .replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .replace(/[\\$`]/g, "\\$&");
  const bytes = image && `$(base64 < ${file(image.name)} | tr -d '\\n')`;
  const full = body.replace('"url":""', () => `"url":"data:${image.type};base64,${bytes}"`);
  return `${head("v1/chat/completions", "application/json")}@- <<END\n${full}\nEND\n`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // it is there only with https, or on this machine
    const { activeElement } = document;
    const field = document.body.appendChild(made("textarea"));
    field.value = text;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    activeElement.focus();
    if (!done) return tell("The browser does not let this page copy.", "error");
  }
  tell("Copied.");
}

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

on(document, "submit", (event) => {
  event.preventDefault();
  event.target === at("ask") ? send() : useKey();
});
on(at("key"), "blur", () => at("key").value && useKey());
on(at("prompt"), "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
on(document, "keydown", (event) => event.key === "Escape" && stop());
on(at("stop"), "click", stop);
on(at("anew"), "click", () => startAnew("A new conversation."));
on(at("modes"), "change", showMode);
on(at("file"), "change", () => {
  take(at("file").files);
  at("file").value = ""; // so that the same file can be chosen again
});
on(at("remove"), "click", () => choose(null));
on(at("preview"), "error", () => { at("preview").hidden = true; });
on(document, "paste", (event) => take(event.clipboardData.files) && event.preventDefault());
for (const type of ["dragover", "dragleave", "drop"]) {
  on(document, type, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", type === "dragover");
  });
}
on(document, "drop", (event) => {
  if (!take(event.dataTransfer.files)) tell("Drop an image file.", "error");
});
on(at("copy-json"), "click", () => copy(asJson()));
on(at("copy-curl"), "click", () => copy(asCurl()));
choose(null);
showMode();
