// The text of a recording: words that are lit in time, chosen, and corrected where they stand.

import { clock, icon, make } from "./dom.js";
import { GRAVE, isDoubtful } from "./recording.js";

const REST_S = 4; // after the reader scrolls, the text does not follow the playback for so long

export class Editor {
  /** `calls`: onChoose(word), onCorrect(wordId, text), onTick(segmentId), onPlay(seconds), onEditing(word | null), onReplay(word). */
  constructor(container, calls) {
    this.container = container;
    this.calls = calls;
    this.segments = [];
    this.parts = new Map(); // segment id → {segment, element}
    this.elements = new Map(); // word id → element
    this.words = [];
    this.current = null;
    this.lit = null;
    this.input = null;
    this.scrolled = 0;
    container.addEventListener("click", (event) => this.clicked(event));
    container.addEventListener("dblclick", (event) => {
      const word = this.wordOf(event.target);
      if (word && !this.input) this.edit(word.id);
    });
    for (const kind of ["wheel", "touchmove"]) addEventListener(kind, () => { this.scrolled = performance.now(); }, { passive: true });
  }

  clicked(event) {
    const word = this.wordOf(event.target);
    if (word && !event.target.closest("input")) {
      if (String(getSelection()).trim()) return; // text is being selected
      this.choose(word.id, { focus: true });
      this.calls.onChoose(word);
      return;
    }
    const part = event.target.closest(".part");
    if (event.target.closest(".tick")) this.calls.onTick(part.dataset.id);
    else if (event.target.closest(".time")) this.calls.onPlay(this.parts.get(part.dataset.id).segment.start_s);
  }

  wordOf(target) {
    const element = target.closest?.(".word");
    return element ? this.byId.get(element.dataset.id) : null;
  }

  /** Show these segments; parts of the page whose segment is the same stay as they are. */
  render(segments) {
    const focused = this.container.contains(document.activeElement) && document.activeElement.classList.contains("word");
    const place = this.words.findIndex((word) => word.id === this.current);
    this.segments = segments;
    this.words = segments.flatMap((segment) => segment.words);
    this.byId = new Map(this.words.map((word) => [word.id, word]));
    const parts = new Map();
    segments.forEach((segment, n) => {
      const known = this.parts.get(segment.id);
      const element = known?.segment === segment ? known.element : this.part(segment);
      parts.set(segment.id, { segment, element });
      if (this.container.children[n] !== element) this.container.insertBefore(element, this.container.children[n] ?? null);
    });
    while (this.container.children.length > segments.length) this.container.lastElementChild.remove();
    this.parts = parts;
    this.elements = new Map();
    for (const element of this.container.querySelectorAll(".word")) this.elements.set(element.dataset.id, element);
    if (!this.byId.has(this.current)) this.current = this.words[Math.max(0, Math.min(place, this.words.length - 1))]?.id ?? null;
    this.lit = null;
    if (this.current) this.choose(this.current, { focus: focused });
  }

  part(segment) {
    const words = segment.words.flatMap((word, n) => (n ? [" ", this.word(word)] : [this.word(word)]));
    return make("div", { class: "part", dataset: { id: segment.id } },
      make("button", { class: "time", type: "button", tabindex: -1, "aria-label": `Play from ${clock(segment.start_s)}` }, clock(segment.start_s)),
      make("p", { class: "text" }, ...words),
      make("button", { class: "tick", type: "button", tabindex: -1, "aria-pressed": String(segment.checked),
        "aria-label": "Checked: use for training", title: "Checked: goes into the corrections (c)" }, icon("check")));
  }

  word(word) {
    const doubtful = isDoubtful(word);
    const names = ["word", doubtful && "doubtful", doubtful && word.confidence < GRAVE && "grave", word.was !== null && "corrected", !word.text && "none"];
    const title = word.was !== null && word.was !== word.text ? `Recognised: ${word.was}` : doubtful ? `Confidence ${Math.round(word.confidence * 100)} %` : null;
    return make("span", { class: names.filter(Boolean).join(" "), tabindex: -1, title, dataset: { id: word.id } }, word.text || "(nothing said)");
  }

