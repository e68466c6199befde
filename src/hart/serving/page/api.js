// The server's API in OpenAI's shape. Every drawing is a stream of events: partial images, then whole ones.

let key = sessionStorage.getItem("hart-key") ?? "";

export const GONE = "The server cannot be reached. Is hart serve still running?";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => key !== "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("hart-key", value);
}

/** What `work` gives; an error of the connection in words. */
async function reached(work) {
  try {
    return await work;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(GONE, 0);
  }
}

/** Ask for a path beside the page, which a proxy may serve below another one. */
async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  const response = await reached(fetch(path, { ...options, headers }));
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  if (response.status === 401) throw new ApiError("This server asks for an API key.", 401);
  const message = sentence(body?.error?.message ?? `the server answered with status ${response.status}`);
  throw new ApiError(response.status === 429 && wait ? `${message} Try again in ${wait} s.` : message, response.status);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

/** The models that the server offers: {id, state, problem} and, of opened ones, {sizes, scales, token_size, styles, sampling, edits, variations}. */
export async function models() {
  const { data } = await reached((await call("v1/models")).json());
  return data.map((one) => ({ ...one, problem: one.problem && sentence(one.problem) }));
}

/** The JSON of a request; its seed is digits, which may be more than a Number holds. */
export const json = ({ seed, ...rest }) => `{"seed":${seed},${JSON.stringify(rest).slice(1)}`;

const post = (path, body, signal) =>
  body instanceof FormData
    ? call(path, { method: "POST", body, signal })
    : call(path, { method: "POST", body: json(body), headers: { "Content-Type": "application/json" }, signal });

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (!data) continue;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(sentence(event.error.message), 500);
      yield event;
    }
  }
}

function toBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type: "image/png" });
}

/** Images of a request as they are drawn: {index, done, blob, size, scale, scales, notes}. */
export async function* draw(path, body, signal) {
  for await (const event of events(await post(path, body, signal))) {
    const done = event.type.endsWith(".completed");
    if (!done && !event.type.endsWith(".partial_image")) continue;
    const { image_index: index, size, scale, scales, notes = [] } = event;
    yield { index, done, blob: toBlob(event.b64_json), size, scale, scales, notes: notes.map(sentence).join(" ") };
  }
}
