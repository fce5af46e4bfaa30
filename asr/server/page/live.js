// Recording with growing text: the microphone's blocks go to the server as they come, and are kept here as well, so that
// nothing is lost when the connection is.

import { ready, voskSocket } from "./api.js";
import { $, clock, make, notice } from "./dom.js";
import { Microphone } from "./microphone.js";
import { formsOf, newRecording, segmentsOf } from "./recording.js";
import { drawLevel } from "./waveform.js";

const PEAKS_PER_S = 20;
const PIECE_S = 5;
const ANSWER_S = 60;

/** Words of a reply as the page has them. */
const plain = (words) => words?.map(({ word, start, end, conf }) => ({ text: word, start_s: start, end_s: end, confidence: conf ?? null })) ?? [];

export class LiveRecording {
  /** `keepPiece(recording, number, blob)` and `keepText(recording)` save; they may fail without harm to the recording. */
  constructor(model, calibrated, { keepPiece, keepText }) {
    const now = new Date();
    this.recording = newRecording(`Recording ${now.toLocaleDateString()} ${now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`, "live", model);
    this.recording.calibrated = calibrated;
    this.recording.state = "recording";
    this.calls = { keepPiece, keepText };
    this.waiting = []; // blocks that the server has not been sent yet
    this.unsaved = [];
    this.pieces = [];
    this.peaks = [];
    this.samples = 0;
    this.sent = 0;
    this.answered = 0;
    this.forms = { spoken: [], written: [] };
    this.bounds = [];
    this.lost = "";
  }

  /** Open microphone and connection. Raises an `Error` for the user if there is no microphone. */
  async start() {
    this.show();
    this.microphone = await Microphone.open((block) => this.block(block), () => this.onUnplugged?.());
    this.recording.pcm_rate = this.microphone.rate;
    this.connect();
    navigator.wakeLock?.request("screen").then((lock) => { this.lock = lock; }, () => {});
    this.timer = setInterval(() => this.tick(), 100);
  }

  show() {
    $("live-log").replaceChildren();
    this.partial("", 0);
    notice("live-notice", "");
    $("live-waiting").hidden = false;
    $("live-waiting").textContent = "Opening the microphone…";
    $("live-clock").textContent = "0:00";
  }

