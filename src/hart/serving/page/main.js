// The page: the images that are being drawn, and the history. Nothing is sent anywhere but to this server.

import * as api from "./api.js";
import { at, make } from "./dom.js";
import * as editor from "./editor.js";
import { model, restore, roll, settings, watch } from "./form.js";
import * as history from "./history.js";
import { settingsOf } from "./png.js";
import * as viewer from "./viewer.js";

const form = at("form");
const UPLOAD_BYTES = 18e6; // of an image: the server reads 20 MiB, all of a form together

let images = []; // the history, newest first
let running = null; // the AbortController of the drawing that is running
const picked = new Set();

// --- drawing ---

/** Say what went wrong ("problem") or what is good to know ("note"), in place of what was said before. */
function say(kind, text = "") {
  for (const place of ["problem", "note"]) at(place).textContent = place === kind ? text : "";
}

/** Run one request and show its images as they come. fields: what the request holds besides `chosen` and the count. */
async function run(path, chosen, count, fields = {}) {
  say("note");
  if (running) say("note", "The drawing before was stopped, and what it had not finished is gone.");
  running?.abort();
  const mine = (running = new AbortController());
  forget();
  busy(true);
  for (const old of at("current").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  const tiles = Array.from({ length: count }, (_, index) => waitingTile({ ...chosen, seed: String(BigInt(chosen.seed) + BigInt(index)) }));
  at("current").replaceChildren(...tiles.map(({ element }) => element));
  if (document.activeElement === document.body) at("stage").focus({ preventScroll: true }); // what had the focus is gone
  if (matchMedia("(max-width: 46rem)").matches) at("stage").scrollIntoView(); // below the form
  const wanted = { ...chosen, ...fields, n: count, stream: true, output_format: "png" };
  for (const [name, value] of Object.entries(wanted)) if (value === "" || value === undefined) delete wanted[name];
  try {
    for await (const event of api.draw(path, fields.image ? multipart(wanted) : wanted, mine.signal)) {
      const tile = tiles[event.index];
      if (event.notes) say("note", event.notes);
      if (event.done) await tile.finish(event, path);
      else tile.show(event);
    }
    if (tiles.some(({ element }) => element.matches(".drawing"))) throw new Error("The answer ended before all images were drawn. Draw again.");
    if (form.reroll.checked) roll();
    if (!model(chosen.model)?.scales) watch();
  } catch (error) {
    if (error.name !== "AbortError") {
      say("problem", error.message);
      watch(); // the server may be gone, or ask for a key
    }
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
  if (!on && document.activeElement === at("stop")) at("draw").focus(); // what is disabled loses the focus
  at("stop").disabled = !on;
  at("current").setAttribute("aria-busy", String(on));
}

/** A place for an image that is being drawn. */
function waitingTile(chosen) {
  const waiting = model(chosen.model)?.state === "ready" ? "Waiting for its turn…" : "Opening the model…";
  const note = make("span", { className: "waiting", textContent: waiting });
  const button = make("button", { type: "button", className: "open", disabled: true }, note);
  const shape = (size) => {
    const [across, down] = size.split(/[x:]/);
    if (down) button.style.aspectRatio = `${across} / ${down}`;
  };
  shape(chosen.size ?? chosen.aspect ?? "auto");
  const bar = make("progress");
  bar.setAttribute("aria-label", `Drawing ${viewer.titleOf(chosen)}`);
  const element = make("div", { className: "tile drawing" }, button, bar);
  const partials = [];
  const picture = make("img", { alt: `${viewer.titleOf(chosen)}, being drawn` });
  let source;
  const put = ({ blob, size }) => {
    shape(size);
    if (source) URL.revokeObjectURL(source);
    source = picture.src = viewer.url(blob);
    if (!picture.isConnected) button.replaceChildren(picture);
  };
  return {
    element,
    show(event) {
      partials[event.scale - 1] = event.blob; // a slow connection leaves gaps
      bar.max = event.scales;
      bar.value = event.scale;
      put(event);
    },
    async finish(event, path) {
      put(event);
      bar.remove();
      element.classList.remove("drawing");
      picture.alt = viewer.titleOf(chosen);
      button.disabled = false;
      const { aspect, ...asked } = chosen; // the answer has the size in pixels
      const made = { ...asked, speed: model(chosen.model)?.speed, size: event.size };
      const kind = path.split("/").at(-1);
      const image = { created: Date.now(), blob: event.blob, partials, scales: event.scales, settings: made, kind };
      const kept = await history.put(image).catch(() => {
        unkept();
        return { ...image, id: `unkept-${Math.random()}` };
      });
      element.dataset.id = kept.id;
      images.unshift(kept);
      at("gallery").prepend(galleryTile(kept));
      button.addEventListener("click", () => viewer.open(kept));
    },
    giveUp() {
      if (!picture.isConnected) element.remove();
      element.classList.replace("drawing", "unfinished");
      bar.remove();
    },
  };
}

// --- history ---

at("history-hint").textContent = `the last ${history.KEPT}, kept in this browser only`;

function unkept() {
  at("history-hint").textContent = "this browser does not keep them: download what you like";
}

function galleryTile(image) {
  const title = viewer.titleOf(image.settings);
  const picture = make("img", { alt: `${title}, seed ${image.settings.seed}`, loading: "lazy", src: viewer.url(image.blob) });
  const button = make("button", { type: "button", className: "open", title }, picture);
  button.addEventListener("click", () => viewer.open(image));
  const tick = make("input", { type: "checkbox", className: "pick" });
  tick.setAttribute("aria-label", `Choose ${picture.alt} for comparison`);
  tick.addEventListener("change", () => pick(image, tick.checked));
  const item = make("li", { className: "tile" }, button, tick);
  item.dataset.id = image.id;
  return item;
}

/** Show that another tab has stored an image, or removed it. */
function follow(id, image) {
  const known = images.find((one) => one.id === id);
  if (image && !known) {
    const older = images.find((one) => one.id < id); // those that are not stored have no number
    images.splice(older ? images.indexOf(older) : images.length, 0, image);
    at("gallery").insertBefore(galleryTile(image), older ? at("gallery").querySelector(`[data-id="${older.id}"]`) : null);
  } else if (known && !image) {
    pick(known, false);
    images = images.filter((one) => one !== known);
    for (const tile of at("stage").querySelectorAll(`[data-id="${id}"]`)) {
      URL.revokeObjectURL(tile.querySelector("img").src);
      tile.remove();
    }
  }
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

// --- deleting, and undoing it ---

const deleted = []; // what can still be undone, the last deletion at the end: {gone, tiles: [tile, the mark at its place]}

const isStored = (image) => typeof image.id === "number";

/** Delete images, which may be undone until the next drawing. */
async function remove(gone) {
  if (gone.length === 0) return;
  for (const image of gone) if (isStored(image)) await history.remove(image.id);
  const ids = new Set(gone.map(({ id }) => String(id)));
  const tiles = [...at("stage").querySelectorAll("[data-id]")].filter((tile) => ids.has(tile.dataset.id)).map((tile) => [tile, new Comment()]);
  for (const image of gone) pick(image, false);
  for (const [tile, mark] of tiles) {
    for (const tick of tile.querySelectorAll(".pick")) tick.checked = false;
    tile.replaceWith(mark);
  }
  images = images.filter((image) => !gone.includes(image));
  deleted.push({ gone, tiles });
  offerUndo();
  at("restore").focus();
}

function offerUndo() {
  at("deleted").hidden = deleted.length === 0;
  const count = deleted.at(-1)?.gone.length;
  at("deleted-text").textContent = count === 1 ? "The image is deleted." : `${count} images are deleted.`;
}

async function undo() {
  const { gone, tiles } = deleted.pop();
  offerUndo();
  for (const image of gone) if (isStored(image)) await history.put(image).catch(unkept);
  for (const [tile, mark] of tiles) mark.replaceWith(tile);
  const places = [...at("gallery").children].map((tile) => tile.dataset.id);
  images = [...images, ...gone].sort((one, other) => places.indexOf(String(one.id)) - places.indexOf(String(other.id)));
  at("gallery").querySelector(`[data-id="${gone[0].id}"] .open`)?.focus();
}

/** Let go of what could be undone. */
function forget() {
  for (const { tiles } of deleted.splice(0)) for (const [tile] of tiles) URL.revokeObjectURL(tile.querySelector("img").src);
  offerUndo();
}

async function restoreFrom(file) {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close(); // or it would stand before what comes back
  const found = await settingsOf(file).catch(() => null);
  if (found?.isSheet) return say("problem", `${file.name} is a contact sheet: give one of its images.`);
  if (found) return say("note", restore(found));
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return say("problem", `${file.name} is not an image that this browser can show.`);
  bitmap.close();
  say("note", "That image holds no settings: only a PNG made by HART does. It can still be edited, varied, and lend its colours.");
  viewer.open({ blob: file, partials: [], settings: settings(), kind: "file" });
}

// --- what can be made of an image ---

/** The file itself, or a PNG of it at a size that the server would reduce it to anyway: it reads no large photographs.
 * Nothing, which is said, where it is no image. */
async function usable(file, facts) {
  try {
    const bitmap = await createImageBitmap(file);
    const most = 4 * Math.max(...facts.sizes.flatMap((size) => size.split("x").map(Number)));
    // a PNG takes at most about three bytes a pixel
    const scale = Math.min(most / Math.max(bitmap.width, bitmap.height), Math.sqrt(UPLOAD_BYTES / 3 / (bitmap.width * bitmap.height)));
    if (scale >= 1 && file.size <= UPLOAD_BYTES) return file;
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * Math.min(1, scale))));
    const canvas = new OffscreenCanvas(width, height);
    const scaled = await createImageBitmap(bitmap, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(scaled);
    return await canvas.convertToBlob();
  } catch {
    say("problem", "That file is not an image that this browser can show.");
  }
}

const single = { second_prompt: undefined, switch: undefined, speed: undefined }; // what these requests do not have

async function edit(image) {
  const facts = model(); // the settings are the form's, so the model is
  if (!form.seed.reportValidity()) return;
  const file = await usable(image.blob, facts);
  if (!file) return;
  const shows = image.kind === "file" ? "" : image.settings.prompt; // a file's settings are the form's
  editor.open(image, await createImageBitmap(file), shows, facts.token_size, async ({ style, ...work }) => {
    if (style) work.style = await usable(style, facts);
    const asked = { ...settings(), ...single, size: undefined, aspect: undefined, prompt: work.prompt }; // the canvas has the image's shape
    run("v1/images/edits", asked, Number(form.count.value), work);
  });
}

/** Images that have something of another. kept: what they have, and other fields that take the place of its settings. */
async function varied(image, facts, prompt, kept) {
  const file = await usable(image.blob, facts);
  if (!file) return;
  const seed = Math.floor(Math.random() * 2 ** 32);
  // the model that made it may be gone: `facts` are of the one that takes its place
  run("v1/images/variations", { ...image.settings, ...single, prompt, seed, model: facts.id }, Number(form.count.value), { image: file, ...kept });
}

viewer.connect({
  reuse: (image) => say("note", restore({ ...image.settings, lacks: image.kind === "generations" ? [] : ["the image's source image"] })),
  edit,
  // the settings of a file are the form's; its shape is its own
  vary: (image, facts, kept) => varied(image, facts, image.settings.prompt, { kept_scales: kept, ...(image.kind === "file" && { size: undefined, aspect: undefined }) }),
  recolour: (image, facts, prompt, strength) => varied(image, facts, prompt, { style_strength: strength }),
  remove: (image) => remove([image]),
  beside: (image, by) => images.includes(image) ? images[images.indexOf(image) + by] : undefined, // a file is not one of them
});

// --- keys, files, buttons ---

form.addEventListener("submit", (event) => {
  event.preventDefault();
  form.prompt.value = form.prompt.value.trim();
  if (form.reportValidity()) run("v1/images/generations", settings(), Number(form.count.value)); // blanks are no prompt
});
at("stop").addEventListener("click", () => running?.abort());
at("examples").addEventListener("click", (event) => {
  if (!event.target.matches("button")) return;
  form.prompt.value = event.target.textContent;
  form.requestSubmit();
});
at("compare").addEventListener("click", () => viewer.compare([...picked]));
at("clear").addEventListener("click", () => {
  if (confirm("Delete all images of the history from this browser?")) remove([...images]);
});
at("restore").addEventListener("click", undo);
at("forget").addEventListener("click", forget);
at("open-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) restoreFrom(file);
  event.target.value = "";
});

