// Painting a mask over an image, and extending its canvas. What is painted is drawn again; new canvas always is.

import { at, make } from "./dom.js";

const [dialog, canvas, source, prompt, brush] = ["editor", "canvas", "edit-source", "edit-prompt", "brush-size"].map(at);
const UNDO_STEPS = 30;
const EXTENSION = 1 / 4; // of the image, that the canvas grows by, in whole tokens
const MOST_GROWTH = 2; // times the image's pixels: what is larger is drawn smaller

let image, edited, mask, offset, token, before, last, cursor, submit; // mask: opaque where the image is drawn again
let lender; // a file whose colours are taken

/** Open the editor on `bitmap`. What is transparent is painted over from the start. of: whose it is; where that is the image of the last
 * time, at the same size, what was painted and written is still there, to be changed and drawn once more. text: what it shows, if that is
 * known, else "". size: of a token; onSubmit({image, mask, source_prompt, prompt, style, style_strength}) gets two PNG blobs, or in place of
 * the mask what the image shows now, and in `style` the file whose colours are taken, if there is one. */
export function open(of, bitmap, text, size, onSubmit) {
  const again = of === edited && bitmap.width === image.width && bitmap.height === image.height; // another model may take less of it
  [image, token, submit, last, cursor] = [bitmap, size, onSubmit, undefined, undefined];
  if (!again) {
    [edited, before, offset, mask] = [of, [], { x: 0, y: 0 }, seeThrough(bitmap)];
    source.value = prompt.value = text;
    brush.max = Math.ceil(Math.max(mask.width, mask.height) / 2);
    brush.value = Math.ceil(Math.max(mask.width, mask.height) / 8);
    lend();
  }
  at("ring").hidden = true; // until the pointer is over the canvas
  show();
  dialog.showModal();
}

export const isOpen = () => dialog.open;

/** Take the colours of a file; without one no more. */
export async function lend(file) {
  const bitmap = file && await createImageBitmap(file).catch(() => null);
  lender = bitmap ? file : undefined;
  URL.revokeObjectURL(at("lender").src);
  at("lent").hidden = !lender;
  at("lender").src = lender ? URL.createObjectURL(lender) : "data:,";
  at("lend-hint").textContent = file && !bitmap ? `${file.name} is not an image that this browser can show.` : "";
  showStrength();
}

function showStrength() {
  at("lend-value").textContent = at("lend-strength").value;
}

at("lend-strength").addEventListener("input", showStrength);
at("lend-none").addEventListener("click", () => lend());
at("lend-file").addEventListener("change", (event) => {
  lend(event.target.files[0]);
  event.target.value = "";
});

const blank = (width, height) => make("canvas", { width, height });

const context = (of) => of.getContext("2d", { willReadFrequently: true });

/** A mask of what is transparent, which an edit without a mask redraws everywhere; a half is the limit. */
function seeThrough(bitmap) {
  const made = blank(bitmap.width, bitmap.height);
  const paint = context(made);
  paint.drawImage(bitmap, 0, 0);
  const pixels = paint.getImageData(0, 0, made.width, made.height);
  for (let pixel = 0; pixel < pixels.data.length; pixel += 4) pixels.data.set([0, 0, 0, pixels.data[pixel + 3] < 128 ? 255 : 0], pixel);
  paint.putImageData(pixels, 0, 0);
  return made;
}

/** The mask's context, for the brush that is chosen: it adds to the mask or takes from it. */
function tool() {
  const paint = context(mask);
  const keep = dialog.querySelector('input[name="brush"]:checked').value === "keep";
  paint.globalCompositeOperation = keep ? "destination-out" : "source-over";
  return paint;
}

/** Fill the whole mask, or clear it. */
function cover(redraw) {
  remember();
  const paint = context(mask);
  paint.globalCompositeOperation = redraw ? "source-over" : "destination-out";
  paint.fillRect(0, 0, mask.width, mask.height);
  show();
}

