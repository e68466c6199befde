// The form: what the server's models offer, what is chosen of it, and the API key.

import * as api from "./api.js";
import { at, make } from "./dom.js";
import { OFFERED } from "./snippets.js";

const form = at("form");

const KEPT = "hart-form"; // in the tab's store: what the form says, for when the page is loaded anew
let left = JSON.parse(sessionStorage.getItem(KEPT)); // until it is back
let models = [];
let watching;
const EXAMPLES = ["a red apple", "a smiling sun", "a blue fish", "a birthday cake"];
const MOST_IMAGES = 8; // of one drawing, where the server takes as many
const ASPECTS = ["4:3", "3:4", "16:9", "9:16"]; // offered besides the sizes that a model was trained at

// --- what the server offers ---

export const model = (id = at("model").value) => models.find((one) => one.id === id) ?? models[0];

const STATES = { closed: "Not opened yet", opening: "Opening the model… You can already write and draw.", ready: "Ready" };

/** Ask for the models, again and again: a model's facts are known once its file is open, and servers come and go. asks: for a key where
 * one is needed, which is not to be done while somebody writes. */
export async function watch(asks = true) {
  let pause = 10000;
  try {
    const before = offered();
    // what was known stays: a server that was started again tells it once the model is open
    models = (await api.models()).map((one) => ({ ...models.find(({ id }) => id === one.id), ...one }));
    if (offered() !== before) offer();
    const [problem, status] = [at("problem"), at("status")];
    if ([problem, status].every(({ textContent }) => textContent === api.GONE)) problem.textContent = ""; // it is back
    showState();
    if (model().state === "opening") pause = 500;
  } catch (error) {
    if (error.status === 401) {
      at("key-button").hidden = false;
      if (asks) askForKey();
    } else pause = 2000; // it may be started again
    tell("failed", error.message);
  }
  clearTimeout(watching);
  watching = setTimeout(() => watch(false), pause);
}

/** How the chosen model is. */
function showState() {
  const { state, problem } = model();
  tell(state, STATES[state] ?? problem);
}

function tell(state, text) {
  at("status").dataset.state = state;
  at("status").textContent = text;
}

/** What the form offers, as text: the models, and what the chosen one draws. */
const offered = () => JSON.stringify([models.map(({ id }) => id), { ...model(), state: null, problem: null }]);