document.addEventListener("keydown", (event) => {
  if (event.repeat || document.querySelector("dialog[open]")) return; // a key that is held was meant for the dialog that it has closed
  const writing = event.target.matches("input, textarea, select");
  const control = event.ctrlKey || event.metaKey;
  if (event.key === "Enter" && control) form.requestSubmit();
  else if (event.key === "z" && control && !writing && deleted.length) undo();
  else if (event.key === "Escape") running?.abort();
  else if (event.key.toLowerCase() === "d" && !writing && !control && !event.altKey) roll();
});

const use = (file) => (editor.isOpen() ? editor.lend : restoreFrom)(file);
const dragsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!dragsFile(event)) return;
  event.preventDefault();
  at("drop").textContent = editor.isOpen() ? "Drop the image to draw in its colours" : "Drop the image to use it";
  if (!at("drop").matches(":popover-open")) at("drop").showPopover(); // above dialogs too
});
document.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) at("drop").hidePopover(); });
document.addEventListener("drop", (event) => {
  if (!dragsFile(event)) return; // a text is for the field below it
  event.preventDefault();
  at("drop").hidePopover();
  const [file] = event.dataTransfer.files;
  if (file) use(file);
});
document.addEventListener("paste", (event) => {
  const writes = event.target.matches("input, textarea") && event.clipboardData.types.includes("text/plain"); // which may be there as an image, too
  const [file] = event.clipboardData.files;
  if (!file || writes) return;
  event.preventDefault();
  use(file);
});

roll();
watch();
history.watch(follow);
history.all().then((stored) => {
  images = stored;
  at("gallery").replaceChildren(...images.map(galleryTile));
}, unkept);
