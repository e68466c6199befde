// Finished images, kept in this browser: {id, created, blob, partials (by scale), scales, settings, kind}.

export const KEPT = 400;

const tabs = new BroadcastChannel("hart");

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("hart", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("images", { keyPath: "id", autoIncrement: true });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
opened.catch(() => {}); // reported by whoever asks first

async function within(mode, work) {
  const transaction = (await opened).transaction("images", mode);
  const request = work(transaction.objectStore("images"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** All images, newest first; the oldest beyond the limit are deleted. */
export async function all() {
  const found = (await within("readonly", (store) => store.getAll())).reverse();
  for (const old of found.splice(KEPT)) await remove(old.id);
  return found;
}

/** Store an image, one that was removed at its place; returns it with its id. */
export async function put(image) {
  const id = await within("readwrite", (store) => store.put(image));
  tabs.postMessage(id);
  return { ...image, id };
}

export async function remove(id) {
  await within("readwrite", (store) => store.delete(id));
  tabs.postMessage(id);
}

/** Have `changed` called with the id of each image that another tab stores or removes; with the image too, if it is there. */
export function watch(changed) {
  tabs.onmessage = async ({ data: id }) => changed(id, await within("readonly", (store) => store.get(id)));
}
