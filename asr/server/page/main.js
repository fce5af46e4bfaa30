// The page: its views, the list of recordings, files that wait for their text, and all keys.

import { info, peaks, ready, transcribe } from "./api.js";
import { DocumentView, downloadCorrections } from "./document.js";
import { $, bytes, clock, icon, make, toast } from "./dom.js";
import { Keys } from "./keys.js";
import * as library from "./library.js";
import { LiveRecording } from "./live.js";
import { corrections, formsOf, newRecording, segmentsOf } from "./recording.js";
import { Teach } from "./teach.js";

const AT_ONCE = 2; // files that are transcribed at the same time
const UNDO_S = 8; // for so long a deleted recording can be had back
const THEMES = ["", "light", "dark"];

const recordings = new Map(); // id → recording, newest first
const running = new Map(); // id → {progress, abort}
let server = null; // what page-data/info said
let live = null;
let view = "home";
let openNext = null; // the recording that is opened as soon as it has a text

const audioHere = new Map(); // id → Blob, where the browser's database has no room for it
const store = {
  loadAudio: async (recording) => audioHere.get(recording.id) ?? library.loadAudio(recording),
  keep: async (recording) => {
    await library.keep(recording);
    tabs.postMessage(recording.id);
  },
};
const tabs = new BroadcastChannel("asr-transcribe");
const page = new DocumentView(store, () => show("home"));

// Views

function show(name, recording = null) {
  if (page.recording) {
    page.saveNow?.();
    page.close();
  }
  view = name;
  for (const id of ["home", "live", "document"]) $(id).hidden = id !== name;
  $("toasts").replaceChildren();
  if (name === "home") {
    openNext = null;
    drawList();
  }
  if (name === "document") page.open(recording);
  const address = recording ? `#${recording.id}` : "#";
  if (location.hash !== (recording ? address : "")) history.pushState(null, "", address);
  scrollTo(0, 0);
}

function follow() {
  if (live) return;
  const recording = recordings.get(location.hash.slice(1));
  if (recording?.state === "done") show("document", recording);
  else if (view !== "home") show("home");
}

// The list

function drawList() {
  const all = [...recordings.values()].sort((a, b) => b.created - a.created);
  $("list").replaceChildren(...all.map(listItem));
  $("list-head").hidden = !all.length;
  const checked = all.filter((recording) => recording.segments.some((segment) => segment.checked));
  $("zip-all").hidden = checked.length < 2;
}

function listItem(recording) {
  const { id, state } = recording;
  const work = running.get(id);
  const about = {
    done: () => [clock(recording.duration_s), recording.segments.flatMap((s) => s.words.map((w) => w.text)).slice(0, 24).join(" ") || "no speech"].join(" · "),
    failed: () => recording.error.replace(`${recording.name}: `, ""), // the row begins with the name
    recording: () => "recording…",
    waiting: () => work?.label ?? "waiting",
  }[state]();
  const item = make("li", { class: `item ${state}`, dataset: { id } },
    make("button", { class: "open", type: "button", disabled: state !== "done", onclick: () => show("document", recording) },
      make("span", { class: "name" }, recording.name), make("span", { class: "about" }, about)));
  const button = (label, sign, action) => item.append(make("button", { class: "plain icon-only", type: "button", title: label, "aria-label": `${label}: ${recording.name}`, onclick: action }, icon(sign)));
  if (state === "failed" || (state === "done" && recording.kind === "live")) button("Transcribe again", "again", () => again(recording));
  button(state === "waiting" ? "Cancel" : "Delete", state === "waiting" ? "close" : "bin", () => remove(recording));
  if (state === "waiting" && work) {
    item.append(make("progress", { max: 1, value: work.progress < 1 ? work.progress : null, "aria-label": `Progress of ${recording.name}` }));
  }
  return item;
}

function redraw(recording) {
  if (view !== "home") return;
  const item = [...$("list").children].find((element) => element.dataset.id === recording.id);
  if (item && !item.contains(document.activeElement)) item.replaceWith(listItem(recording));
  else drawList();
}

/** Delete a recording; for some seconds it can be had back. */
function remove(recording) {
  running.get(recording.id)?.abort.abort();
  recordings.delete(recording.id);
  drawList();
  const forever = () => {
    library.forget(recording.id).then(() => library.markDeleted(recording.id, false), () => {});
    audioHere.delete(recording.id);
  };
  library.markDeleted(recording.id, true); // if the page is closed meanwhile, the next one deletes it
  toast(`Deleted “${recording.name}”.`, { Undo: () => {
    library.markDeleted(recording.id, false);
    recordings.set(recording.id, recording);
    drawList();
    if (recording.state === "waiting") work();
  } }, UNDO_S, forever);
}