  connect() {
    $("live-waiting").textContent = "Connecting…";
    const socket = voskSocket();
    this.socket = socket;
    socket.onopen = () => {
      socket.send(JSON.stringify({ config: { sample_rate: this.recording.pcm_rate, words: true, settle_s: 0.6, forms: true } }));
      this.open = true;
      $("live-waiting").textContent = "Listening…";
      this.flush();
    };
    socket.onmessage = ({ data }) => this.answer(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  block(samples) {
    this.samples += samples.length;
    this.unsaved.push(samples);
    this.measure(samples);
    if (!this.lost) this.waiting.push(samples);
    this.flush();
    if (this.unsaved.length >= PIECE_S * 10) this.save();
  }

  measure(samples) {
    const step = Math.ceil(this.recording.pcm_rate / PEAKS_PER_S);
    for (let from = 0; from < samples.length; from += step) {
      let most = 0;
      for (let n = from; n < Math.min(samples.length, from + step); n += 1) most = Math.max(most, Math.abs(samples[n]));
      this.peaks.push(Math.min(255, most >> 7));
    }
  }

  /** Send what waits, as one message. */
  flush() {
    if (!this.open || !this.waiting.length || this.socket.readyState !== WebSocket.OPEN) return;
    const joined = new Int16Array(this.waiting.reduce((sum, block) => sum + block.length, 0));
    let at = 0;
    for (const block of this.waiting) {
      joined.set(block, at);
      at += block.length;
    }
    this.waiting = [];
    this.sent += 1;
    this.socket.send(joined.buffer);
  }

  answer(reply) {
    this.answered += 1;
    if (reply.error) this.lose(reply.error);
    else if (reply.text !== undefined) this.settle(reply);
    else if (reply.partial !== undefined) this.partial(reply.partial, reply.stable ?? 0);
    if (this.ending) this.finished?.();
  }

  settle({ text, result, forms }) {
    this.partial("", 0);
    if (!text) return;
    this.take(plain(result), plain(forms?.spoken), plain(forms?.written));
    const line = make("p", {}, text);
    $("live-log").append(line);
    $("live-waiting").hidden = true;
    this.follow(line);
    this.keepText();
  }

  /** Keep an utterance in both of its forms: `shown` is one of them, in the server's case. */
  take(shown, spoken, written) {
    if (!shown.length) return;
    const same = (one, other) => one.length === other.length && one.every((word, n) => word.text === other[n].text);
    if (same(shown, written) && !same(written, spoken)) this.recording.form = "written";
    const made = formsOf(this.recording.form === "written" && spoken.length ? spoken : shown, written);
    this.bounds.push(shown[0].start_s);
    this.forms.spoken.push(...made.spoken);
    this.forms.written.push(...made.written);
  }

  /** Text that still grows: the first `stable` characters stay as they are. */
  partial(text, stable) {
    const characters = [...text];
    $("live-settled").textContent = characters.slice(0, stable).join("");
    $("live-open").textContent = characters.slice(stable).join("");
    if (text) $("live-waiting").hidden = true;
    if (text) this.follow($("live-partial"));
  }

  follow(element) {
    if (element.getBoundingClientRect().bottom > innerHeight - 40) element.scrollIntoView({ block: "end" });
  }

  tick() {
    this.recording.duration_s = this.samples / this.recording.pcm_rate;
    $("live-clock").textContent = clock(this.recording.duration_s);
    drawLevel($("level"), this.peaks.slice(-400));
    const behind = (this.sent - this.answered) / 10;
    if (!this.lost) notice("live-notice", behind > 3 ? `The server is ${Math.round(behind)} s behind. Nothing is lost: the text follows.` : "");
  }

  async closed(code, reason) {
    this.finished?.();
    if (this.ending || this.lost) return;
    const refused = !this.open || code === 1013;
    const answers = refused ? await ready() : true;
    this.lose(reason || (refused && answers ? "The server does not take this recording now." : "The connection to the server is lost."));
  }

  lose(message) {
    this.lost = message;
    this.waiting = [];
    this.partial("", 0);
    $("live-waiting").hidden = true;
    notice("live-notice", `${message} The recording goes on, and the whole of it is transcribed when you stop.`);
  }

  save() {
    const blob = new Blob(this.unsaved);
    this.unsaved = [];
    this.pieces.push(blob);
    this.recording.pieces = this.pieces.length;
    this.calls.keepPiece(this.recording, this.pieces.length - 1, blob);
    this.keepText();
  }

  keepText() {
    const { recording, forms, bounds } = this;
    Object.assign(recording, { forms, bounds, form: recording.form ?? "spoken" });
    recording.segments = segmentsOf(forms[recording.form], bounds);
    this.calls.keepText(this.recording);
  }

  /** End: the last words are waited for. Resolves to the recording; its state is "waiting" if it has to be transcribed. */
  async stop() {
    clearInterval(this.timer);
    this.lock?.release().catch(() => {});
    $("stop").disabled = true;
    await this.microphone.close();
    if (!this.lost) await this.last();
    this.tick();
    if (this.unsaved.length) this.save();
    const { recording } = this;
    recording.peaks = { per_s: PEAKS_PER_S, peaks: Uint8Array.from(this.peaks) };
    recording.bytes = this.samples * 2 + 44;
    recording.state = this.lost ? "waiting" : "done";
    this.keepText();
    this.socket.close();
    $("stop").disabled = false;
    return recording;
  }

  /** Wait until the server has answered the end of the audio. */
  async last() {
    $("live-waiting").hidden = false;
    $("live-waiting").textContent = "Finishing…";
    const opened = Date.now();
    while (!this.open && !this.lost && Date.now() - opened < 5000) await new Promise((resolve) => setTimeout(resolve, 50));
    if (this.socket.readyState !== WebSocket.OPEN) {
      this.lost ||= "The connection to the server is lost.";
      return;
    }
    this.flush();
    this.sent += 1;
    const wanted = this.sent;
    this.socket.send('{"eof" : 1}');
    const over = new Promise((resolve) => { this.finished = () => (this.answered >= wanted || this.socket.readyState > 1) && resolve(); });
    this.ending = true;
    await Promise.race([over, new Promise((resolve) => setTimeout(resolve, ANSWER_S * 1000))]);
    if (this.answered < wanted) this.lost = "The server did not answer.";
    $("live-waiting").hidden = true;
  }
}