/** The image under the mask's veil, which is hatched in two tones, to be seen on any colour. */
function show() {
  const paint = context(mask);
  paint.globalCompositeOperation = "source-over";
  paint.beginPath(); // what the image does not cover is drawn whatever the brush says
  paint.rect(0, 0, mask.width, mask.height);
  paint.rect(offset.x, offset.y, image.width, image.height);
  paint.fill("evenodd");
  const veil = blank(mask.width, mask.height);
  const tint = context(veil);
  tint.drawImage(mask, 0, 0);
  tint.globalCompositeOperation = "source-in";
  tint.fillStyle = tint.createPattern(hatching(Math.max(2, Math.round(Math.max(veil.width, veil.height) / 48))), "repeat");
  tint.fillRect(0, 0, veil.width, veil.height);
  [canvas.width, canvas.height] = [mask.width, mask.height];
  const view = context(canvas);
  view.drawImage(image, offset.x, offset.y);
  view.globalAlpha = 0.7;
  view.drawImage(veil, 0, 0);
  if (cursor) {
    view.globalAlpha = 1;
    view.strokeStyle = "#1c7ed6";
    view.lineWidth = Math.max(1, token / 16);
    view.strokeRect(cursor.x + 0.5, cursor.y + 0.5, token - 1, token - 1);
  }
  const sides = [...at("extend").children];
  for (const button of sides) {
    const { width, height } = extended(button.dataset.side);
    button.disabled = width * height > MOST_GROWTH * image.width * image.height;
  }
  const full = sides.every(({ disabled }) => disabled) ? ": it grows no further" : "";
  at("canvas-size").textContent = `${mask.width} × ${mask.height} px${full}`;
  at("brush-size-value").textContent = `${brush.value} px`;
  at("undo").disabled = before.length === 0;
  showReady();
}

/** Whether the words alone ask for something else. */
const retold = () => Boolean(source.value.trim() && prompt.value.trim()) && source.value.trim() !== prompt.value.trim();

/** Whether any pixel of the mask is not see-through, which is 0. It is asked with every move of the brush. */
const painted = () => new Uint32Array(context(mask).getImageData(0, 0, mask.width, mask.height).data.buffer).some(Boolean);

function showReady() {
  at("edit-draw").disabled = !retold() && !painted();
}

/** A tile of diagonal stripes so many pixels wide. */
function hatching(width) {
  const side = 4 * width;
  const tile = blank(side, side);
  const paint = context(tile);
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, side, side);
  paint.strokeStyle = "#343a46";
  paint.lineWidth = width * Math.SQRT2;
  for (const x of [-side, 0, side]) {
    paint.moveTo(x - width, side + width);
    paint.lineTo(x + side + width, -width);
  }
  paint.stroke();
  return tile;
}

function remember() {
  const copy = blank(mask.width, mask.height);
  context(copy).drawImage(mask, 0, 0);
  before.push({ mask: copy, offset });
  if (before.length > UNDO_STEPS) before.shift();
}

/** Pixels of the screen for one of the canvas. */
function scaleOf(box) {
  return Math.min(box.width / canvas.width, box.height / canvas.height);
}

function place(event) {
  // object-fit: contain leaves bars at two sides of a canvas whose box has another shape
  const box = canvas.getBoundingClientRect();
  const scale = scaleOf(box);
  return {
    x: (event.clientX - box.left - (box.width - canvas.width * scale) / 2) / scale,
    y: (event.clientY - box.top - (box.height - canvas.height * scale) / 2) / scale,
  };
}

/** Show how large the brush is, around a mouse or a pen. */
function showBrush(event) {
  const ring = at("ring"), frame = ring.parentElement.getBoundingClientRect();
  ring.hidden = event.pointerType === "touch";
  ring.style.left = `${event.clientX - frame.left}px`;
  ring.style.top = `${event.clientY - frame.top}px`;
  ring.style.width = ring.style.height = `${Number(brush.value) * scaleOf(canvas.getBoundingClientRect())}px`;
}