/** Another tab has saved this recording: what is shown here must not go back behind it. */
tabs.onmessage = async ({ data: id }) => {
  const found = await library.loadOne(id).catch(() => null);
  if (!found || running.has(id) || live?.recording.id === id) return;
  recordings.set(id, found);
  if (page.recording?.id === id) page.refresh(found);
  else redraw(found);
};

async function keep(recording) {
  try {
    await store.keep(recording);
  } catch (error) {
    notKept(error);
  }
}

let told = false;
function notKept(error) {
  if (told) return;
  told = true;
  $("kept").textContent = `This browser does not keep recordings (${error.message}): download what you need before you close the page.`;
  toast("This browser does not keep recordings. Download what you need before you close the page.", {}, 15);
}

// Files

async function addFiles(files) {
  const chosen = [...files];
  if (!chosen.length) return;
  if (live) {
    toast("Stop the recording first.");
    return;
  }
  if (view !== "home") show("home");
  const now = Date.now(); // one time for all: the clock goes on while files are added
  for (const [n, file] of chosen.entries()) {
    const recording = newRecording(file.name, "file", $("model").value);
    recording.created = now - n / 1000; // newest first, but files that came together in their own order
    recording.bytes = file.size;
    recordings.set(recording.id, recording);
    const most = server?.limits?.file_bytes;
    if (most && file.size > most) {
      fail(recording, `The file has ${bytes(file.size)}; this server takes at most ${bytes(most)}.`);
      continue;
    }
    if (!file.size) {
      fail(recording, "The file is empty.");
      continue;
    }
    audioHere.set(recording.id, file);
    library.keepPiece(recording.id, 0, file).then(() => library.keep(recording)).then(() => audioHere.delete(recording.id), notKept);
    openNext = chosen.length === 1 ? recording.id : null;
  }
  drawList();
  work();
}

function fail(recording, message) {
  recording.state = "failed";
  recording.error = message;
  keep(recording);
}

function again(recording) {
  const edited = recording.segments.some((segment) => segment.checked);
  const start = () => {
    recording.state = "waiting";
    recording.error = "";
    recording.model = $("model").value || recording.model;
    openNext = recording.id;
    redraw(recording);
    work();
  };
  if (edited) toast("The new text takes the place of your corrections.", { "Transcribe again": start }, 12);
  else start();
}

/** Transcribe what waits, `AT_ONCE` at a time. */
function work() {
  for (const recording of recordings.values()) {
    if (running.size >= AT_ONCE) return;
    if (recording.state === "waiting" && !running.has(recording.id)) process(recording).then(work);
  }
}

async function process(recording) {
  const task = { progress: 0, label: "uploading", abort: new AbortController() };
  running.set(recording.id, task);
  const change = (values) => {
    Object.assign(task, values);
    redraw(recording);
  };
  change({});
  try {
    const blob = await store.loadAudio(recording);
    if (!blob) throw new Error("The sound of this recording is no longer in this browser. Open the file again.");
    const seconds = await lengthOf(blob);
    const answer = await transcribe(blob, recording.name, recording.model, {
      signal: task.abort.signal,
      onUpload: (share) => change({ progress: share, label: share < 1 ? `uploading, ${Math.round(100 * share)} %` : "transcribing…" }),
      onText: (text, reached) => change({ progress: reached / seconds || 1, label: `${reached < seconds ? `${Math.round(100 * reached / seconds)} % · ` : ""}…${text.slice(-80)}` }),
      onBusy: (wait) => change({ progress: 1, label: `the server is busy; next try in ${Math.ceil(wait)} s` }),
    });
    take(recording, answer);
    if (!recording.peaks) await peaks(blob, recording.name).then((found) => { recording.peaks = { per_s: found.per_s, peaks: found.peaks }; }, () => {});
  } catch (error) {
    if (recordings.has(recording.id)) fail(recording, error.message);
  }
  running.delete(recording.id);
  if (!recordings.has(recording.id)) return;
  await keep(recording);
  redraw(recording);
  if (recording.state === "done" && openNext === recording.id && view === "home") show("document", recording);
}

/** Seconds that a file lasts, as far as the browser knows; else 0. */
function lengthOf(blob) {
  return new Promise((resolve) => {
    const audio = new Audio();
    const address = URL.createObjectURL(blob);
    const done = () => {
      resolve(Number.isFinite(audio.duration) ? audio.duration : 0);
      audio.removeAttribute("src");
      URL.revokeObjectURL(address);
    };
    for (const kind of ["loadedmetadata", "error"]) audio.addEventListener(kind, done, { once: true });
    setTimeout(done, 2000);
    audio.preload = "metadata";
    audio.src = address;
  });
}

