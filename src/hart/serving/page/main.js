// The page: the form, the images that are being drawn, and the history. Nothing is sent anywhere but to this server.

import * as api from "./api.js";
import * as editor from "./editor.js";
import * as history from "./history.js";
import { settingsOf } from "./png.js";
import * as viewer from "./viewer.js";

const at = (id) => document.getElementById(id);
const form = at("form");

let models = [];
let images = []; // the history, newest first
let watching;
let running = null; // the AbortController of the drawing that is running
const picked = new Set();
const ASPECTS = ["4:3", "3:4", "16:9", "9:16"]; // offered besides the sizes that a model was trained at

// --- what the server offers ---

const model = (id = at("model").value) => models.find((one) => one.id === id) ?? models[0];

const STATES = { closed: "Not opened yet", opening: "Opening the model… You can already write and draw.", ready: "Ready" };

/** Ask for the models, again and again: a model's facts are known once its file is open, and servers come and go. */
async function watch() {
  try {
    const known = models.length > 0 && model().scales;
    models = await api.models();
    if (!known) offer();
    tell(models[0].state, STATES[models[0].state] ?? models[0].problem);
  } catch (error) {
    if (error.status === 401) askForKey();
    tell("failed", error.message);
  }
  clearTimeout(watching);
  watching = setTimeout(watch, models[0]?.state === "opening" ? 500 : 10000);
}

function tell(state, text) {
  at("status").dataset.state = state;
  at("status").textContent = text;
}

/** Models, sizes and styles, and the chosen model's settings. */
function offer() {
  const chosen = at("model").value;
  at("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  if (models.some(({ id }) => id === chosen)) at("model").value = chosen;
  offerModel();
}

/** What the chosen model draws, and its own settings. */
function offerModel() {
  const facts = model();
  const chosen = at("size").value;
  const sizes = facts?.sizes ?? ["auto"];
  const options = [...sizes.map((size) => new Option(shape(size), size)), ...ASPECTS.map((aspect) => new Option(aspect, aspect))];
  at("size").replaceChildren(...options);
  if (options.some(({ value }) => value === chosen)) at("size").value = chosen;
  const style = chosenStyle();
  at("styles").replaceChildren(...(facts?.styles ?? []).map((value) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.value = value;
    chip.textContent = value.replace(/ style$/, "");
    chip.addEventListener("click", () => press(value === chosenStyle() ? "" : value));
    return chip;
  }));
  press(style);
  at("style-choice").hidden = chips().length === 0;
  setModelDefaults();
}

const chips = () => [...at("styles").children];

const chosenStyle = () => chips().find((chip) => chip.getAttribute("aria-pressed") === "true")?.value ?? "";

/** Choose one style, or "" for none. */
function press(style) {
  for (const chip of chips()) chip.setAttribute("aria-pressed", String(chip.value === style));
}

/** "128x128" with its ratio: "1:1 (128 × 128)". */
function shape(size) {
  const [width, height] = size.split("x").map(Number);
  if (!height) return "as the model draws";
  let [a, b] = [width, height];
  while (b) [a, b] = [b, a % b];
  return `${width / a}:${height / a} (${width} × ${height})`;
}

function setModelDefaults() {
  const sampling = model()?.sampling;
  if (!sampling) return;
  form.guidance.value = sampling.guidance_scale;
  form.top_k.value = sampling.top_k ?? 0;
  form.top_p.value = sampling.top_p ?? 1;
  showValues();
}

function showValues() {
  at("guidance-value").textContent = Number(form.guidance.value) === 0 ? "off" : form.guidance.value;
  at("top-p-value").textContent = Number(form.top_p.value) === 1 ? "all codes" : form.top_p.value;
}

// --- drawing ---

/** The form's values; the chosen style stands behind the prompt. */
function settings() {
  const prompt = form.prompt.value.trim(), style = chosenStyle();
  return {
    prompt: style ? `${prompt}, ${style}` : prompt,
    negative_prompt: form.negative.value.trim(),
    seed: Number(form.seed.value),
    model: form.model.value || undefined,
    [ASPECTS.includes(form.size.value) ? "aspect" : "size"]: form.size.value,
    // a model that is still being opened draws with its own settings
    ...(model()?.sampling && {
      guidance_scale: Number(form.guidance.value),
      top_k: Number(form.top_k.value),
      top_p: Number(form.top_p.value),
    }),
  };
}

function say(text) {
  at("message").textContent = text;
  at("message").hidden = !text;
}