/** Models, sizes and styles, and the chosen model's settings. */
function offer() {
  const chosen = at("model").value;
  at("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  if (models.some(({ id }) => id === chosen)) at("model").value = chosen;
  offerModel();
  if (models.find(({ id }) => id === left?.model)?.sampling) {
    if (form.prompt.value === "") putBack(left); // else somebody has begun to write
    left = null;
  }
}

/** Put back what the form said when the page was left. */
function putBack({ style, reroll, size, ...values }) {
  form.model.value = values.model;
  offerModel();
  choose(size);
  for (const [name, value] of Object.entries(values)) if (form[name]) form[name].value = value;
  form.count.value = Math.min(values.count, form.count.max); // which may have become less
  form.reroll.checked = reroll === "on";
  at("mixing").open = form.second.value !== "";
  press(style);
  showValues();
}

document.addEventListener("visibilitychange", () => { // the last that a phone tells before it forgets a page
  if (model()?.sampling) sessionStorage.setItem(KEPT, JSON.stringify({ ...Object.fromEntries(new FormData(form)), style: chosenStyle() }));
  else if (!left) sessionStorage.removeItem(KEPT); // of another model
});

/** What the chosen model draws, and its own settings. */
function offerModel() {
  const facts = model();
  const chosen = at("size").value;
  const sizes = facts?.sizes ?? ["auto"];
  const options = [...sizes.map((size) => new Option(shape(size), size)), ...ASPECTS.map((aspect) => new Option(aspect, aspect))];
  at("size").replaceChildren(...options);
  if (options.some(({ value }) => value === chosen)) at("size").value = chosen;
  form.count.max = Math.min(MOST_IMAGES, facts?.max_images ?? MOST_IMAGES);
  if (Number(form.count.value) > Number(form.count.max)) form.count.value = form.count.max;
  const style = chosenStyle();
  at("styles").replaceChildren(...(facts?.styles ?? []).map((value) => {
    const chip = make("button", { type: "button", value, textContent: value.replace(/ style$/, "") });
    chip.addEventListener("click", () => press(value === chosenStyle() ? "" : value));
    return chip;
  }));
  press(style);
  at("style-choice").hidden = chips().length === 0;
  const last = (facts?.classes ?? 0) - 1; // of a model whose prompts are the numbers of classes
  const number = last < 0 ? undefined : `a class, 0 to ${last}`;
  form.prompt.placeholder = number ?? EXAMPLES[0];
  form.second.placeholder = number ?? "a golden apple";
  form.negative.placeholder = number ?? "what to steer away from";
  const examples = number ? new Set([0, last / 3, (2 * last) / 3, last].map(Math.round)) : EXAMPLES;
  at("examples").replaceChildren(...[...examples].map((text) => make("button", { type: "button", textContent: text })));
  form.switch.max = form.greedy.max = facts?.scales ?? 0;
  form.switch.value = Math.floor(form.switch.max / 2);
  setModelDefaults();
  form.dispatchEvent(new Event("offered"));
}

const chips = () => [...at("styles").children];

const chosenStyle = () => chips().find((chip) => chip.getAttribute("aria-pressed") === "true")?.value ?? "";

/** Choose one style, or "" for none. */
function press(style) {
  for (const chip of chips()) chip.setAttribute("aria-pressed", String(chip.value === style));
}

/** Choose a size, which need not be one of those that are offered. */
function choose(size) {
  if (![...form.size.options].some(({ value }) => value === size)) form.size.add(new Option(shape(size), size));
  form.size.value = size;
}

/** "128x128" with its ratio: "1:1 (128 × 128)". */
function shape(size) {
  const [width, height] = size.split("x").map(Number);
  if (!height) return "the model's own";
  let [a, b] = [width, height];
  while (b) [a, b] = [b, a % b];
  return `${width / a}:${height / a} (${width} × ${height})`;
}

function setModelDefaults() {
  const sampling = model()?.sampling;
  if (!sampling) return;
  const whole = { top_k: 0, top_p: 1 }; // null of a model, which keeps all codes
  for (const name of OFFERED) form[name].value = sampling[name] ?? whole[name];
  showValues();
}

function showValues() {
  at("switch-value").textContent = form.switch.max === "0" ? "" : `after scale ${form.switch.value} of ${form.switch.max}`;
  at("guidance-value").textContent = Number(form.guidance.value) === 0 ? "off" : form.guidance.value;
  at("greedy-value").textContent = form.greedy.value === "0" ? "at no scale" : `at the last ${form.greedy.value} of ${form.greedy.max} scales`;
  at("top-p-value").textContent = Number(form.top_p.value) === 1 ? "all codes" : form.top_p.value;
}

// --- what is chosen ---

/** The form's values; the chosen style stands behind the prompts. */
export function settings() {
  const second = form.second.value.trim(), style = chosenStyle();
  const styled = (text) => [text, style].filter(Boolean).join(", ");
  return {
    prompt: styled(form.prompt.value.trim()),
    ...(second && { second_prompt: styled(second) }),
    ...(second && model()?.scales && { switch: Number(form.switch.value) }),
    negative_prompt: form.negative.value.trim(),
    seed: form.seed.value, // as text: it may be larger than a Number holds
    model: form.model.value || undefined,
    [ASPECTS.includes(form.size.value) ? "aspect" : "size"]: form.size.value,
    // a model that is still being opened draws with its own settings
    ...(model()?.sampling && Object.fromEntries(OFFERED.map((name) => [name, Number(form[name].value)]))),
  };
}

/** Levels of speed that change an image. */
const rounding = (speed) => (["int8", "fp8", "draft"].includes(speed) ? speed : "exact");

/** What is lost of stored settings, as sentences: what the image was also made of (stored.lacks), settings that the form
 * does not have or cannot be set to, and a model that this server does not have. */
function losses(stored) {
  const chosen = model();
  const now = { ...chosen?.sampling, ...settings() };
  const names = [...Object.keys(chosen?.sampling ?? {}), "second_prompt", "switch", "negative_prompt"];
  const others = names.filter((name) => stored[name] !== undefined && stored[name] !== now[name]);
  const speed = rounding(stored.speed) === rounding(chosen?.speed) ? [] : [`the speed ${stored.speed ?? "exact"}`];
  const lost = [...(stored.lacks ?? []), ...speed, ...others.map((name) => `${name} ${stored[name]}`)];
  const said = [];
  if (lost.length) said.push(`The settings are back, but not ${lost.join(", nor ")}: they draw another image.`);
  if (stored.model && !served(stored.model)) said.push(`They are of the model ${stored.model}, which this server does not have: ${chosen?.id ?? "another one"} will draw another image.`);
  return said.join(" ");
}

/** The served model of this name, or of the last part of a path or id. */
const served = (name) => models.find(({ id }) => id === name || id === name?.split("/").at(-1));

/** Put settings into the form; returns what is lost of them. */
export function restore(stored) {
  form.negative.value = stored.negative_prompt ?? "";
  form.seed.value = stored.seed;
  form.reroll.checked = false;
  const known = served(stored.model);
  if (known) {
    form.model.value = known.id;
    offerModel();
  }
  const { prompt, second_prompt: second = prompt } = stored;
  const style = chips().map(({ value }) => value).find((value) => [prompt, second].every((text) => text.endsWith(`, ${value}`))) ?? "";
  const plain = (text) => (style ? text.slice(0, -style.length - 2) : text);
  form.prompt.value = plain(prompt);
  form.second.value = plain(stored.second_prompt ?? "");
  if (stored.switch !== undefined) form.switch.value = stored.switch;
  at("mixing").open = form.second.value !== "";
  press(style);
  if (stored.size) choose(stored.size);
  for (const name of OFFERED) if (stored[name] !== undefined) form[name].value = stored[name];
  showValues();
  form.prompt.focus();
  return losses(stored);
}

export const roll = () => { form.seed.value = Math.floor(Math.random() * 2 ** 32); };

function askForKey() {
  if (at("key").open) return;
  at("key").returnValue = ""; // of the last time
  at("key-wrong").hidden = !api.hasKey();
  at("key").showModal();
}

at("key-button").addEventListener("click", askForKey);
at("key").addEventListener("close", () => {
  if (at("key").returnValue !== "ok") return;
  api.setKey(at("key-value").value);
  at("problem").textContent = ""; // that there was none
  watch();
});

form.addEventListener("input", showValues);
form.addEventListener("invalid", (event) => { // where it does not show the browser could not say why
  const hidden = event.target.closest("details");
  if (hidden) hidden.open = true;
}, true);
at("dice").addEventListener("click", roll);
at("defaults").addEventListener("click", setModelDefaults);
at("model").addEventListener("change", () => { offerModel(); showState(); });
offerModel();
showValues();
