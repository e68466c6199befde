// Finished images, kept in this browser: {id, created, blob, partials, settings, kind}.

export const KEPT = 400;

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

/** Store an image; returns it with its id. */
export async function add(image) {
  return { ...image, id: await within("readwrite", (store) => store.add(image)) };
}

/** Store an image again that was removed, at its place. */
export const put = (image) => within("readwrite", (store) => store.put(image));

export const remove = (id) => within("readwrite", (store) => store.delete(id));
