// Log-probabilities to text: the best path, the likeliest of a list of phrases, and the ends of utterances.
// A row is a Float32Array with the natural logarithms of one frame; token 0 is the blank of CTC.

export function argmax(row) {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i;
  return best;
}

// The best path (Graves et al. 2006): the likeliest token of each frame, repeats merged, blanks dropped.
export function greedy(rows) {
  const tokens = [];
  let before = 0;
  for (const row of rows) {
    const token = argmax(row);
    if (token !== before && token !== 0) tokens.push(token);
    before = token;
  }
  return tokens;
}

export function asText(tokens, symbols) {
  return tokens.map((token) => symbols[token]).join("").replace(/\s+/g, " ").trim();
}

// The tokens of a phrase; null where the model cannot spell it. `kind`: what tokens are, "char", "bpe" (pieces of words) or
// "word". Pieces and words begin with a space where a word begins.
export function spell(phrase, symbols, kind) {
  const ids = new Map(symbols.map((symbol, id) => [symbol, id]));
  const known = (text) => [text, text.toUpperCase(), text.toLowerCase()].find((way) => ids.get(way) > 0);
  const words = phrase.trim().split(/\s+/).filter((word) => word);
  if (!words.length) return null;
  const units = kind === "word" ? words.map((word) => ` ${word}`) : [...words.join(" ")];
  const spelt = units.map(known);
  if (spelt.includes(undefined)) return null;
  const parts = kind === "bpe" ? mergePieces([" ", ...spelt], ids) : spelt;
  return parts.map((part) => ids.get(part));
}

// Byte pair encoding (Sennrich et al. 2016) as sentencepiece does it: of all neighbours that make a piece, those of the
// piece that was learnt first, which has the smallest number, are joined, from the left.
function mergePieces(characters, ids) {
  const parts = [...characters];
  for (;;) {
    let best = -1;
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = ids.get(parts[i] + parts[i + 1]);
      if (id !== undefined && (best < 0 || id < ids.get(parts[best] + parts[best + 1]))) best = i;
    }
    if (best < 0) return parts;
    parts.splice(best, 2, parts[best] + parts[best + 1]);
  }
}

function logAdd(a, b) {
  if (a === -Infinity) return b;
  if (b === -Infinity) return a;
  const high = Math.max(a, b);
  return high + Math.log1p(Math.exp(Math.min(a, b) - high));
}

// The natural logarithm of the probability that the rows say these tokens and nothing else: the sum over all CTC paths.
export function phraseScore(rows, tokens) {
  const labels = [0];
  for (const token of tokens) labels.push(token, 0);
  let alpha = new Float64Array(labels.length).fill(-Infinity);
  rows.forEach((row, frame) => {
    const next = new Float64Array(labels.length).fill(-Infinity);
    for (let state = 0; state < labels.length; state++) {
      let total = frame === 0 ? (state < 2 ? 0 : -Infinity) : alpha[state];
      if (frame > 0) {
        if (state > 0) total = logAdd(total, alpha[state - 1]);
        // A blank may be left out between different tokens.
        if (state > 1 && labels[state] !== 0 && labels[state] !== labels[state - 2]) total = logAdd(total, alpha[state - 2]);
      }
      next[state] = total + row[labels[state]];
    }
    alpha = next;
  });
  return logAdd(alpha[labels.length - 1], alpha[labels.length - 2]);
}

// The likeliest of the phrases ({text, tokens}). Anything else is what the best path says, less `penalty`; it gives "",
// and so does silence.
export function likeliestPhrase(rows, phrases, penalty) {
  const free = greedy(rows);
  if (!free.length) return "";
  let best = { text: "", score: phraseScore(rows, free) - penalty };
  for (const phrase of phrases) {
    const score = phraseScore(rows, phrase.tokens);
    if (score >= best.score && score > -Infinity) best = { text: phrase.text, score };
  }
  return best.text;
}

// Where utterances end: after `silence` blank rows behind speech, or at the first blank row from `longest` rows on.
export class Endpointer {
  constructor(silence, longest) {
    this.silence = silence;
    this.longest = longest;
    this.start();
  }

  start() {
    this.rows = 0;
    this.silent = 0;
    this.spoken = false;
  }

  // Whether the utterance ends behind this row.
  accept(row) {
    const blank = argmax(row) === 0;
    this.rows += 1;
    this.silent = blank ? this.silent + 1 : 0;
    this.spoken = this.spoken || !blank;
    const ended =
      (this.spoken && this.silent >= this.silence) || (this.rows >= this.longest && blank) || this.rows >= 1.5 * this.longest;
    if (ended) this.start();
    return ended;
  }
}