  /** Make a word the current one. */
  choose(id, { focus = false, scroll = false } = {}) {
    const old = this.elements.get(this.current);
    old?.classList.remove("current");
    old?.setAttribute("tabindex", "-1");
    this.current = id;
    const element = this.elements.get(id);
    if (!element) return;
    element.classList.add("current");
    element.setAttribute("tabindex", "0");
    if (focus) element.focus({ preventScroll: !scroll });
    if (scroll) element.scrollIntoView({ block: "nearest" });
  }

  get currentWord() {
    return this.byId?.get(this.current) ?? null;
  }

  get currentSegment() {
    return this.segments.find((segment) => segment.words.some((word) => word.id === this.current)) ?? null;
  }

  /** Go to the word `step` words on. */
  move(step) {
    const at = this.words.findIndex((word) => word.id === this.current);
    this.go(this.words[Math.max(0, Math.min(this.words.length - 1, at + step))]);
  }

  /** Go to the first word of the segment `step` segments on. */
  moveSegment(step) {
    const at = this.segments.indexOf(this.currentSegment);
    this.go(this.segments[Math.max(0, Math.min(this.segments.length - 1, at + step))]?.words[0]);
  }

  go(word) {
    if (!word) return;
    this.choose(word.id, { focus: true, scroll: true });
    this.calls.onChoose(word);
  }

  /** Light the word that is said at this second, and keep it in sight while `follow` is set. */
  light(seconds, follow) {
    let [low, high] = [0, this.words.length];
    while (low < high) { // the last word that begins before
      const middle = (low + high) >> 1;
      if (this.words[middle].start_s <= seconds) low = middle + 1;
      else high = middle;
    }
    const word = low && seconds < this.words[low - 1].end_s + 0.15 ? this.words[low - 1] : null;
    if ((word?.id ?? null) === this.lit) return;
    this.elements.get(this.lit)?.classList.remove("lit");
    this.lit = word?.id ?? null;
    const element = this.elements.get(this.lit);
    element?.classList.add("lit");
    if (!element || !follow || this.input) return;
    this.choose(word.id);
    if (performance.now() - this.scrolled < REST_S * 1000) return;
    const box = element.getBoundingClientRect();
    if (box.top < 220 || box.bottom > innerHeight - 90) element.scrollIntoView({ block: "center", behavior: "smooth" });
  }

  /** Lists of word ids that a search found; they are marked. */
  mark(found) {
    for (const element of this.container.querySelectorAll(".found")) element.classList.remove("found");
    for (const id of found.flat()) this.elements.get(id)?.classList.add("found");
  }

  /** Correct a word where it stands. */
  edit(id = this.current) {
    const word = this.byId?.get(id);
    const element = this.elements.get(id);
    if (!word || !element || this.input) return;
    this.choose(id, { scroll: true });
    this.calls.onEditing(word);
    const input = make("input", { class: "correction", "aria-label": `Correct “${word.text}”`, autocomplete: "off", autocapitalize: "off", size: Math.max(3, word.text.length + 1) });
    input.value = word.text;
    this.input = input;
    element.replaceChildren(input);
    input.addEventListener("keydown", (event) => this.typed(event, word));
    input.addEventListener("blur", () => this.finish(word, true));
    input.focus();
    input.select();
  }

  typed(event, word) {
    event.stopPropagation();
    if (event.isComposing) return; // an input method is at work: its Enter chooses characters
    if (event.key === " " && event.ctrlKey) this.calls.onReplay(word);
    else if (event.key === "Enter") this.finish(word, true, true);
    else if (event.key === "Escape") this.finish(word, false, true);
    else if (event.key === "Tab") {
      this.finish(word, true, true);
      const { current } = this;
      this.move(event.shiftKey ? -1 : 1);
      if (this.current !== current) this.edit(); // at the end, the next Tab leaves the text
    } else return;
    event.preventDefault();
  }

  finish(word, keep, focus = false) {
    const { input } = this;
    if (!input) return;
    this.input = null;
    const text = input.value.trim().replace(/\s+/g, " ");
    this.elements.get(word.id)?.replaceWith(this.word(word));
    this.elements.set(word.id, this.container.querySelector(`[data-id="${CSS.escape(word.id)}"].word`));
    this.choose(word.id, { focus });
    this.calls.onEditing(null);
    if (keep && text !== word.text) this.calls.onCorrect(word.id, text);
  }
}
