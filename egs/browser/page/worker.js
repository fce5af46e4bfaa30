// Recognises in a thread of its own, so that the page and the microphone never wait for the network.
// In: {kind: "load"}, {kind: "begin", rate, phrases}, {kind: "samples", samples}, {kind: "end"}.
// Out: {kind: "ready", model}, {kind: "update", final, text}, {kind: "ended"}, {kind: "failed", message}.

import { asText, Endpointer, greedy, likeliestPhrase } from "./decoding.js";
import { Network } from "./network.js";
import * as ort from "./ort/ort.wasm.min.mjs";
import { Resampler } from "./resampler.js";

const SILENCE_S = 0.8;
const LONGEST_S = 20;
const PENALTY = 6; // nats that anything else costs where phrases are listened for

let network, model, endpointer, resampler, phrases, rows;

async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  model = await (await fetch("model/model.json")).json();
  const graph = await (await fetch("model/streaming.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  network = new Network(ort, session, model);
  postMessage({ kind: "ready", model });
}

function begin(message) {
  const frame = model.frames.frame_s;
  endpointer = new Endpointer(Math.ceil(SILENCE_S / frame), Math.ceil(LONGEST_S / frame));
  const rate = model.features.sample_rate_hz;
  resampler = message.rate === rate ? null : new Resampler(message.rate, rate);
  phrases = message.phrases;
  rows = [];
  network.start();
}

function read(rows) {
  return phrases.length ? likeliestPhrase(rows, phrases, PENALTY) : asText(greedy(rows), model.tokens);
}

function decode(more, last) {
  const final = [];
  for (const row of more) {
    rows.push(row);
    if (endpointer.accept(row)) {
      final.push(read(rows));
      rows = [];
    }
  }
  if (last) final.push(read(rows));
  const text = last || phrases.length ? "" : read(rows);
  postMessage({ kind: "update", final: final.filter((text) => text), text });
}

async function accept(message) {
  if (message.kind === "load") await load();
  if (message.kind === "begin") begin(message);
  if (message.kind === "samples") {
    decode(await network.accept(resampler ? resampler.accept(message.samples) : message.samples), false);
  }
  if (message.kind === "end") {
    const tail = resampler ? await network.accept(resampler.accept(new Float32Array(resampler.reach + 1))) : [];
    decode([...tail, ...(await network.finish())], true);
    postMessage({ kind: "ended" });
  }
}

// One message after the other: the network keeps a state.
let queue = Promise.resolve();
onmessage = ({ data }) => {
  queue = queue.then(() => accept(data)).catch((error) => postMessage({ kind: "failed", message: String(error) }));
};
