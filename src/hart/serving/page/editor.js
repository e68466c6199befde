// Painting a mask over an image, and extending its canvas. What is painted is drawn again; new canvas always is.

const dialog = document.getElementById("editor");
const canvas = document.getElementById("canvas");
const prompt = document.getElementById("edit-prompt");
const brush = document.getElementById("brush-size");
const VEIL = "rgb(194 65 12 / .55)";
const UNDO_STEPS = 30;

let image, mask, offset, step, before, last, submit;

/** Open the editor on `bitmap`. grid: pixels of a token; onSubmit({image, mask, prompt, size}) gets two PNG blobs. */
export function open(bitmap, text, grid, onSubmit) {
  image = bitmap;
  step = grid;
  submit = onSubmit;
  offset = { x: 0, y: 0 };
  before = [];
  mask = blank(bitmap.width, bitmap.height);
  prompt.value = text;
  show();
  dialog.showModal();
}

function blank(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

const context = (of) => of.getContext("2d", { willReadFrequently: true });

function show() {
  canvas.width = mask.width;
  canvas.height = mask.height;
  const view = context(canvas);
  view.drawImage(image, offset.x, offset.y);
  view.drawImage(mask, 0, 0);
  document.getElementById("canvas-size").textContent = `${mask.width} × ${mask.height} px`;
  document.getElementById("brush-size-value").textContent = `${brush.value} px`;
  document.getElementById("undo").disabled = before.length === 0;
}

function remember() {
  const copy = blank(mask.width, mask.height);
  context(copy).drawImage(mask, 0, 0);
  before.push({ mask: copy, offset: { ...offset } });
  if (before.length > UNDO_STEPS) before.shift();
}

function place(event) {
  // object-fit: contain leaves bars at two sides of a canvas whose box has another shape
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  return {
    x: (event.clientX - box.left - (box.width - canvas.width * scale) / 2) / scale,
    y: (event.clientY - box.top - (box.height - canvas.height * scale) / 2) / scale,
  };
}

function stroke(from, to) {
  const paint = context(mask);
  const keep = document.querySelector('input[name="brush"]:checked').value === "keep";
  paint.globalCompositeOperation = keep ? "destination-out" : "source-over";
  paint.strokeStyle = keep ? "#000" : "#c2410c";
  paint.lineWidth = Number(brush.value);
  paint.lineCap = "round";
  paint.beginPath();
  paint.moveTo(from.x, from.y);
  paint.lineTo(to.x + 0.01, to.y);
  paint.stroke();
  paint.globalCompositeOperation = "source-over";
  veil();
}

/** New canvas is drawn again whatever the brush says, and the veil has one strength however often it is painted. */
function veil() {
  const paint = context(mask);
  paint.fillStyle = "#c2410c";
  const { x, y } = offset;
  for (const box of [
    [0, 0, mask.width, y],
    [0, y + image.height, mask.width, mask.height],
    [0, 0, x, mask.height],
    [x + image.width, 0, mask.width, mask.height],
  ]) paint.fillRect(...box);
  show();
  const view = context(canvas);
  view.clearRect(0, 0, canvas.width, canvas.height);
  view.drawImage(image, x, y);
  const tinted = blank(mask.width, mask.height);
  const tint = context(tinted);
  tint.drawImage(mask, 0, 0);
  tint.globalCompositeOperation = "source-in";
  tint.fillStyle = VEIL;
  tint.fillRect(0, 0, tinted.width, tinted.height);
  view.drawImage(tinted, 0, 0);
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  remember();
  last = place(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  stroke(last, next);
  last = next;
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = undefined; });

// The keyboard paints squares of a token's size: arrows move a cursor, space paints.
const cursor = { x: 0, y: 0 };
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in moves) {
    const [x, y] = moves[event.key];
    cursor.x = Math.min(Math.max(0, cursor.x + x * step), mask.width - step);
    cursor.y = Math.min(Math.max(0, cursor.y + y * step), mask.height - step);
  } else if (event.key === " ") {
    remember();
    const paint = context(mask);
    const keep = document.querySelector('input[name="brush"]:checked').value === "keep";
    paint.fillStyle = "#c2410c";
    paint[keep ? "clearRect" : "fillRect"](cursor.x, cursor.y, step, step);
  } else return;
  event.preventDefault();
  veil();
  const view = context(canvas);
  view.strokeStyle = "#1c7ed6";
  view.strokeRect(cursor.x + 0.5, cursor.y + 0.5, step - 1, step - 1);
});

document.getElementById("undo").addEventListener("click", () => {
  ({ mask, offset } = before.pop());
  veil();
});
document.getElementById("mask-none").addEventListener("click", () => {
  remember();
  context(mask).clearRect(0, 0, mask.width, mask.height);
  veil();
});
document.getElementById("mask-all").addEventListener("click", () => {
  remember();
  context(mask).fillStyle = "#c2410c";
  context(mask).fillRect(0, 0, mask.width, mask.height);
  veil();
});
brush.addEventListener("input", () => { document.getElementById("brush-size-value").textContent = `${brush.value} px`; });

document.getElementById("extend").addEventListener("click", (event) => {
  const side = event.target.dataset.side;
  if (!side) return;
  remember();
  const more = 2 * step;
  const wide = side === "left" || side === "right";
  const grown = blank(mask.width + (wide ? more : 0), mask.height + (wide ? 0 : more));
  const x = side === "left" ? more : 0;
  const y = side === "top" ? more : 0;
  context(grown).drawImage(mask, x, y);
  mask = grown;
  offset = { x: offset.x + x, y: offset.y + y };
  veil();
});

document.getElementById("edit-draw").addEventListener("click", async () => {
  const source = blank(mask.width, mask.height);
  context(source).fillStyle = "#fff";
  context(source).fillRect(0, 0, mask.width, mask.height);
  context(source).drawImage(image, offset.x, offset.y);
  // in the API's masks transparent means: draw again
  const holes = blank(mask.width, mask.height);
  const cut = context(holes);
  cut.fillRect(0, 0, mask.width, mask.height);
  cut.globalCompositeOperation = "destination-out";
  cut.drawImage(mask, 0, 0);
  const png = (of) => new Promise((resolve) => of.toBlob(resolve, "image/png"));
  const work = { image: await png(source), mask: await png(holes), prompt: prompt.value, size: `${mask.width}x${mask.height}` };
  dialog.close();
  submit(work);
});