const roll = () => { form.seed.value = Math.floor(Math.random() * 2 ** 32); };

/** Run one request and show its images as they come. fields: what the request holds besides `chosen` and the count. */
async function run(path, chosen, count, fields = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  say("");
  busy(true);
  for (const old of at("current").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  const tiles = Array.from({ length: count }, (_, index) => waitingTile({ ...chosen, seed: chosen.seed + index }));
  at("current").replaceChildren(...tiles.map(({ element }) => element));
  if (matchMedia("(max-width: 46rem)").matches) at("stage").scrollIntoView(); // below the form
  const wanted = { ...chosen, ...fields, n: count, stream: true, partial_images: model(chosen.model)?.scales ?? 3, output_format: "png" };
  for (const [name, value] of Object.entries(wanted)) if (value === "" || value === undefined) delete wanted[name];
  try {
    for await (const event of api.draw(path, fields.image ? multipart(wanted) : wanted, mine.signal)) {
      const tile = tiles[event.index];
      if (event.done) await tile.finish(event, path);
      else tile.show(event.blob);
    }
    if (form.reroll.checked) roll();
    if (!model(chosen.model)?.scales) watch();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    if (error.status === 401) askForKey();
    for (const tile of tiles) tile.giveUp();
  } finally {
    if (running === mine) {
      running = null;
      busy(false);
    }
  }
}

function multipart(wanted) {
  const data = new FormData();
  for (const [name, value] of Object.entries(wanted)) {
    if (value instanceof Blob) data.append(name, value, `${name}.png`);
    else data.append(name, String(value));
  }
  return data;
}

function busy(on) {
  at("stop").disabled = !on;
  at("current").setAttribute("aria-busy", String(on));
}

/** A place for an image that is being drawn. */
function waitingTile(chosen) {
  const element = document.createElement("div");
  element.className = "tile drawing";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "open";
  button.disabled = true;
  const note = document.createElement("span");
  note.className = "waiting";
  note.textContent = model(chosen.model)?.state === "ready" ? "Waiting for its turn…" : "Opening the model…";
  button.append(note);
  const bar = document.createElement("progress");
  bar.setAttribute("aria-label", `Drawing ${chosen.prompt}`);
  element.append(button, bar);
  const partials = [];
  const picture = document.createElement("img");
  picture.alt = `${chosen.prompt}, being drawn`;
  let source;
  const put = (blob) => {
    if (source) URL.revokeObjectURL(source);
    source = picture.src = viewer.url(blob);
    if (!picture.isConnected) button.replaceChildren(picture);
  };
  return {
    element,
    show(blob) {
      partials.push(blob);
      bar.max = model(chosen.model)?.scales ?? partials.length + 1;
      bar.value = partials.length;
      put(blob);
    },
    async finish(event, path) {
      put(event.blob);
      bar.remove();
      element.classList.remove("drawing");
      picture.alt = chosen.prompt;
      button.disabled = false;
      const { aspect, ...asked } = chosen; // the answer has the size in pixels
      const made = { ...asked, seed: event.seed ?? chosen.seed, size: event.size ?? chosen.size };
      const image = { created: Date.now(), blob: event.blob, partials, settings: made, kind: path.split("/").at(-1) };
      const kept = await history.add(image).catch(() => {
        at("history-hint").textContent = "this browser does not keep them: download what you like";
        return { ...image, id: `unkept-${Math.random()}` };
      });
      element.dataset.id = kept.id;
      images.unshift(kept);
      at("gallery").prepend(galleryTile(kept));
      button.addEventListener("click", () => viewer.open(kept, model(made.model)));
    },
    giveUp() {
      if (!picture.isConnected) element.remove();
      element.classList.replace("drawing", "unfinished");
      bar.remove();
    },
  };
}

// --- history ---

function galleryTile(image) {
  const item = document.createElement("li");
  item.className = "tile";
  item.dataset.id = image.id;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "open";
  const picture = document.createElement("img");
  picture.alt = `${image.settings.prompt}, seed ${image.settings.seed}`;
  picture.loading = "lazy";
  picture.src = viewer.url(image.blob);
  button.title = image.settings.prompt;
  button.append(picture);
  button.addEventListener("click", () => viewer.open(image, model(image.settings.model)));
  const tick = document.createElement("input");
  tick.type = "checkbox";
  tick.className = "pick";
  tick.setAttribute("aria-label", `Choose ${picture.alt} for comparison`);
  tick.addEventListener("change", () => pick(image, tick.checked));
  item.append(button, tick);
  return item;
}

/** Choose an image for comparison, or no more; of three the first is let go. */
function pick(image, on) {
  if (on) picked.add(image); else picked.delete(image);
  if (picked.size > 2) {
    const [first] = picked;
    picked.delete(first);
    at("gallery").querySelector(`[data-id="${first.id}"] .pick`).checked = false;
  }
  at("compare").disabled = picked.size !== 2;
}

function forget(image) {
  pick(image, false);
  images = images.filter((one) => one !== image);
  for (const tile of at("stage").querySelectorAll(`[data-id="${image.id}"]`)) {
    URL.revokeObjectURL(tile.querySelector("img").src);
    tile.remove();
  }
}

/** Put settings into the form. */
function restore(stored) {
  form.negative.value = stored.negative_prompt ?? "";
  form.seed.value = stored.seed;
  form.reroll.checked = false;
  if (models.some(({ id }) => id === stored.model)) {
    form.model.value = stored.model;
    offerModel();
  }
  const style = chips().map(({ value }) => value).find((value) => stored.prompt.endsWith(`, ${value}`)) ?? "";
  form.prompt.value = style ? stored.prompt.slice(0, -style.length - 2) : stored.prompt;
  press(style);
  if (stored.size) {
    if (![...form.size.options].some(({ value }) => value === stored.size)) form.size.add(new Option(shape(stored.size), stored.size));
    form.size.value = stored.size;
  }
  for (const name of ["guidance_scale", "top_k", "top_p"]) {
    const field = name === "guidance_scale" ? form.guidance : form[name];
    if (stored[name] !== undefined) field.value = stored[name];
  }
  showValues();
  form.prompt.focus();
}

async function restoreFrom(file) {
  const found = await settingsOf(file).catch(() => null);
  if (found) {
    say("");
    return restore(found);
  }
  say("That file does not say how it was made. It can still be edited.");
  if (file.type.startsWith("image/")) edit({ blob: file, settings: settings() });
}

// --- what can be made of an image ---

async function edit(image) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(image.blob);
  } catch {
    return say("That file is not an image that this browser can show.");
  }
  editor.open(bitmap, image.settings.prompt, model(image.settings.model)?.token_size ?? 16, (work) => {
    run("/v1/images/edits", { ...settings(), aspect: undefined, prompt: work.prompt || image.settings.prompt, size: work.size }, Number(form.count.value), {
      image: work.image,
      mask: work.mask,
    });
  });
}

