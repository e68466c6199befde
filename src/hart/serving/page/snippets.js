// "Copy as": the same image from a shell, from Python and through the API.

import { hasKey, json } from "./api.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Settings of sampling that the form has: names of fields of the form and of the API. */
export const OFFERED = ["guidance_scale", "top_k", "top_p", "greedy_scales"];

/** What is to be spelled out beside the prompts, as pairs: of the settings of sampling only what differs from the model's own. */
function spelled(settings, defaults) {
  const names = ["seed", "switch", "model", "speed", "size", "negative_prompt", ...OFFERED];
  const pairs = names.map((name) => [name, settings[name]]);
  return pairs.filter(([name, value]) => ![undefined, null, "", defaults[name]].includes(value));
}

/** The prompt, or both of them. */
const promptsOf = ({ prompt, second_prompt: second }) => (second === undefined ? [prompt] : [prompt, second]);

export function shell(settings, defaults) {
  const prompts = promptsOf(settings).map(quoted);
  const option = (name) => (name === "guidance_scale" ? "guidance" : name.replaceAll("_", "-"));
  const shown = (value) => (/^[\w.]+$/.test(value) ? value : quoted(value));
  const options = spelled(settings, defaults).map(([name, value]) => `--${option(name)} ${shown(value)}`);
  // what begins like an option has to come last
  const parts = prompts.some((prompt) => prompt.startsWith("'-")) ? [...options, "--", ...prompts] : [...prompts, ...options];
  return [prompts.length === 1 ? "hart generate" : "hart mix", ...parts].join(" ");
}

export function python(settings, defaults) {
  const prompts = promptsOf(settings), options = { model: "emoji", ...Object.fromEntries(spelled(settings, defaults)) };
  const { model, speed, seed, ...rest } = options; // a seed is digits, which may be more than a Number holds
  const named = (values) => Object.entries(values).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  const opened = [JSON.stringify(model), ...named(speed ? { speed } : {})];
  const asked = [JSON.stringify(prompts.length === 1 ? prompts[0] : prompts), `seed=${seed}`, ...named(rest)];
  return [
    "from hart import HartPipeline",
    "",
    `pipe = HartPipeline.from_pretrained(${opened.join(", ")})`,
    `pipe${prompts.length === 1 ? "" : ".mix"}(${asked.join(", ")}).images[0].save("image.png")`,
  ].join("\n");
}

export function curl(settings, defaults) {
  const { prompt, second_prompt } = settings; // left out where it is undefined
  const { speed, ...rest } = Object.fromEntries(spelled(settings, defaults)); // which the server has
  return [
    `curl ${new URL("v1/images/generations", document.baseURI)} -H 'Content-Type: application/json'`,
    ...(hasKey() ? ['-H "Authorization: Bearer $HART_API_KEY"'] : []), // a key is not shown
    `-d ${quoted(json({ prompt, second_prompt, response_format: "b64_json", ...rest }))} | python3 -c 'import base64, json, sys;`,
    `open("image.png", "wb").write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))'`,
  ].join(" ");
}
