// "Copy as": the same image from a shell, from Python and through the API.

import { hasKey, json } from "./api.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Settings of sampling that the form has: its field and the option of the command for each. */
export const OFFERED = {
  guidance_scale: { field: "guidance", option: "guidance" },
  top_k: { field: "top_k", option: "top-k" },
  top_p: { field: "top_p", option: "top-p" },
  greedy_scales: { field: "greedy", option: "greedy-scales" },
};

/** Only what differs from the model's own settings is spelled out. */
function changed(settings, defaults) {
  return Object.keys(OFFERED).filter((name) => settings[name] !== undefined && settings[name] !== defaults[name]);
}

export function shell(settings, defaults) {
  const prompts = [settings.prompt, settings.second_prompt].filter((prompt) => prompt !== undefined);
  const parts = [];
  if (settings.switch !== undefined) parts.push(`--switch ${settings.switch}`);
  parts.push(`--seed ${settings.seed}`);
  if (settings.model) parts.push(`--model ${quoted(settings.model)}`);
  if (settings.speed) parts.push(`--speed ${settings.speed}`);
  if (settings.size) parts.push(`--size ${settings.size}`);
  if (settings.negative_prompt) parts.push(`--negative-prompt ${quoted(settings.negative_prompt)}`);
  for (const name of changed(settings, defaults)) parts.push(`--${OFFERED[name].option} ${settings[name]}`);
  // what begins like an option has to come last
  const order = prompts.some((prompt) => prompt.startsWith("-")) ? [...parts, "--", ...prompts.map(quoted)] : [...prompts.map(quoted), ...parts];
  return [prompts.length === 1 ? "hart generate" : "hart mix", ...order].join(" ");
}

export function python(settings, defaults) {
  const mixed = settings.second_prompt !== undefined;
  const options = [JSON.stringify(mixed ? [settings.prompt, settings.second_prompt] : settings.prompt), `seed=${settings.seed}`];
  if (settings.switch !== undefined) options.push(`switch=${settings.switch}`);
  if (settings.size) options.push(`size="${settings.size}"`);
  if (settings.negative_prompt) options.push(`negative_prompt=${JSON.stringify(settings.negative_prompt)}`);
  for (const name of changed(settings, defaults)) options.push(`${name}=${settings[name]}`);
  return [
    "from hart import HartPipeline",
    "",
    `pipe = HartPipeline.from_pretrained(${JSON.stringify(settings.model ?? "emoji")}${settings.speed ? `, speed="${settings.speed}"` : ""})`,
    `pipe${mixed ? ".mix" : ""}(${options.join(", ")}).images[0].save("image.png")`,
  ].join("\n");
}

export function curl(settings, defaults) {
  const body = { prompt: settings.prompt, seed: settings.seed };
  for (const name of ["second_prompt", "switch", "model", "size", "negative_prompt"]) {
    if (settings[name] !== undefined && settings[name] !== "") body[name] = settings[name];
  }
  for (const name of changed(settings, defaults)) body[name] = settings[name];
  return [
    `curl ${new URL("v1/images/generations", document.baseURI)} -H 'Content-Type: application/json'`,
    ...(hasKey() ? ['-H "Authorization: Bearer $HART_API_KEY"'] : []), // a key is not shown
    `-d ${quoted(json(body))} | python3 -c 'import base64, json, sys;`,
    `open("image.png", "wb").write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))'`,
  ].join(" ");
}
