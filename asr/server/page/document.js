// One recording opened: playback, search, doubt, corrections and downloads around its text.

import { decoded, peaks, zip } from "./api.js";
import { $, clock, make, notice, save, toast } from "./dom.js";
import { Editor } from "./editor.js";
import { FORMATS } from "./formats.js";
import { Player } from "./player.js";
import { confirmWord, core, correct, corrections, History, isDoubtful, occurrences, replaceEverywhere, search, segmentsOf, spokenWords, toggleChecked } from "./recording.js";
import { Waveform } from "./waveform.js";

const RATES = [0.5, 0.75, 1, 1.25, 1.5, 2];

export class DocumentView {
  /** `store`: `loadAudio(recording)`, `keep(recording)` (a promise); `onBack()`. */
  constructor(store, onBack) {
    this.store = store;
    this.recording = null;
    this.found = [];
    this.player = new Player({
      decode: () => decoded(this.blob, this.recording.name),
      onTime: (seconds) => this.showTime(seconds),
      onState: (playing) => this.showPlaying(playing),
      onTrouble: (message) => notice("doc-notice", message),
    });
    this.editor = new Editor($("transcript"), {
      onChoose: (word) => this.player.seek(word.start_s),
      onCorrect: (id, text) => this.correct(id, text),
      onTick: (id) => this.apply(toggleChecked(this.recording.segments, id)),
      onPlay: (seconds) => { this.player.seek(seconds); this.player.play(); },
      onEditing: (word) => this.pauseWhile(word),
      onReplay: (word) => this.player.playPart(word.start_s - 0.3, word.end_s + 0.3),
    });
    this.waveform = new Waveform($("waveform"), (seconds) => this.player.seek(seconds));
    this.listen(onBack);
  }

