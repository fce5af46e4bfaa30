// The page: loads the recogniser, starts and stops the microphone, shows texts.

import { spell } from "./decoding.js";

const find = (id) => document.getElementById(id);
const button = find("button");
const status = find("status");
let model, worker, context, stream, source, recorder, stopping;

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function say(text) {
  status.textContent = text;
}

// The service worker keeps all files: once it is active, the page works without a network.
async function keepFiles() {
  if (!("serviceWorker" in navigator)) return false;
  try {
    const registration = await navigator.serviceWorker.register("service-worker.js");
    // Where the files cannot be kept (no room, say), `ready` never comes.
    const failed = new Promise((resolve) => {
      registration.installing?.addEventListener("statechange", ({ target }) => {
        if (target.state === "redundant") resolve(false);
      });
    });
    return await Promise.race([navigator.serviceWorker.ready.then(() => true), failed]);
  } catch (error) {
    console.warn("no service worker:", error);
    return false;
  }
}

function ready(kept) {
  const sizes = `model ${megabytes(model.bytes)}, runtime ${megabytes(model.runtime_bytes)}`;
  say(`${model.name}: ${sizes}. ${kept ? "Works offline from now on." : "Needs the network at the next start."}`);
  document.body.dataset.offline = String(kept);
  button.disabled = false;
  button.focus();
}

function show({ final, text }) {
  for (const words of final) {
    const line = document.createElement("li");
    line.textContent = words;
    find("final").append(line);
    line.scrollIntoView({ block: "nearest" });
  }
  find("partial").textContent = text;
}

function characters() {
  return model.tokens.slice(1).filter((token) => [...token].length === 1).join("");
}

function readPhrases() {
  const lines = find("phrases").value.split("\n").map((line) => line.trim()).filter((line) => line);
  return lines.map((text) => {
    const tokens = spell(text, model.tokens, model.kind);
    const known = model.kind === "word" ? `it knows ${model.tokens.length - 1} words` : `its characters are ${characters()}`;
    if (!tokens) throw new Error(`“${text}”: this model cannot spell it; ${known}`);
    return { text, tokens };
  });
}

async function begin() {
  button.disabled = true;
  try {
    const phrases = readPhrases();
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
    context = await openContext();
    worker.postMessage({ kind: "begin", rate: context.sampleRate, phrases });
    await context.audioWorklet.addModule("microphone.js");
    recorder = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => {
      worker.postMessage({ kind: "samples", samples: data.samples }, [data.samples.buffer]);
      if (data.last) worker.postMessage({ kind: "end" });
    };
    source.connect(recorder);
    button.textContent = "Stop";
    button.setAttribute("aria-pressed", "true");
    document.body.dataset.listening = "true";
    say("Listening. The sound stays on this device.");
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The browser does not allow the microphone: allow it and try again." : `${error.message}`);
    await close();
  }
  button.disabled = false;
}

// At the model's rate where the browser can do that for a microphone; else the worker resamples.
async function openContext() {
  for (const options of [{ sampleRate: model.features.sample_rate_hz }, {}]) {
    const opened = new AudioContext(options);
    try {
      source = opened.createMediaStreamSource(stream);
      return opened;
    } catch (error) {
      await opened.close();
      if (!options.sampleRate) throw error;
    }
  }
}

async function close() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  if (context && context.state !== "closed") await context.close();
  stream = context = undefined;
  button.textContent = "Start";
  button.setAttribute("aria-pressed", "false");
  document.body.dataset.listening = "false";
}

function end() {
  button.disabled = true;
  stopping = true;
  recorder.port.postMessage("stop");
}

async function start() {
  const kept = await keepFiles();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = async ({ data }) => {
    if (data.kind === "ready") {
      model = data.model;
      find("phrases").placeholder = "one phrase a line";
      ready(kept);
    } else if (data.kind === "update") show(data);
    else if (data.kind === "ended") {
      stopping = false;
      await close();
      say("Stopped.");
      button.disabled = false;
    } else if (data.kind === "failed") {
      if (stream) await close();
      say(`It does not work: ${data.message}`);
    }
  };
  worker.onerror = (event) => say(`It does not work: ${event.message}`);
  worker.postMessage({ kind: "load" });
}

button.onclick = () => (stream && !stopping ? end() : begin());
start();
