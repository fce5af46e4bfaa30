// What the page asks of the server. Every request takes the token along, and a 401 asks the user for it once.

import { $ } from "./dom.js";

const TOKEN = "asr-token";
let asking = null;

const token = () => sessionStorage.getItem(TOKEN) ?? "";

/** An error whose message is for the user. */
export class ServerError extends Error {
  constructor(message, status = 0, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Ask for the token. All that wait for it share one dialog. Resolves to false if the user declines. */
function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = $("token");
    $("token-value").value = "";
    $("token-hint").textContent = token()
      ? "The server does not accept this token. Check it, and enter it again."
      : "Whoever started the server chose it with --token. It is kept until you close this tab.";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      const value = $("token-value").value.trim();
      if (dialog.returnValue === "go" && value) sessionStorage.setItem(TOKEN, value);
      resolve(dialog.returnValue === "go" && Boolean(value));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** `XMLHttpRequest`, since `fetch` does not say how much of an upload is done. */
function send(method, path, { body = null, type = "json", onUpload = null, onText = null, signal = null } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = type;
    if (token()) request.setRequestHeader("Authorization", asHeader(`Bearer ${token()}`));
    if (onUpload) request.upload.onprogress = (event) => onUpload(event.loaded / (event.total || 1));
    if (onText) request.onprogress = () => request.status === 200 && onText(request.responseText);
    signal?.addEventListener("abort", () => request.abort());
    request.onload = () => resolve(request);
    request.onabort = () => reject(new ServerError("Cancelled."));
    request.onerror = () => reject(new ServerError("The server does not answer. Check that it is running and that you are online."));
    request.send(body);
  });
}

async function message(request) {
  try {
    const { response } = request;
    const tree = typeof response === "string" ? JSON.parse(response) : response instanceof Blob ? JSON.parse(await response.text()) : response;
    return tree?.error?.message ?? tree?.error ?? tree?.detail ?? "";
  } catch {
    return "";
  }
}

/** The answer to a request. Raises `ServerError`. */
export async function ask(method, path, options = {}) {
  for (;;) {
    const used = token();
    const request = await send(method, path, options);
    if (request.status === 401) {
      if (used !== token() || (await askForToken())) continue;
      throw new ServerError("The server asks for a token.", 401);
    }
    if (request.status >= 200 && request.status < 300) return request;
    const told = await message(request);
    const wait = Number(request.getResponseHeader("Retry-After")) || 0;
    if (request.status === 503) throw new ServerError(told || "The server is busy.", 503, wait || 5);
    throw new ServerError(told || `The server answered with status ${request.status}.`, request.status);
  }
}

/** Models, limits and what else the page needs to know. */
export const info = async () => (await ask("GET", "page-data/info")).response;

/** Whether the models are loaded: true, false, or null if the server does not answer. */
export async function ready() {
  try {
    return (await send("GET", "ready")).status < 400;
  } catch {
    return null;
  }
}

/** The events of a stream of server-sent events, from character `from` of its text on, and where the next one begins. */
function events(text, from) {
  const found = [];
  for (let end = text.indexOf("\n\n", from); end >= 0; end = text.indexOf("\n\n", from)) {
    const data = text.slice(from, end).split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
    if (data) found.push(JSON.parse(data));
    from = end + 2;
  }
  return [found, from];
}

/** The server's transcript of a file, as `verbose_json` with words. `onUpload(share)`, then `onText(text, seconds)` while
 * it grows. A busy server is asked again, after `onBusy(seconds)`. */
export async function transcribe(blob, name, model, { onUpload, onText, onBusy, signal }) {
  const body = new FormData();
  body.append("file", blob, name);
  for (const [field, value] of Object.entries({ model, response_format: "verbose_json", stream: "true" })) body.append(field, value);
  for (const part of ["word", "segment"]) body.append("timestamp_granularities[]", part);
  for (;;) {
    try {
      return await streamed({ body, onUpload, signal }, onText);
    } catch (error) {
      if (error.status !== 503) throw error;
      onBusy(error.retryAfter);
      await new Promise((resolve) => setTimeout(resolve, error.retryAfter * 1000));
      if (signal?.aborted) throw error;
    }
  }
}

async function streamed(options, onText) {
  let [at, text, whole] = [0, "", null];
  const read = (received) => {
    const [found, next] = events(received, at);
    at = next;
    for (const event of found) {
      if (event.error) throw new ServerError(event.error.message ?? "The server failed.");
      if (event.verbose_json) whole = event.verbose_json;
      else if (event.delta) onText(text += event.delta, event.asr?.end_s ?? 0);
    }
  };
  let failure = null;
  const request = await ask("POST", "v1/audio/transcriptions", { ...options, type: "text", onText: (received) => {
    try {
      read(received);
    } catch (error) {
      failure = error;
    }
  } });
  if (failure) throw failure;
  read(request.responseText);
  if (!whole) throw new ServerError("The connection to the server was lost. Try again.");
  return whole;
}

/** `{duration_s, per_s, peaks}` of a recording, peaks being bytes. */
export async function peaks(blob, name) {
  const answer = (await ask("POST", `page-data/peaks?name=${encodeURIComponent(name)}`, { body: blob })).response;
  const text = atob(answer.peaks);
  return { ...answer, peaks: Uint8Array.from(text, (c) => c.charCodeAt(0)) };
}

/** The recording as the server decodes it: a Blob (FLAC) for browsers that cannot play the file itself. */
export const decoded = async (blob, name) =>
  (await ask("POST", `page-data/audio?name=${encodeURIComponent(name)}`, { body: blob, type: "blob" })).response;

/** A zip of corrected utterances. `items`: `[{blob, name, language, segments}]`, which travel one behind the other: a line
 * of JSON, then the recording. `{blob, leftOut}`: the zip, and how many utterances are not in it. */
export async function zip(items) {
  const body = new Blob(items.flatMap(({ blob, name, language, segments }) =>
    [`${JSON.stringify({ name, language, bytes: blob.size, segments })}\n`, blob]));
  const request = await ask("POST", "page-data/corrections", { body, type: "blob" });
  return { blob: request.response, leftOut: Number(request.getResponseHeader("X-Left-Out")) || 0 };
}

/** A text as the value of a header: its UTF-8 bytes, one a character. */
const asHeader = (text) => String.fromCharCode(...new TextEncoder().encode(text));

/** A socket that speaks Vosk's protocol. Browsers cannot set its headers, so the token is a subprotocol. A token with
 * characters that these must not have (RFC 6455), such as the / and = of base64, stands in the address. */
export function voskSocket() {
  const address = new URL("vosk", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  const plain = /^[\w!#$%&'*+.^`|~-]+$/.test(token());
  if (token() && !plain) address.searchParams.set("token", token());
  const socket = plain ? new WebSocket(address, ["realtime", `openai-insecure-api-key.${token()}`]) : new WebSocket(address);
  socket.binaryType = "arraybuffer";
  return socket;
}
