// Recordings and texts in the browser's own database (IndexedDB). Audio is kept in pieces, so that a live recording is
// saved while it grows.

const NAME = "asr-transcribe";

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("recordings", { keyPath: "id" });
      request.result.createObjectStore("audio");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version of the database"));
  });
  return opened;
}

async function run(stores, mode, work) {
  const base = await open();
  return new Promise((resolve, reject) => {
    const transaction = base.transaction(stores, mode);
    const request = work(transaction);
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = () => reject(transaction.error ?? new Error("the browser did not save it"));
    transaction.onerror = () => reject(transaction.error);
  });
}

/** All recordings that are not marked as deleted, newest first, without their audio. */
export async function loadAll() {
  const all = await run(["recordings"], "readonly", (t) => t.objectStore("recordings").getAll());
  const deleted = new Set(marked());
  return all.filter(({ id }) => !deleted.has(id)).sort((a, b) => b.created - a.created);
}

export const loadOne = (id) => run(["recordings"], "readonly", (t) => t.objectStore("recordings").get(id));

export const keep = (recording) => run(["recordings"], "readwrite", (t) => t.objectStore("recordings").put(recording));

/** Keep one piece (a Blob) of a recording's audio. */
export const keepPiece = (id, number, blob) => run(["audio"], "readwrite", (t) => t.objectStore("audio").put(blob, [id, number]));

/** The audio of a recording as one Blob: the file itself, or a WAV file made of the pieces; null if it was not kept. */
export async function loadAudio(recording) {
  const range = IDBKeyRange.bound([recording.id, 0], [recording.id, Infinity]);
  const pieces = await run(["audio"], "readonly", (t) => t.objectStore("audio").getAll(range));
  if (!pieces.length) return null;
  return recording.pcm_rate ? wav(pieces, recording.pcm_rate) : pieces[0];
}

export async function forget(id) {
  await run(["recordings", "audio"], "readwrite", (t) => {
    t.objectStore("recordings").delete(id);
    t.objectStore("audio").delete(IDBKeyRange.bound([id, 0], [id, Infinity]));
  });
}

const DELETED = "asr-deleted";

function marked() {
  try {
    return JSON.parse(localStorage.getItem(DELETED)) ?? [];
  } catch {
    return [];
  }
}

/** Note that a recording is deleted (or is not), at once: the database would answer too late for a page that goes away. */
export function markDeleted(id, deleted) {
  const others = marked().filter((known) => known !== id);
  localStorage.setItem(DELETED, JSON.stringify(deleted ? [...others, id] : others));
}

/** Delete what is still marked after the time in which another tab may undo it. */
export function forgetMarked(seconds) {
  setTimeout(async () => {
    for (const id of marked()) await forget(id).then(() => markDeleted(id, false), () => {});
  }, seconds * 1000);
}

/** 16-bit mono samples, in Blobs, as a WAV file. */
export function wav(pieces, rate) {
  const size = pieces.reduce((sum, piece) => sum + piece.size, 0);
  const head = new DataView(new ArrayBuffer(44));
  const letters = (at, text) => [...text].forEach((c, n) => head.setUint8(at + n, c.charCodeAt(0)));
  letters(0, "RIFF");
  head.setUint32(4, 36 + size, true);
  letters(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  letters(36, "data");
  head.setUint32(40, size, true);
  return new Blob([head, ...pieces], { type: "audio/wav" });
}

const UNSAVED = "asr-unsaved";

/** Keep a text at once, while the page goes away: the database would answer too late. */
export function keepAtOnce({ id, segments, form, left }) {
  try {
    localStorage.setItem(UNSAVED, JSON.stringify({ id, segments, form, left }));
  } catch { /* more than the browser takes; the database may still be in time */ }
}

/** The text that `keepAtOnce` kept, once; else null. */
export function takeUnsaved() {
  const text = localStorage.getItem(UNSAVED);
  localStorage.removeItem(UNSAVED);
  return text && JSON.parse(text);
}