/** A recording with the text of the server's `verbose_json`. */
function take(recording, answer) {
  const extra = answer.asr ?? {};
  const plain = (words) => words.map((word) => ({ text: word.text ?? word.word, start_s: word.start_s ?? word.start,
    end_s: word.end_s ?? word.end, confidence: word.confidence ?? null }));
  recording.forms = formsOf(plain(extra.words ?? answer.words ?? []), plain(extra.written_words ?? []));
  recording.form = recording.forms.written.length && localStorage.getItem("asr-form") !== "spoken" ? "written" : "spoken";
  recording.bounds = []; // paragraphs end at pauses
  recording.segments = segmentsOf(recording.forms[recording.form]);
  recording.left = {}; // segments of the form that is not shown, as they were left
  recording.duration_s = answer.duration;
  recording.language = answer.language;
  recording.reliable = extra.reliable ?? null;
  recording.reliability = extra.reliability ?? null;
  recording.calibrated = Boolean(modelNamed(recording.model)?.calibrated);
  recording.state = "done";
}

const modelNamed = (name) => server?.models.find((model) => model.name === name);

/** The corrections of the opened recording, for the server. */
async function taught() {
  const { recording } = page;
  const segments = recording ? corrections(recording) : [];
  const blob = segments.length ? await store.loadAudio(recording) : null;
  return blob ? [{ blob, name: recording.name, language: recording.language, segments }] : [];
}
new Teach(taught);

async function zipAll() {
  const items = [];
  for (const recording of recordings.values()) {
    const segments = corrections(recording);
    const blob = segments.length ? await store.loadAudio(recording).catch(() => null) : null;
    if (blob) items.push({ blob, name: recording.name, language: recording.language, segments });
  }
  if (items.length) await downloadCorrections(items, "corrections.zip");
}

// Recording

async function record() {
  if (live) {
    await stop();
    return;
  }
  if (!document.documentElement.dataset.ready) {
    toast($("server-state").textContent || "Connecting to the server…");
    return;
  }
  if (view !== "home") show("home");
  const model = modelNamed(server?.live_model);
  live = new LiveRecording(server?.live_model ?? "", Boolean(model?.calibrated), {
    keepPiece: (recording, number, blob) => library.keepPiece(recording.id, number, blob).catch(notKept),
    keepText: keep,
  });
  live.recording.language = model?.languages?.[0];
  live.onUnplugged = () => {
    toast("The microphone is gone.");
    stop();
  };
  show("live");
  try {
    await live.start();
    $("stop").focus();
  } catch (error) {
    live = null;
    show("home");
    toast(error.message, {}, 20);
  }
}

let stopping = false;
async function stop() {
  if (stopping || !live?.microphone) return;
  stopping = true;
  const { recording } = live;
  const ended = await live.stop().finally(() => { stopping = false; });
  recordings.set(recording.id, ended);
  audioHere.set(recording.id, library.wav(live.pieces, recording.pcm_rate));
  live = null;
  if (ended.state === "waiting") { // the connection was lost: the whole recording goes as a file
    ended.model = server?.file_model ?? ended.model;
    show("home");
    openNext = ended.id;
    work();
  } else show("document", ended);
}

// The server

