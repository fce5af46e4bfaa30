// Transcripts as TXT, JSON, SRT, VTT and TextGrid: the same files as `asr transcribe` writes (asr/formats.py), save
// that TXT has a line for each paragraph.

import { spokenWords } from "./recording.js";

const LINE_CHARACTERS = 42;
const CUE_LINES = 2;
const CUE_S = 7;
const PAUSE_S = 1;
const LEAST_CUE_S = 1;
const CHARACTERS_PER_S = 17;
const LEAST_S = 0.001;

const length = (text) => [...text].length;
const round = (value, digits) => Number(value.toFixed(digits));

export function toTxt(recording) {
  return recording.segments.map((segment) => segment.words.map((w) => w.text).filter(Boolean).join(" ")).filter(Boolean).join("\n") + "\n";
}

export function toJson(recording) {
  const words = spokenWords(recording);
  const sure = words.filter((word) => word.confidence !== null);
  const tree = {
    format: 3,
    source: recording.name,
    duration_s: round(recording.duration_s, 3),
    text: words.map((word) => word.text).join(" "),
    written: null,
    confidence: sure.length ? round(sure.reduce((sum, word) => sum + word.confidence, 0) / sure.length, 4) : null,
    reliable: recording.reliable ?? null,
    reliability: recording.reliability ?? null,
    words: words.map((word) => ({
      text: word.text,
      start_s: round(word.start_s, 3),
      end_s: round(word.end_s, 3),
      confidence: word.confidence === null ? 0 : round(word.confidence, 4),
    })),
  };
  return JSON.stringify(tree) + "\n";
}

export function toSrt(recording) {
  const cues = groupCues(spokenWords(recording));
  const times = cueTimes(cues);
  return cues.map((cue, n) => `${n + 1}\n${time(times[n][0], ",")} --> ${time(times[n][1], ",")}\n${wrap(cue)}\n`).join("\n");
}

export function toVtt(recording) {
  const cues = groupCues(spokenWords(recording));
  const times = cueTimes(cues);
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return "WEBVTT\n" + cues.map((cue, n) => `\n${time(times[n][0], ".")} --> ${time(times[n][1], ".")}\n${escape(wrap(cue))}\n`).join("");
}

export function toTextGrid(recording) {
  const placed = intervals(spokenWords(recording));
  const end = Math.max(round(recording.duration_s, 6), ...placed.slice(-1).map((interval) => interval[1]));
  const at = placed.length ? placed[placed.length - 1][1] : 0;
  if (end > at || !placed.length) placed.push([at, end, ""]);
  const lines = [
    'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", `xmax = ${end.toFixed(6)}`, "tiers? <exists>",
    "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"', '        name = "words"', "        xmin = 0",
    `        xmax = ${end.toFixed(6)}`, `        intervals: size = ${placed.length}`,
  ];
  placed.forEach(([start, stop, text], n) => lines.push(
    `        intervals [${n + 1}]:`, `            xmin = ${start.toFixed(6)}`, `            xmax = ${stop.toFixed(6)}`,
    `            text = "${text.replaceAll('"', '""')}"`,
  ));
  return lines.join("\n") + "\n";
}

function intervals(words) {
  const placed = [];
  let at = 0;
  words.forEach((word, n) => {
    const start = Math.max(at, round(word.start_s, 6));
    let end = round(word.end_s, 6);
    if (n + 1 < words.length) end = Math.min(end, round(words[n + 1].start_s, 6));
    if (start > at) placed.push([at, start, ""]);
    at = Math.max(end, round(start + LEAST_S, 6));
    placed.push([start, at, word.text]);
  });
  return placed;
}

function groupCues(words) {
  const cues = [];
  for (const word of words) {
    const last = cues[cues.length - 1];
    if (last && belongs(last, word)) last.push(word);
    else cues.push([word]);
  }
  return cues;
}

function belongs(cue, word) {
  if (word.start_s - cue[cue.length - 1].end_s > PAUSE_S || word.end_s - cue[0].start_s > CUE_S) return false;
  return wrap([...cue, word]).split("\n").length <= CUE_LINES;
}

function cueTimes(cues) {
  return cues.map((cue, n) => {
    const start = cue[0].start_s;
    const wanted = start + Math.min(CUE_S, Math.max(LEAST_CUE_S, length(wrap(cue)) / CHARACTERS_PER_S));
    const limit = n + 1 < cues.length ? cues[n + 1][0].start_s : Infinity;
    return [start, Math.max(cue[cue.length - 1].end_s, Math.min(wanted, limit), start + LEAST_S)];
  });
}

function wrap(cue) {
  const lines = [];
  for (const { text } of cue) {
    const last = lines.length - 1;
    if (last >= 0 && length(lines[last]) + 1 + length(text) <= LINE_CHARACTERS) lines[last] += ` ${text}`;
    else lines.push(text);
  }
  return lines.join("\n");
}

function time(seconds, separator) {
  const ms = Math.round(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(ms / 60_000);
  return `${two(Math.floor(minutes / 60))}:${two(minutes % 60)}:${two(Math.floor((ms % 60_000) / 1000))}${separator}${String(ms % 1000).padStart(3, "0")}`;
}

/** What the download menu offers: label, explanation, suffix, media type, writer. */
export const FORMATS = [
  ["Text", "plain text, a line for each paragraph", ".txt", "text/plain", toTxt],
  ["SRT", "subtitles for video players", ".srt", "application/x-subrip", toSrt],
  ["VTT", "subtitles for web pages", ".vtt", "text/vtt", toVtt],
  ["JSON", "words with times and confidences", ".json", "application/json", toJson],
  ["TextGrid", "words as intervals, for Praat", ".TextGrid", "text/plain", toTextGrid],
];