function stroke(from, to) {
  const paint = tool();
  paint.lineWidth = Number(brush.value);
  paint.lineCap = "round";
  paint.beginPath();
  paint.moveTo(from.x, from.y);
  paint.lineTo(to.x + 0.01, to.y);
  paint.stroke();
  show();
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return; // a menu's button, a second finger
  canvas.setPointerCapture(event.pointerId);
  remember();
  cursor = undefined;
  last = place(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  showBrush(event);
  if (!last || !event.isPrimary) return;
  const next = place(event);
  stroke(last, next);
  last = next;
});
canvas.addEventListener("lostpointercapture", () => { last = undefined; });

canvas.addEventListener("pointerleave", () => { at("ring").hidden = true; });

// The keyboard paints squares of a token's size: arrows move a cursor, space paints.
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (!(event.key in MOVES) && event.key !== " ") return;
  event.preventDefault();
  cursor ??= { x: 0, y: 0 };
  const [x, y] = MOVES[event.key] ?? [0, 0];
  cursor.x = Math.min(Math.max(0, cursor.x + x * token), mask.width - token); // undoing may have made the canvas smaller
  cursor.y = Math.min(Math.max(0, cursor.y + y * token), mask.height - token);
  if (event.key === " ") {
    remember();
    tool().fillRect(cursor.x, cursor.y, token, token);
  }
  show();
});

function undo() {
  if (before.length) ({ mask, offset } = before.pop());
  show();
}

for (const field of [source, prompt]) field.addEventListener("input", showReady);
dialog.addEventListener("focusin", ({ target }) => { // above the bar that a phone shows
  if (target.matches("input, textarea")) target.scrollIntoView({ block: "nearest" });
});
at("undo").addEventListener("click", undo);
dialog.addEventListener("keydown", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  const draws = event.key === "Enter";
  if (!draws && (event.key !== "z" || [source, prompt].includes(event.target))) return;
  event.preventDefault(); // what a button that has the focus would do, too
  if (!draws) undo();
  else if (!event.repeat) at("edit-draw").click();
});
at("mask-none").addEventListener("click", () => cover(false));
at("mask-all").addEventListener("click", () => cover(true));
brush.addEventListener("input", show);

/** The canvas as it would be with more at a side, and where the present one would lie on it. */
function extended(side) {
  const wide = side === "left" || side === "right";
  const more = Math.max(1, Math.round((EXTENSION * (wide ? image.width : image.height)) / token)) * token;
  const [width, height] = wide ? [mask.width + more, mask.height] : [mask.width, mask.height + more];
  return { width, height, x: side === "left" ? more : 0, y: side === "top" ? more : 0 };
}

at("extend").addEventListener("click", (event) => {
  const side = event.target.dataset.side;
  if (!side) return;
  remember();
  const { width, height, x, y } = extended(side);
  const grown = blank(width, height);
  context(grown).drawImage(mask, x, y);
  mask = grown;
  offset = { x: offset.x + x, y: offset.y + y };
  show();
});

at("edit-draw").addEventListener("click", async () => {
  const whole = blank(mask.width, mask.height);
  context(whole).drawImage(image, offset.x, offset.y);
  // in the API's masks transparent means: draw again
  const holes = blank(mask.width, mask.height);
  const cut = context(holes);
  cut.fillRect(0, 0, mask.width, mask.height);
  cut.globalCompositeOperation = "destination-out";
  cut.drawImage(mask, 0, 0);
  const png = (of) => new Promise((resolve) => of.toBlob(resolve, "image/png"));
  const where = !painted() && retold() ? { source_prompt: source.value.trim() } : { mask: await png(holes) };
  const work = { image: await png(whole), ...where, prompt: prompt.value.trim() };
  if (lender) Object.assign(work, { style: lender, style_strength: Number(at("lend-strength").value) });
  dialog.close();
  submit(work);
});
