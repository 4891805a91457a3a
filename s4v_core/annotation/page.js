"use strict";
const asked = new URLSearchParams(location.search);
const THANKS = "All are done. Thank you.";
const find = (id) => document.getElementById(id);
let rater = asked.get("rater") || "";
let question = null;
let turn = null;
let isWaiting = true;
let shownAt = 0;

function withKey(path, values = {}) {
  const query = new URLSearchParams(values);
  if (asked.get("key")) query.set("key", asked.get("key"));
  return query.size ? `${path}?${query}` : path;
}

function say(text, isWrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", isWrong);
}

async function ask(path, values, body) {
  const sent = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(withKey(path, values), sent);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

/** Do one thing at a time; whatever fails leaves the page as it is, and the rater may try again. */
async function run(work) {
  isWaiting = true;
  enableChoices();
  try {
    await work();
  } catch (error) {
    const text = error instanceof TypeError ? "the server does not answer" : error.message;
    say(`${text}. Nothing was saved by this step; please try again.`, true);
  }
  isWaiting = false;
  enableChoices();
}

function enableChoices() {
  for (const button of find("choices").children) button.disabled = isWaiting || !isOpen();
  find("back").disabled = isWaiting || !turn || turn.at === 0;
}

function isOpen() {
  return turn !== null && turn.item !== null;
}

function choose(value) {
  if (isWaiting || !isOpen()) return;
  const seconds = (performance.now() - shownAt) / 1000;
  run(async () => {
    show(await ask("votes", {}, { rater, item: turn.item, choice: value, seconds }));
    say(isOpen() ? "Saved." : THANKS);
  });
}

function goBack() {
  if (isWaiting || !turn || turn.at === 0) return;
  run(async () => {
    show(await ask("turn", { rater, at: turn.at - 1 }));
    say("");
  });
}

function show(next) {
  turn = next;
  find("enter").hidden = true;
  find("study").hidden = false;
  find("bar").max = Math.max(turn.total, 1);
  find("bar").value = turn.done;
  find("count").textContent = `${turn.done} of ${turn.total}, ${turn.rater}`;
  find("item").hidden = find("choices").hidden = !isOpen();
  if (!isOpen()) {
    find("images").replaceChildren();
    find("texts").replaceChildren();
    find("item").dataset.number = "";
    return;
  }
  find("images").replaceChildren(...turn.images.map(buildImage));
  find("texts").replaceChildren(...turn.texts.map(buildText));
  for (const button of find("choices").children)
    button.setAttribute("aria-pressed", String(button.value === turn.chosen));
  find("item").dataset.number = turn.item;
  scrollTo(0, 0);
  shownAt = performance.now();
}

function buildImage(path) {
  const image = document.createElement("img");
  image.alt = "the image in question";
  image.addEventListener("error", () => say("The image cannot be shown.", true));
  image.src = withKey(path);
  return image;
}

function buildText({ heading, text }) {
  const section = document.createElement("section");
  if (heading) {
    const title = document.createElement("h2");
    title.textContent = heading;
    section.append(title);
  }
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  section.append(paragraph);
  return section;
}

function buildChoice({ value, label, keys }) {
  const button = document.createElement("button");
  button.value = value;
  const key = document.createElement("kbd");
  key.textContent = { ArrowLeft: "\u2190", ArrowRight: "\u2192", ArrowDown: "\u2193" }[keys[0]] || keys[0];
  button.append(label, " ", key);
  button.addEventListener("click", () => choose(value));
  return button;
}

function press(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLInputElement || !question) return;
  if (event.key === "Backspace") {
    event.preventDefault();
    goBack();
    return;
  }
  const choice = question.choices.find((one) => one.keys.includes(event.key));
  if (!choice || !isOpen()) return;
  event.preventDefault();
  choose(choice.value);
}

function enter() {
  run(async () => {
    question = question || (await ask("question"));
    find("choices").replaceChildren(...question.choices.map(buildChoice));
    show(await ask("turn", { rater }));
    say(isOpen() ? "" : THANKS);
  });
}

find("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = find("name").value;
  const place = new URL(location.href);
  place.searchParams.set("rater", rater);
  history.replaceState(null, "", place);
  enter();
});
find("back").addEventListener("click", goBack);
document.addEventListener("keydown", press);
if (rater) enter();
else find("enter").hidden = false;