async function greet() {
  const state = $("server-state");
  try {
    server = await info();
  } catch (error) {
    state.textContent = error.status === 401 ? "Token needed" : "No connection";
    if (error.status !== 401) setTimeout(greet, 3000);
    $("home").dataset.server = "lost";
    return;
  }
  $("teach").hidden = !server.teaches;
  if (server.teaches) $("kept").append(" What you send with Teach is stored on the server.");
  const files = server.models;
  $("model").replaceChildren(...files.map((model) => make("option", { value: model.name }, model.name)));
  $("model").value = files.some((model) => model.name === localStorage.getItem("asr-model")) ? localStorage.getItem("asr-model") : server.file_model;
  $("model-choice").hidden = false;
  describeModel();
  while ((await ready()) === false) {
    state.textContent = "Loading the models…";
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  state.textContent = "";
  document.documentElement.dataset.ready = "yes";
  work();
}

function describeModel() {
  const model = modelNamed($("model").value);
  const purpose = model?.purpose ?? "";
  const live = server.live_model && server.live_model !== model?.name ? `Record uses the model ${server.live_model}.` : "";
  $("model-purpose").textContent = [purpose && `${purpose[0].toUpperCase()}${purpose.slice(1).replace(/\.$/, "")}.`, live].filter(Boolean).join(" ");
  localStorage.setItem("asr-model", $("model").value);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("asr-theme", theme);
  $("theme").setAttribute("aria-label", `Colours: ${theme || "as the system"}`);
  page.waveform.recolour();
}

const nextTheme = () => setTheme(THEMES[(THEMES.indexOf(localStorage.getItem("asr-theme") ?? "") + 1) % THEMES.length]);

// Keys

const here = () => view === "document";
const inText = (target) => here() && (target.classList.contains("word") || target === document.body || ["main", "title"].includes(target.id));
new Keys([
  { keys: ["r"], does: "Record, stop", when: () => !here(), run: record },
  { keys: ["o"], does: "Open recordings", when: () => !live, run: () => $("files").click() },
  { keys: [" "], does: "Play, pause", when: here, run: () => page.player.toggle() },
  { keys: ["p"], does: "Play this word", when: here, run: () => page.playWord() },
  { keys: ["j", "l"], does: "3 s back, forward", when: here, run: (event) => page.skip(event.key.toLowerCase() === "j" ? -3 : 3) },
  { keys: ["-", "+"], does: "Slower, faster", when: here, run: (event) => page.faster(event.key === "-" ? -1 : 1) },
  { keys: ["ArrowLeft", "ArrowRight"], does: "Previous, next word", when: inText, run: (event) => page.editor.move(event.key === "ArrowLeft" ? -1 : 1) },
  { keys: ["ArrowUp", "ArrowDown"], does: "Previous, next paragraph", when: (target) => here() && target.classList.contains("word"), run: (event) => page.editor.moveSegment(event.key === "ArrowUp" ? -1 : 1) },
  { keys: ["Enter"], does: "Correct the word", when: inText, run: () => page.editor.edit() },
  { keys: ["e"], does: "Replace everywhere", when: here, run: () => page.askReplace() },
  { keys: ["d", "Shift+d"], does: "Next, previous doubtful word", when: here, run: (event) => page.nextDoubt(event.shiftKey ? -1 : 1) },
  { keys: ["y"], does: "This word is right, go on", when: here, run: () => page.confirm() },
  { keys: ["u"], does: "Doubt on, off", when: here, run: () => $("doubt").click() },
  { keys: ["w"], does: "Case and digits on, off", when: here, run: () => page.switchForm() },
  { keys: ["c"], does: "Paragraph checked: train on it", when: here, run: () => page.tickCurrent() },
  { keys: ["Ctrl+z"], does: "Undo", when: here, run: () => page.undo() },
  { keys: ["Ctrl+Shift+z", "Ctrl+y"], does: "Redo", when: here, run: () => page.redo() },
  { keys: ["/", "Ctrl+f"], does: "Search", when: (target) => here() && target.id !== "search", run: () => $("search").select() },
  { keys: ["n", "Shift+n"], does: "Next, previous match", when: here, run: (event) => page.nextFound(event.shiftKey ? -1 : 1) },
  { keys: ["s"], does: "Download", when: here, run: () => { $("download").open = true; $("download").querySelector("summary").focus(); } },
  { keys: ["t"], does: "Colours", run: nextTheme },
  { keys: ["Escape"], does: "Back to all recordings", when: here, run: () => show("home") },
  { keys: ["?"], does: "This help", run: () => $("help").showModal() },
]);

// Start

function listen() {
  $("record").addEventListener("click", record);
  $("stop").addEventListener("click", stop);
  $("theme").addEventListener("click", nextTheme);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("zip-all").addEventListener("click", zipAll);
  $("model").addEventListener("change", describeModel);
  $("home-link").addEventListener("click", (event) => {
    event.preventDefault();
    if (!live) show("home");
  });
  $("files").addEventListener("change", () => {
    addFiles($("files").files);
    $("files").value = "";
  });
  let depth = 0;
  const dragging = (on) => { $("drop-overlay").hidden = !on; };
  addEventListener("dragenter", (event) => { if (event.dataTransfer.types.includes("Files")) dragging(Boolean(depth += 1)); });
  addEventListener("dragleave", () => { if (depth && !(depth -= 1)) dragging(false); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    dragging(false);
    addFiles(event.dataTransfer.files);
  });
  addEventListener("popstate", follow);
  addEventListener("beforeunload", (event) => { if (live) event.preventDefault(); });
  addEventListener("pagehide", () => {
    if (!page.saveNow) return;
    library.keepAtOnce(page.recording);
    page.saveNow();
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) page.saveNow?.(); });
}

async function start() {
  setTheme(localStorage.getItem("asr-theme") ?? "");
  listen();
  const greeting = greet();
  try {
    library.forgetMarked(2 * UNDO_S);
    for (const recording of await library.loadAll()) {
      if (recording.state === "recording") recording.state = recording.segments.length ? "done" : "waiting"; // the page was closed
      recordings.set(recording.id, recording);
    }
    const unsaved = library.takeUnsaved();
    if (recordings.has(unsaved?.id)) {
      Object.assign(recordings.get(unsaved.id), unsaved);
      await library.keep(recordings.get(unsaved.id));
    }
    navigator.storage?.persist?.();
  } catch (error) {
    notKept(error);
  }
  drawList();
  follow();
  await greeting;
}

start();
