// A recording with its text: plain values, and pure functions from one state of the text to the next.
//
// recording: {id, name, kind: "file" | "live", created, state, error, model, duration_s, segments, forms, form, bounds, ...}
// forms:     {spoken, written}: the words of both forms as they were recognised; segments have those of `form`.
// segment:   {id, start_s, end_s, checked, words}
// word:      {id, text, start_s, end_s, confidence, was}; `was` is the recognised text of a corrected word, `spoken` the
//            words that a written one (`$25`) stands for.
//
// Segments and words are never changed, only replaced. The view redraws those that are new, and undo keeps old lists.

const LONGEST_S = 15;
const PAUSE_S = 0.8;
const PAD_S = 0.3;
export const DOUBTFUL = 0.7;
export const GRAVE = 0.4;

let counter = 0;
export const newId = () => `${Date.now().toString(36)}-${(counter += 1).toString(36)}-${Math.floor(Math.random() * 1e9).toString(36)}`;

export function newRecording(name, kind, model) {
  return { id: newId(), name, kind, model, created: Date.now(), state: "waiting", error: "", duration_s: 0, bytes: 0,
    segments: [], reliable: null, reliability: null, calibrated: false, pcm_rate: 0, pieces: 0, peaks: null };
}

/** Words `{text, start_s, end_s, confidence}` as segments: broken where `bounds` (s) say, at pauses, and before they get long. */
export function segmentsOf(words, bounds = []) {
  const made = words.map((word) => ({ id: newId(), was: null, ...word }));
  const groups = [];
  let next = 0;
  for (const word of made) {
    const last = groups[groups.length - 1];
    const middle = (word.start_s + word.end_s) / 2;
    let begins = !last;
    while (next < bounds.length && middle >= bounds[next]) {
      next += 1;
      begins = true;
    }
    if (!bounds.length && last && word.start_s - last[last.length - 1].end_s > PAUSE_S) begins = true;
    if (begins) groups.push([word]);
    else last.push(word);
  }
  return groups.flatMap(cutLong).map((group) => ({
    id: newId(), start_s: group[0].start_s, end_s: group[group.length - 1].end_s, checked: false, words: group,
  }));
}

/** A group of words cut at its longest pauses until no part lasts longer than `LONGEST_S`. */
function cutLong(words) {
  if (words.length < 2 || words[words.length - 1].end_s - words[0].start_s <= LONGEST_S) return [words];
  let place = 1;
  const rank = (n) => (Math.min(words[n].start_s - words[0].start_s, words[words.length - 1].end_s - words[n].start_s) >= 2 ? 1e6 : 0)
    + words[n].start_s - words[n - 1].end_s;
  for (let n = 2; n < words.length; n += 1) if (rank(n) > rank(place)) place = n;
  return [...cutLong(words.slice(0, place)), ...cutLong(words.slice(place))];
}

/** Both forms of a text: words as they were spoken, and as they are written (none if the model does not write). */
export function formsOf(spoken, written) {
  const made = written.map((word) => ({ ...word, spoken: [] }));
  let at = 0;
  for (const word of made.length ? spoken : []) {
    while (at + 1 < made.length && made[at + 1].start_s <= (word.start_s + word.end_s) / 2) at += 1;
    made[at].spoken.push(word.text);
  }
  return { spoken, written: made.map((word) => ({ ...word, spoken: word.spoken.join(" ") })) };
}

/** What was said there, to train on. */
const said = (word) => (word.was === null ? word.spoken ?? word.text : word.text);

/** All words that have a text, in order. */
export const spokenWords = (recording) => recording.segments.flatMap((segment) => segment.words).filter((word) => word.text);

export const isDoubtful = (word) => word.was === null && word.confidence !== null && word.confidence < DOUBTFUL;

/** A word without the punctuation around it. */
export const core = (text) => text.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
const folded = (text) => core(text).toLocaleLowerCase();

/** The words that take the place of `old` words when somebody writes `text` there: each with its share of the time. */
function replacement(old, text) {
  const parts = text.trim().split(/\s+/).filter(Boolean);
  const [start, end] = [old[0].start_s, old[old.length - 1].end_s];
  const was = old.map((word) => word.was ?? word.text).join(" ");
  if (!parts.length) return [];
  if (parts.length === old.length) {
    return old.map((word, n) => (word.text === parts[n] ? word : { ...word, text: parts[n], was: word.was ?? word.text, confidence: 1 }));
  }
  const total = parts.reduce((sum, part) => sum + part.length, 0);
  let done = 0;
  return parts.map((part, n) => {
    const from = start + ((end - start) * done) / total;
    done += part.length;
    return { id: n ? newId() : old[0].id, text: part, start_s: from, end_s: start + ((end - start) * done) / total, confidence: 1, was };
  });
}

