// The settings that a PNG made by HART carries in its text chunks (docs/serving.md).

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** Text chunks of a PNG as an object; null for other files. */
async function textChunks(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (!SIGNATURE.every((byte, place) => bytes[place] === byte)) return null;
  const view = new DataView(bytes.buffer);
  const found = {};
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    const name = data.indexOf(0);
    if (type === "tEXt" && name > 0) {
      found[latin1(data.subarray(0, name))] = latin1(data.subarray(name + 1));
    } else if (type === "iTXt" && name > 0 && data[name + 1] === 0) {
      const language = data.indexOf(0, name + 3);
      const text = data.indexOf(0, language + 1);
      found[latin1(data.subarray(0, name))] = new TextDecoder().decode(data.subarray(text + 1));
    } else if (type === "IEND") break;
    at += 12 + length;
  }
  return found;
}

const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);

/** After how many scales a second prompt takes over; undefined where its shares are others. */
function takesOver(weights) {
  const first = weights.indexOf(1) < 0 ? weights.length : weights.indexOf(1);
  return weights.every((weight, scale) => weight === (scale < first ? 0 : 1)) ? first : undefined;
}

/** What to draw to get this image again, in the page's own terms, and what that lacks; only `isSheet` of a contact sheet by HART, which has
 * the settings of many images; null if the file does not say. */
export async function settingsOf(blob) {
  const chunks = await textChunks(blob);
  if (chunks?.images !== undefined && chunks.settings !== undefined) return { isSheet: true };
  if (chunks?.prompt === undefined || chunks.seed === undefined) return null; // an edit may have an empty prompt
  let stored = {};
  try {
    stored = JSON.parse(chunks.settings ?? "{}");
  } catch {
    return null;
  }
  const sampling = stored.sampling ?? {};
  const lacks = [
    stored.mix && takesOver(stored.mix.weights) === undefined && "the shares of the second prompt",
    stored.edit && "the image's source image",
    stored.loras?.length && `the adapter ${stored.loras.join(", ")}`,
    stored.random_weights && "its random weights",
    stored.cache && stored.cache !== "model" && `the cache in ${stored.cache}`,
  ].filter(Boolean);
  return {
    prompt: chunks.prompt,
    ...(stored.mix && { second_prompt: stored.mix.prompt, switch: takesOver(stored.mix.weights) }),
    negative_prompt: stored.negative_prompt ?? "",
    seed: chunks.seed,
    model: chunks.model,
    ...sampling,
    top_k: sampling.top_k ?? 0,
    top_p: sampling.top_p ?? 1,
    lacks,
    speed: stored.speed,
    size: typeof stored.size === "number" ? `${stored.size}x${stored.size}` : stored.size,
  };
}
