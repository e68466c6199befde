// One finished image at full size: its scales, its settings, and what can be made of it. Also two images side by side.

import { at, make } from "./dom.js";
import { model } from "./form.js";
import * as snippets from "./snippets.js";

const dialog = at("viewer");
let shown, steps = [], facts, playing, beside; // steps: [scale, URL] of each image so far, then of the finished one

export const url = (blob) => URL.createObjectURL(blob);

export const titleOf = (settings) => [settings.prompt || "no prompt", settings.second_prompt].filter(Boolean).join(" + ");

/** The rows of a table that says how an image was made. */
export function factsOf(settings) {
  const rows = [
    ["Taken over", settings.switch === undefined ? undefined : `after scale ${settings.switch}`],
    ["Seed", settings.seed],
    ["Size", settings.size],
    ["Guidance", settings.guidance_scale],
    ["Top-k", settings.top_k],
    ["Top-p", settings.top_p],
    ["Likeliest codes", settings.greedy_scales ? `at the last ${settings.greedy_scales === 1 ? "scale" : `${settings.greedy_scales} scales`}` : undefined],
    ["Not", settings.negative_prompt],
    ["Model", settings.model],
  ];
  const said = rows.filter(([, value]) => value !== undefined && value !== "");
  return said.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value, dir: "auto" })]);
}

function forgetUrls() {
  clearInterval(playing);
  for (const [, address] of steps) URL.revokeObjectURL(address);
}

/** Open the viewer. */
export function open(image) {
  forgetUrls();
  shown = image;
  steps = [...Object.entries(image.partials).map(([k, blob]) => [Number(k) + 1, url(blob)]), [image.scales, url(image.blob)]];
  const foreign = image.kind === "file"; // its settings are those that the next drawing takes
  const title = at("viewer-title");
  title.textContent = foreign ? image.blob.name : titleOf(image.settings);
  at("viewer-facts").replaceChildren(...(foreign ? [] : factsOf(image.settings)));
  for (const name of ["download", "reuse", "delete", "steps"]) at(name).hidden = foreign;
  const words = image.settings.prompt;
  const whose = foreign ? "the form's" : image.settings.second_prompt && "the first";
  at("vary-words").textContent = !whose ? "" : words ? `Drawn as “${words}”, ${whose} prompt.` : "Drawn without words: the form has no prompt.";
  at("colours-prompt").placeholder = words || "whatever fits"; // what is drawn where nothing else is written
  at("download").href = steps.at(-1)[1];
  const name = titleOf(image.settings).replace(/[^\p{L}\p{N}\p{Extended_Pictographic}]+/gu, " ").slice(0, 60).trim().replaceAll(" ", "-");
  at("download").download = `${name || "image"}-${image.settings.seed}.png`;
  at("scale").max = steps.length; // before its value, which it bounds
  at("scale").value = steps.length;
  at("scale").disabled = at("play").disabled = steps.length === 1;
  at("newer").disabled = !beside(image, -1);
  at("older").disabled = !beside(image, 1);
  if (document.activeElement.disabled) at(at("newer").disabled ? "older" : "newer").focus(); // what is disabled loses the focus
  at("copy").hidden = image.kind !== "generations"; // the others also need the image that they began with
  at("copied").textContent = "";
  showScale();
  offer();
  if (!dialog.open) dialog.showModal();
  title.tabIndex = title.scrollHeight > title.clientHeight ? 0 : -1; // a long one scrolls, with the keyboard too
}

/** What can be made of the image: variations by its own model, an edit by that of the form. */
function offer() {
  facts = model(shown.settings.model);
  const scales = shown.scales ?? facts?.scales ?? 1; // larger images may have more
  at("edit").hidden = !model()?.edits;
  at("vary").closest("fieldset").hidden = at("colours").hidden = !facts?.variations;
  at("kept").max = scales;
  at("kept").value = Math.floor(scales / 2);
  showKept();
}

function showScale() {
  const [scale, address] = steps[at("scale").value - 1];
  const place = `${scale} of ${shown.scales}`, finished = at("scale").value === at("scale").max;
  at("viewer-image").src = address;
  at("viewer-image").alt = `${at("viewer-title").textContent}, ${finished ? "finished" : `as it stood at step ${place}`}`;
  at("scale-value").textContent = finished ? "finished" : place;
}

function showKept() {
  at("kept-value").textContent = `${at("kept").value} of ${at("kept").max}`;
  at("colours-value").textContent = at("colours-strength").value;
}

/** From the first scale to the finished image. */
function play() {
  clearInterval(playing);
  at("scale").value = 1;
  showScale();
  playing = setInterval(() => {
    at("scale").stepUp();
    showScale();
    if (at("scale").value === at("scale").max) clearInterval(playing);
  }, 350);
}

at("play").addEventListener("click", play);
at("scale").addEventListener("input", () => { clearInterval(playing); showScale(); });
for (const name of ["kept", "colours-strength"]) at(name).addEventListener("input", showKept);
at("kept").addEventListener("input", () => { // shows what is kept
  clearInterval(playing);
  at("scale").value = steps.filter(([scale]) => scale <= at("kept").value).length;
  showScale();
});
dialog.addEventListener("close", forgetUrls);
at("form").addEventListener("offered", () => { if (dialog.open) offer(); }); // its model may have been opened
dialog.addEventListener("click", async (event) => {
  const kind = event.target.dataset?.copy;
  if (!kind) return;
  const text = snippets[kind](shown.settings, facts?.sampling ?? {});
  try {
    await navigator.clipboard.writeText(text);
    at("copied").textContent = text.includes("$HART_API_KEY") ? "Copied. It takes the key from the variable HART_API_KEY." : "Copied.";
  } catch {
    at("copied").textContent = text; // no clipboard without https: shown, to be copied by hand
  }
});

/** on: {reuse, edit, vary(kept), recolour(prompt, strength), remove, beside(by)}, each called with the image that is shown; vary and recolour
 * also with the facts of its model. beside: gives the image so many places older in the history, if there is one. */
export function connect(on) {
  beside = on.beside;
  at("reuse").addEventListener("click", () => { dialog.close(); on.reuse(shown); });
  at("edit").addEventListener("click", () => { dialog.close(); on.edit(shown); });
  at("vary").addEventListener("click", () => { dialog.close(); on.vary(shown, facts, Number(at("kept").value)); });
  at("draw-colours").addEventListener("click", () => {
    dialog.close();
    on.recolour(shown, facts, at("colours-prompt").value.trim() || shown.settings.prompt, Number(at("colours-strength").value));
  });
  at("colours-prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) at("draw-colours").click(); });
  at("delete").addEventListener("click", () => { dialog.close(); on.remove(shown); });
  at("newer").addEventListener("click", () => open(beside(shown, -1)));
  at("older").addEventListener("click", () => open(beside(shown, 1)));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return;
    if (event.key === "ArrowLeft") at("newer").click();
    if (event.key === "ArrowRight") at("older").click();
  });
}

/** Two images side by side, with the settings that differ. */
export function compare(pair) {
  const same = (name) => pair[0].settings[name] === pair[1].settings[name];
  at("comparison-body").replaceChildren(...pair.map((image) => {
    const title = titleOf(image.settings);
    const picture = make("img", { src: url(image.blob), alt: title });
    picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
    const differing = Object.fromEntries(Object.entries(image.settings).filter(([name]) => !same(name) || name === "seed"));
    return make("div", { className: "side" }, picture, make("h2", { textContent: title, dir: "auto" }), make("dl", {}, ...factsOf(differing)));
  }));
  at("comparison").showModal();
}