/** `words` with `count` of them from `at` on replaced by `text`; a segment that loses its last word keeps an empty one. */
function splice(segment, at, count, text) {
  const old = segment.words.slice(at, at + count);
  let made = replacement(old, text);
  if (!made.length && segment.words.length === count) made = [{ ...old[0], text: "", was: old[0].was ?? old[0].text, confidence: 1 }];
  if (made.length === old.length && made.every((word, n) => word === old[n])) return segment;
  return { ...segment, checked: true, words: [...segment.words.slice(0, at), ...made, ...segment.words.slice(at + count)] };
}

/** Segments with the text of one word replaced; the same list if nothing changes. */
export function correct(segments, wordId, text) {
  const changed = segments.map((segment) => {
    const at = segment.words.findIndex((word) => word.id === wordId);
    return at < 0 ? segment : splice(segment, at, 1, text);
  });
  return changed.some((segment, n) => segment !== segments[n]) ? changed : segments;
}

/** Where words read as `phrase`, whatever their case and the punctuation around them: `[segment, word]` indices. */
export function occurrences(segments, phrase) {
  const wanted = phrase.trim().split(/\s+/).map(folded).filter(Boolean);
  const found = [];
  if (!wanted.length) return found;
  segments.forEach((segment, s) => {
    for (let w = 0; w + wanted.length <= segment.words.length; w += 1) {
      if (wanted.every((part, n) => folded(segment.words[w + n].text) === part)) {
        found.push([s, w]);
        w += wanted.length - 1;
      }
    }
  });
  return found;
}

/** Segments with every occurrence of `from` replaced by `to`; punctuation around the words stays. */
export function replaceEverywhere(segments, from, to) {
  const count = from.trim().split(/\s+/).filter((part) => folded(part)).length;
  const changed = [...segments];
  for (const [s, w] of occurrences(segments, from).reverse()) { // from the back, so that places stay right
    const first = changed[s].words[w].text;
    const last = changed[s].words[w + count - 1].text;
    const before = first.slice(0, first.indexOf(core(first)));
    const behind = last.slice(last.lastIndexOf(core(last)) + core(last).length);
    changed[s] = splice(changed[s], w, count, to.trim() ? before + to.trim() + behind : "");
  }
  return changed.some((segment, n) => segment !== segments[n]) ? changed : segments;
}

/** Ids of words that match a search: `phrase` anywhere in the text, in any case, by whole matches: lists of ids. */
export function search(segments, phrase) {
  const wanted = phrase.trim().toLocaleLowerCase().replace(/\s+/g, " ");
  if (!wanted) return [];
  const found = [];
  for (const segment of segments) {
    const starts = [];
    let text = "";
    for (const word of segment.words) {
      starts.push(text.length);
      text += `${word.text.toLocaleLowerCase()} `;
    }
    starts.push(text.length);
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      found.push(segment.words.filter((word, n) => starts[n] < at + wanted.length && starts[n + 1] - 1 > at).map((word) => word.id));
    }
  }
  return found.filter((ids) => ids.length);
}

/** Segments with the word marked as right: it is no longer doubtful. */
export function confirmWord(segments, wordId) {
  return segments.map((segment) => (segment.words.some((word) => word.id === wordId)
    ? { ...segment, words: segment.words.map((word) => (word.id === wordId ? { ...word, confidence: 1 } : word)) } : segment));
}

export function toggleChecked(segments, segmentId) {
  return segments.map((segment) => (segment.id === segmentId ? { ...segment, checked: !segment.checked } : segment));
}

/** What the server makes the zip of: the checked segments, cut in the pauses around them. */
export function corrections(recording) {
  const { segments, duration_s } = recording;
  return segments.flatMap((segment, n) => {
    if (!segment.checked) return [];
    const before = n ? (segments[n - 1].end_s + segment.start_s) / 2 : 0;
    const behind = n + 1 < segments.length ? (segment.end_s + segments[n + 1].start_s) / 2 : duration_s;
    const round = (value) => Math.round(value * 1000) / 1000;
    return [{
      start_s: round(Math.max(0, before, segment.start_s - PAD_S)),
      end_s: round(Math.min(duration_s, Math.max(behind, segment.start_s + 0.02), segment.end_s + PAD_S)),
      text: segment.words.map(said).filter(Boolean).join(" "),
    }];
  });
}

/** Undo and redo over lists of segments. */
export class History {
  constructor() {
    this.past = [];
    this.future = [];
  }

  push(segments) {
    this.past.push(segments);
    if (this.past.length > 500) this.past.shift();
    this.future = [];
  }

  undo(now) {
    if (!this.past.length) return now;
    this.future.push(now);
    return this.past.pop();
  }

  redo(now) {
    if (!this.future.length) return now;
    this.past.push(now);
    return this.future.pop();
  }
}