viewer.connect({
  reuse: (image) => restore(image.settings),
  edit,
  vary: (image, kept) => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    run("/v1/images/variations", { ...image.settings, seed }, Number(form.count.value), { image: image.blob, kept_scales: kept });
  },
  remove: async (image) => {
    if (typeof image.id === "number") await history.remove(image.id);
    forget(image);
  },
  step: (image, by) => {
    const next = images[images.indexOf(image) + by];
    if (next) viewer.open(next, model(next.settings.model));
  },
});

// --- keys, files, buttons ---

function askForKey() {
  at("key-button").hidden = false;
  if (!at("key").open) at("key").showModal();
}

at("key-button").addEventListener("click", askForKey);
at("key").addEventListener("close", () => {
  if (at("key").returnValue !== "ok") return;
  api.setKey(at("key-value").value);
  watch();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run("/v1/images/generations", settings(), Number(form.count.value));
});
form.addEventListener("input", showValues);
at("stop").addEventListener("click", () => running?.abort());
at("dice").addEventListener("click", roll);
at("examples").addEventListener("click", (event) => {
  if (!event.target.matches("button")) return;
  form.prompt.value = event.target.textContent;
  form.requestSubmit();
});
at("defaults").addEventListener("click", setModelDefaults);
at("model").addEventListener("change", offerModel);
at("compare").addEventListener("click", () => viewer.compare([...picked]));
at("clear").addEventListener("click", async () => {
  if (!confirm("Delete all images of the history from this browser?")) return;
  await history.clear();
  images.slice().forEach(forget);
});
at("open-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) restoreFrom(file);
  event.target.value = "";
});

document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("input, textarea, select");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) form.requestSubmit();
  else if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
  else if (event.key.toLowerCase() === "d" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) roll();
});

const dragsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!dragsFile(event)) return;
  event.preventDefault();
  at("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) at("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) restoreFrom(file);
});

roll();
showValues();
watch();
history.all().then((stored) => {
  images = stored;
  at("gallery").replaceChildren(...images.map(galleryTile));
}, () => { at("history-hint").textContent = "this browser does not keep them: download what you like"; });