  listen(onBack) {
    const press = (id, action) => $(id).addEventListener("click", action);
    press("back", onBack);
    press("play", () => this.player.toggle());
    press("edit", () => this.editor.edit());
    press("undo", () => this.undo());
    press("redo", () => this.redo());
    press("form", () => this.switchForm());
    press("next-doubt", () => this.nextDoubt(1));
    press("replace-button", () => this.askReplace());
    $("rate").addEventListener("change", () => { this.player.rate = Number($("rate").value); });
    $("doubt").addEventListener("change", () => {
      localStorage.setItem(this.doubtSetting, $("doubt").checked ? "on" : "off");
      this.showDoubt();
    });
    $("search").addEventListener("input", () => this.search(true));
    $("search").addEventListener("keydown", (event) => this.searchKey(event));
    $("waveform").addEventListener("keydown", (event) => this.sliderKey(event));
    for (const id of ["replace-from", "replace-to"]) $(id).addEventListener("input", () => this.countReplacements());
    press("replace-cancel", () => $("replace").close("cancel"));
    $("replace").addEventListener("close", () => this.replaceAsked());
    document.addEventListener("click", (event) => { if (!$("download").contains(event.target)) $("download").open = false; });
    $("download").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !$("download").open) return;
      $("download").open = false;
      $("download").querySelector("summary").focus();
      event.preventDefault();
    });
    $("download").addEventListener("toggle", () => { if ($("download").open) this.fillDownloads(); });
  }

  async open(recording) {
    this.recording = recording;
    this.history = new History();
    this.otherHistory = new History(); // of the form that is not shown
    this.reset(recording);
    this.showTexts();
    this.showNotices();
    this.showDoubt();
    this.waveform.at = 0;
    this.waveform.show(recording.peaks?.peaks ?? null, recording.duration_s);
    this.showTime(0);
    $("title").focus({ preventScroll: true });
    await this.loadSound(recording);
  }

  /** The controls as they are for a recording that is opened. */
  reset(recording) {
    this.blob = null;
    $("title").textContent = recording.name;
    document.title = `${recording.name} – Transcribe`;
    $("search").value = "";
    $("found").textContent = "";
    this.found = [];
    this.walked = false;
    this.lastPair = null;
    this.player.load(null);
    this.player.rate = Number($("rate").value);
    this.editor.current = null;
    const setting = localStorage.getItem(this.doubtSetting);
    $("doubt").checked = setting === null ? recording.calibrated : setting === "on";
    $("doubt-label").title = recording.calibrated ? "Underline words that are probably wrong"
      : "This model's confidences are not calibrated: underlined words are a hint only";
    $("saved").textContent = "";
  }

  async loadSound(recording) {
    let blob = null;
    try {
      blob = await this.store.loadAudio(recording);
    } catch { /* the notice below says so */ }
    if (this.recording !== recording) return;
    this.blob = blob;
    $("play").disabled = !blob;
    if (!blob) {
      notice("doc-notice", "The sound of this recording is not kept in this browser, so it cannot be played.");
      return;
    }
    this.player.load(blob);
    if (recording.peaks) return;
    try {
      const found = await peaks(blob, recording.name);
      recording.peaks = { per_s: found.per_s, peaks: found.peaks };
      recording.duration_s ||= found.duration_s;
      this.autosave();
      if (this.recording === recording) this.waveform.show(found.peaks, recording.duration_s);
    } catch { /* without the loudness the line stays flat, and all else works */ }
  }

  /** Another tab has changed the recording. */
  refresh(recording) {
    if (this.editor.input) return; // what is typed here comes last
    this.history.push(this.recording.segments);
    this.recording = recording;
    this.showTexts();
  }

  close() {
    this.player.unload();
    this.recording = null;
    document.title = "Transcribe";
  }

  showNotices() {
    const { reliable, segments } = this.recording;
    const none = !segments.length;
    notice("unreliable", reliable === false ? "This text may have little to do with what was said: the model may not know this language or kind of sound. "
      + "Compare it with the recording before you use it." : "");
    notice("doc-notice", none && reliable !== false ? "No speech was recognised in this recording." : "");
  }

  /** Take a new list of segments; undo gives the old one back. */
  apply(segments) {
    if (segments === this.recording.segments) return false;
    this.history.push(this.recording.segments);
    this.set(segments);
    return true;
  }

  set(segments) {
    this.recording.segments = segments;
    this.showTexts();
    this.autosave();
  }

  undo() {
    this.set(this.history.undo(this.recording.segments));
  }

  redo() {
    this.set(this.history.redo(this.recording.segments));
  }

  showTexts() {
    const { recording } = this;
    this.editor.render(recording.segments);
    $("undo").disabled = !this.history.past.length;
    $("redo").disabled = !this.history.future.length;
    for (const id of ["edit", "replace-button"]) $(id).disabled = !recording.segments.length;
    $("transcript").hidden = !recording.segments.length;
    $("form").hidden = !recording.forms?.written.length;
    $("form").setAttribute("aria-pressed", String(recording.segments[0]?.words[0]?.spoken !== undefined));
    const checked = recording.segments.filter((segment) => segment.checked).length;
    const date = new Date(recording.created).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    $("facts").textContent = [clock(recording.duration_s), recording.model, date, checked && `${checked} checked`].filter(Boolean).join(" · ");
    if ($("search").value) this.search(false);
    this.showDoubt();
  }

  /** Save in the browser, soon; what is under way counts for the changes since. */
  autosave() {
    const { recording } = this;
    $("saved").textContent = "Saving…";
    clearTimeout(this.saving);
    const now = async () => {
      this.saveNow = null;
      try {
        await this.store.keep(recording);
        $("saved").textContent = "Saved in this browser";
      } catch (error) {
        $("saved").textContent = "Not saved";
        notice("doc-notice", `The browser does not save this text: ${error.message}. Download it before you leave.`);
      }
    };
    this.saveNow = () => { clearTimeout(this.saving); return now(); };
    this.saving = setTimeout(now, 250);
  }

  // Corrections

  pauseWhile(word) {
    if (word) {
      this.goOn = this.player.playing;
      this.player.pause();
    } else if (this.goOn) {
      this.goOn = false;
      this.player.play();
    }
  }

  correct(id, text) {
    const word = this.editor.byId.get(id);
    if (!this.apply(correct(this.recording.segments, id, text))) return;
    const [from, to] = [core(word.text), core(text)];
    this.lastPair = [from, to];
    const more = from && from !== to ? occurrences(this.recording.segments, from).length : 0;
    if (!more) return;
    this.offer?.();
    this.offer = toast(`“${from}” is in the text ${more === 1 ? "once" : `${more} times`} more.`, { "Replace everywhere": () => this.replace(from, to) });
  }

  replace(from, to) {
    const count = occurrences(this.recording.segments, from).length;
    if (!this.apply(replaceEverywhere(this.recording.segments, from, to))) return;
    toast(`Replaced ${count === 1 ? "one place" : `${count} places`}.`, { Undo: () => this.undo() });
  }

  askReplace() {
    const [from, to] = this.lastPair ?? [];
    const word = this.editor.currentWord;
    const known = from && occurrences(this.recording.segments, from).length;
    $("replace-from").value = known ? from : core(word?.text ?? "");
    $("replace-to").value = known ? to : "";
    $("replace").returnValue = "";
    this.countReplacements();
    $("replace").showModal();
    $(known || word ? "replace-to" : "replace-from").focus();
  }

  countReplacements() {
    const count = occurrences(this.recording.segments, $("replace-from").value).length;
    $("replace-count").textContent = count === 1 ? "One place" : `${count || "No"} places`;
    $("replace-go").disabled = !count;
  }

  replaceAsked() {
    if ($("replace").returnValue === "go" && this.recording) this.replace($("replace-from").value, $("replace-to").value);
  }

  /** From written to spoken form, or back. Corrections belong to one form, and are there again when it comes back. */
  switchForm() {
    const { recording } = this;
    const { forms, form, segments } = recording;
    if (!forms?.written.length) return;
    const other = form === "written" ? "spoken" : "written";
    recording.left = { ...recording.left, [form]: segments };
    recording.form = other;
    localStorage.setItem("asr-form", other);
    [this.history, this.otherHistory] = [this.otherHistory, this.history];
    this.set(recording.left[other] ?? segmentsOf(forms[other], recording.bounds));
    const corrected = segments.some((segment) => segment.words.some((word) => word.was !== null));
    if (corrected) toast("The corrections were made in the other form. They are kept there.", { "Switch back": () => this.switchForm() });
  }

  // Doubt

  get doubtSetting() {
    return this.recording.calibrated ? "asr-doubt" : "asr-doubt-uncalibrated";
  }

  get doubtful() {
    return $("doubt").checked ? this.editor.words.filter(isDoubtful) : [];
  }

  showDoubt() {
    const { doubtful } = this;
    $("transcript").classList.toggle("show-doubt", $("doubt").checked);
    $("doubt-count").textContent = String(doubtful.length);
    $("next-doubt").hidden = !doubtful.length;
    this.waveform.marks = doubtful.map((word) => word.start_s);
    this.waveform.draw();
  }

  nextDoubt(step) {
    const { words } = this.editor;
    const { doubtful } = this;
    if (!doubtful.length) {
      toast($("doubt").checked ? "No word is in doubt." : "Doubt is off. U switches it on.");
      return;
    }
    const at = words.findIndex((word) => word.id === this.editor.current);
    const places = doubtful.map((word) => words.indexOf(word));
    const next = step > 0 ? places.findIndex((place) => place > at) : places.findLastIndex((place) => place < at);
    const fresh = !this.walked && places.includes(at) && step > 0; // the first one may be where the cursor stands already
    this.walked = true;
    this.editor.go(fresh ? words[at] : doubtful[next < 0 ? (step > 0 ? 0 : doubtful.length - 1) : next]);
  }

  /** The current word is right: it is no longer in doubt. */
  confirm() {
    const word = this.editor.currentWord;
    if (!word || !isDoubtful(word)) return;
    this.apply(confirmWord(this.recording.segments, word.id));
    this.nextDoubt(1);
  }

  tickCurrent() {
    const segment = this.editor.currentSegment;
    if (segment) this.apply(toggleChecked(this.recording.segments, segment.id));
  }

  // Search

  search(jump) {
    const { segments } = this.recording;
    this.found = search(segments, $("search").value);
    this.editor.mark(this.found);
    this.foundAt = jump ? -1 : this.foundAt;
    $("found").textContent = !$("search").value.trim() ? "" : this.found.length ? `${this.found.length} found` : "none";
    if (jump && this.found.length) this.nextFound(1, false);
  }

  nextFound(step, focus = true) {
    if (!this.found.length) return;
    this.foundAt = ((this.foundAt ?? -1) + step + this.found.length) % this.found.length;
    const word = this.editor.byId.get(this.found[this.foundAt][0]);
    $("found").textContent = `${this.foundAt + 1} of ${this.found.length}`;
    if (focus) this.editor.go(word);
    else {
      this.editor.choose(word.id, { scroll: true });
      this.player.seek(word.start_s);
    }
  }

  searchKey(event) {
    if (event.key === "Enter") this.nextFound(event.shiftKey ? -1 : 1, false);
    else if (event.key === "Escape") {
      $("search").value = "";
      this.search(false);
      this.editor.choose(this.editor.current, { focus: true });
    } else return;
    event.preventDefault();
  }

  // Playback

  showTime(seconds) {
    if (!this.recording) return;
    this.waveform.at = seconds;
    this.waveform.draw();
    const { duration_s } = this.recording;
    $("clock").textContent = `${clock(seconds)} / ${clock(duration_s)}`;
    const slider = $("waveform");
    slider.setAttribute("aria-valuemax", duration_s.toFixed(1));
    slider.setAttribute("aria-valuenow", Math.min(seconds, duration_s).toFixed(1));
    slider.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(duration_s)}`);
    this.editor.light(seconds, this.player.playing);
  }

  showPlaying(playing) {
    $("play-icon").setAttribute("href", playing ? "#i-pause" : "#i-play");
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  skip(seconds) {
    this.player.seek(Math.min(this.recording.duration_s, this.player.time + seconds));
  }

  faster(step) {
    const at = RATES.indexOf(Number($("rate").value)) + step;
    $("rate").value = String(RATES[Math.max(0, Math.min(RATES.length - 1, at))]);
    this.player.rate = Number($("rate").value);
  }

  playWord() {
    const word = this.editor.currentWord;
    if (word) this.player.playPart(word.start_s - 0.3, word.end_s + 0.3);
  }

  sliderKey(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    this.player.seek(Math.max(0, Math.min(this.recording.duration_s, this.player.time + steps[event.key])));
    event.preventDefault();
  }

  // Downloads

  fillDownloads() {
    const { recording } = this;
    const stem = recording.name.replace(/\.[^.]{1,5}$/, "") || "transcript";
    const line = (label, hint, action, disabled = false) => make("button", { type: "button", disabled,
      onclick: () => { $("download").open = false; action(); } }, label, make("span", { class: "hint" }, hint));
    const count = recording.segments.filter((segment) => segment.checked).length;
    $("download-items").replaceChildren(
      ...FORMATS.map(([label, hint, suffix, type, write]) => line(label, hint, () => save(new Blob([write(recording)], { type }), stem + suffix),
        !spokenWords(recording).length)),
      make("hr"),
      line("Corrections (zip)", !this.blob ? "the sound of this recording is not kept" : count ? `${count} checked or corrected ${count === 1 ? "utterance" : "utterances"} to train on`
        : "correct or tick utterances first", () => this.downloadZip(stem), !count || !this.blob),
    );
  }

  async downloadZip(stem) {
    const { recording, blob } = this;
    await downloadCorrections([{ blob, name: recording.name, language: recording.language, segments: corrections(recording) }], `${stem}-corrections.zip`);
  }
}

/** Ask the server for the zip of `items`, and save it. */
export async function downloadCorrections(items, name) {
  const done = toast("Making the zip…", {}, 600);
  try {
    const { blob, leftOut } = await zip(items);
    save(blob, name);
    if (leftOut) toast(`${leftOut} ${leftOut === 1 ? "utterance is" : "utterances are"} left out; left_out.txt in the zip gives the reasons.`, {}, 20);
  } catch (error) {
    toast(`No zip was made: ${error.message}`, {}, 20);
  } finally {
    done();
  }
}
