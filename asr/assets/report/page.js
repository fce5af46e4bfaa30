/* The page: its parts, tabs, keys, colours. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const NAMES = DATA.names;
const BOTH = NAMES.length > 1;
const $ = (id) => document.getElementById(id);
const rate = (errors, words) => (100 * errors) / Math.max(1, words);

DATA.utterances.forEach((u, index) => {
  u.index = index;
  u.wer = rate(u.e, u.w);
  if (u.b) u.wer2 = rate(u.b.e, u.b.w);
});
const OUTSIDE = DATA.errors.outside ? new Set(DATA.errors.outside.map(([word]) => word)) : null;

const side = (pair, place) => (typeof pair === "string" ? pair : pair[place]);
const textOf = (u, place) => u.p.map((pair) => side(pair, place)).filter(Boolean).join(" ");
const wrongPairs = (u) => u.p.filter((pair) => typeof pair !== "string");
const count = (u, test) => wrongPairs(u).filter(test).length;

const FIELDS = {
  wer: { kind: "number", of: (u) => u.wer, example: "wer > 20", hint: "word error rate, in per cent" },
  cer: { kind: "number", of: (u) => rate(u.x, u.y), example: "cer > 10", hint: "character error rate, in per cent" },
  errors: { kind: "number", of: (u) => u.e, example: "errors >= 3", hint: "wrong words" },
  sub: { kind: "number", of: (u) => count(u, ([a, b]) => a && b), example: "sub > 1", hint: "substituted words" },
  del: { kind: "number", of: (u) => count(u, ([, b]) => !b), example: "del > 1", hint: "deleted words" },
  ins: { kind: "number", of: (u) => count(u, ([a]) => !a), example: "ins > 1", hint: "inserted words" },
  words: { kind: "number", of: (u) => u.w, example: "words < 4", hint: "words of the reference" },
  duration: { kind: "number", of: (u) => u.d, example: "duration < 5", hint: "length in seconds" },
  snr: { kind: "number", of: (u) => u.n, example: "snr < 15", hint: "speech above noise, in dB" },
  level: { kind: "number", of: (u) => u.l, example: "level < -40", hint: "level in dB below full scale" },
  confidence: { kind: "number", of: (u) => u.f, example: "confidence < 0.5", hint: "mean confidence of the words, 0 to 1" },
  reliability: { kind: "number", of: (u) => u.r, example: "reliability < 0.5", hint: "0 to 1" },
  acoustic: { kind: "number", of: (u) => u.a, example: "acoustic < -20", hint: "acoustic score, natural logarithm" },
  lm: { kind: "number", of: (u) => u.m, example: "lm < -40", hint: "score of language models and bonuses" },
  outside: { kind: "number", of: (u) => (OUTSIDE ? u.p.filter((pair) => OUTSIDE.has(side(pair, 0))).length : undefined), example: "outside > 0", hint: "words that are not in the lexicon" },
  wer2: { kind: "number", of: (u) => u.wer2, example: "wer2 > wer", hint: "WER of B, in per cent" },
  change: { kind: "number", of: (u) => (u.b ? u.b.e - u.e : undefined), example: "change < 0", hint: "errors of B minus errors of A" },
  id: { kind: "text", of: (u) => u.i, example: "id ~ an4", hint: "id of the utterance" },
  speaker: { kind: "text", of: (u) => u.s, example: "speaker = fash", hint: "name of the speaker" },
  corpus: { kind: "text", of: (u) => u.c, example: "corpus = test", hint: "name of the corpus" },
  ref: { kind: "text", of: (u) => textOf(u, 0), example: 'ref ~ "NEW YORK"', hint: "the reference" },
  hyp: { kind: "text", of: (u) => textOf(u, 1), example: "hyp ~ YORK", hint: "the hypothesis" },
  word: { kind: "set", of: (u) => u.p.map((pair) => side(pair, 0)).filter(Boolean), example: "word = THE", hint: "a word of the reference" },
  missed: { kind: "set", of: (u) => wrongPairs(u).map(([a]) => a).filter(Boolean), example: "missed = THE", hint: "a word that was not recognised" },
  wrong: { kind: "set", of: (u) => wrongPairs(u).map(([, b]) => b).filter(Boolean), example: "wrong = A", hint: "a recognised word that was not said" },
  pair: { kind: "set", of: (u) => wrongPairs(u).map(([a, b]) => `${a}>${b}`), example: 'pair = "THE>A"', hint: "word of the reference > word of the hypothesis; an empty side is a deletion or insertion" },
};
if (!BOTH) { delete FIELDS.wer2; delete FIELDS.change; }
FIELDS.wer2 && (FIELDS.wer2.example = "wer2 > 20");
const searched = (u) => [u.i, textOf(u, 0), textOf(u, 1)];

/* ---- tabs ---- */

const TABS = ["overview", "utterances", "words", "errors"];

function openTab(name, focus = false) {
  for (const tab of TABS) {
    const chosen = tab === name;
    $(tab).hidden = !chosen;
    $(`tab-${tab}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
  }
  if (focus) $(`tab-${name}`).focus();
  if (name === "utterances" && utteranceList.at < 0) utteranceList.select(0);
}

function showUtterances(condition) {
  $("filter").value = condition;
  applyFilter();
  openTab("utterances");
  utteranceList.box.focus();
}

TABS.forEach((name, index) => {
  $(`tab-${name}`).addEventListener("click", () => openTab(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) openTab(TABS[(index + step + TABS.length) % TABS.length], true);
  });
});

/* ---- overview ---- */

function card(title, value, more) {
  return el("div", { class: "card" }, el("p", { class: "card-title" }, title), el("p", { class: "card-value" }, value), more && el("p", { class: "quiet" }, more));
}

const NO_INTERVAL = "no interval: too few utterances or errors";

function cards(found, name) {
  const shares = `${whole(found.substitutions)} substituted · ${whole(found.deletions)} deleted · ${whole(found.insertions)} inserted`;
  return el("div", { class: "cards" },
    card(name ? `WER of ${name}` : "Word error rate", percent(found.wer, 2), found.low === undefined ? NO_INTERVAL : `95 %: ${(100 * found.low).toFixed(1)} to ${(100 * found.high).toFixed(1)} %`),
    card("Errors", `${whole(found.errors)} of ${whole(found.words)}`, shares),
    card("Character error rate", percent(found.cer, 2)),
    card("Utterances with an error", percent(found.ser, 1), `${whole(found.wrong)} of ${whole(found.utterances)}`));
}

function comparisonPart(found) {
  const sure = (p) => (p < 0.05 ? "significant at 5 %" : "not significant at 5 %");
  const probability = (p) => (p < 0.0001 ? "p < 0.0001" : `p = ${p.toFixed(4)}`);
  const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(2)}`;
  const rows = [
    ["Difference in WER, B minus A", `${points(found.difference)} points`, `95 %: ${points(found.low)} to ${points(found.high)}`],
    ["Randomisation test", probability(found.p), sure(found.p)],
    ["Matched pairs (MAPSSWE)", probability(found.pairs.p_value), `${sure(found.pairs.p_value)}; ${whole(found.pairs.segments)} segments, z = ${found.pairs.z.toFixed(2)}`],
    ["Utterances", `better in ${whole(found.better)}, worse in ${whole(found.worse)}`, `of ${whole(DATA.utterances.length)}`],
  ];
  const [better, worse] = found.difference < 0 ? ["B", "A"] : ["A", "B"];
  const verdict = !found.difference ? "No: both make equally many errors."
    : found.p >= 0.05 ? `Not certain: ${better} makes fewer errors than ${worse} here, but the difference may be chance.`
      : `${better === "B" ? "Yes" : "No"}: ${better} makes fewer errors than ${worse}, and the difference is significant.`;
  const links = el("p", {},
    el("button", { type: "button", class: "link", onclick: () => showUtterances("change < 0") }, "Where B is better"), " · ",
    el("button", { type: "button", class: "link", onclick: () => showUtterances("change > 0") }, "Where B is worse"));
  return el("div", { class: "panel" }, el("h2", {}, "Is B better than A?"), el("p", {}, verdict),
    el("table", { class: "plain-table" }, el("tbody", {}, ...rows.map(([title, value, more]) => el("tr", {}, el("th", { scope: "row" }, title), el("td", {}, value), el("td", { class: "quiet" }, more))))),
    links);
}

const FEW = 12; // rows of a group that are shown at first

function niceTop(rows) {
  const most = Math.max(0.01, ...rows.flatMap((row) => [row, row.second]).map((found) => found?.high ?? found?.wer ?? 0));
  return [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5].find((top) => top >= most) || most;
}

function lane(found, top, letter) {
  const place = (share) => `${Math.min(100, (100 * share) / top)}%`;
  const interval = el("i", { class: "interval", hidden: found.low === undefined });
  if (found.low !== undefined) {
    interval.style.left = place(found.low);
    interval.style.width = `${Math.max(0.4, Math.min(100, (100 * found.high) / top) - (100 * found.low) / top)}%`;
  }
  const dot = el("i", { class: "dot" });
  dot.style.left = place(found.wer);
  return el("div", { class: `lane ${letter}` }, interval, dot);
}

function groupPart(table) {
  const top = niceTop(table.rows);
  const body = el("tbody", {});
  const figure = (found) => [el("b", {}, percent(found.wer)),
    found.low === undefined ? el("small", { title: NO_INTERVAL }, " –") : el("small", {}, ` ${(100 * found.low).toFixed(1)} to ${(100 * found.high).toFixed(1)}`)];
  const draw = (rows) => body.replaceChildren(...rows.map((row) => el("tr", {},
    el("th", { scope: "row" }, el("button", { type: "button", class: "link", title: "Show these utterances", onclick: () => showUtterances(row.filter) }, el("bdi", {}, row.name))),
    el("td", { class: "number hide-narrow" }, whole(row.utterances)),
    el("td", { class: "number hide-narrow" }, whole(row.words)),
    el("td", { class: "plot", "aria-hidden": "true" }, lane(row, top, "A"), row.second ? lane(row.second, top, "B") : null),
    el("td", { class: "number rate" }, el("div", {}, ...figure(row)), row.second ? el("div", { class: "B-text" }, ...figure(row.second)) : null))));
  draw(table.rows.slice(0, FEW));
  const more = table.rows.length > FEW ? el("button", { type: "button", class: "link", onclick: () => { draw(table.rows); more.remove(); } }, `Show all ${whole(table.rows.length)}`) : null;
  const axis = el("div", { class: "axis" }, ...[0, 0.5, 1].map((share) => { const tick = el("span", {}, `${(100 * share * top).toFixed(top < 0.1 ? 1 : 0)} %`); tick.style.left = `${100 * share}%`; return tick; }));
  return el("div", { class: "panel" }, el("h2", {}, table.title),
    el("table", { class: "groups" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""), el("th", { scope: "col", class: "number hide-narrow" }, "utterances"), el("th", { scope: "col", class: "number hide-narrow" }, "words"), el("th", { class: "plot", "aria-hidden": "true" }, axis), el("th", { scope: "col", class: "number rate" }, "WER, 95 % interval"))),
      body), more);
}

function settingsPart() {
  const tables = DATA.settings.map((rows, index) => el("div", {}, BOTH ? el("h3", {}, `${"AB"[index]}: ${NAMES[index]}`) : null,
    el("dl", { class: "setting" }, ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, value)))))));
  const failures = DATA.failures.length ? el("details", {}, el("summary", {}, `${whole(DATA.failures.length)} utterances could not be transcribed and are not in these figures`),
    el("ul", {}, ...DATA.failures.slice(0, 200).map(([name, reason]) => el("li", {}, el("bdi", {}, name), ": ", el("bdi", {}, reason))))) : null;
  return el("div", { class: "panel" }, el("h2", {}, "What was evaluated"), ...tables, failures, ...DATA.notes.map((note) => el("p", { class: "note" }, note)), el("p", { class: "quiet" }, `Made by ${DATA.made_by}.`));
}

function drawOverview() {
  const parts = DATA.overall.map((found, index) => cards(found, BOTH ? `${"AB"[index]}: ${NAMES[index]}` : ""));
  if (DATA.comparison) parts.push(comparisonPart(DATA.comparison));
  const tables = DATA.groups.map(groupPart);
  parts.push(el("div", { class: "panels" }, ...tables));
  parts.push(settingsPart());
  $("overview").replaceChildren(...parts);
}

/* ---- utterances ---- */

const known = (name) => DATA.utterances.some((u) => FIELDS[name].of(u) !== undefined);
const werCell = (wer) => {
  const bar = el("span", { class: "wer-bar hide-narrow" }, el("i", {}));
  bar.firstChild.style.width = `${Math.min(100, wer)}%`;
  return el("span", { class: "wer-cell" }, bar, `${wer.toFixed(0)} %`);
};
const marked = (u) => {
  const parts = [];
  for (const pair of u.p.slice(0, 60)) {
    const [said, heard] = typeof pair === "string" ? [pair, pair] : pair;
    if (said && heard && said === heard) parts.push(`${said} `);
    else if (said) parts.push(el("span", { class: heard ? "S-text" : "D-text" }, said), " ");
    else parts.push(el("span", { class: "I-text" }, `+${heard}`), " ");
  }
  return el("bdi", { class: "text-line" }, ...parts);
};
const COLUMNS = [
  { name: "wer", title: BOTH ? "WER A" : "WER", width: "92px", narrow: "50px", number: true, value: (u) => u.wer, cell: (u) => werCell(u.wer) },
  BOTH && { name: "wer2", title: "WER B", width: "92px", narrow: "50px", number: true, value: (u) => u.wer2, cell: (u) => werCell(u.wer2) },
  { name: "errors", title: "errors", width: "62px", number: true, value: (u) => u.e, cell: (u) => `${u.e} / ${u.w}` },
  known("duration") && { name: "duration", title: "s", hint: "length in seconds", width: "52px", number: true, hide: "hide-narrow", value: (u) => u.d, cell: (u) => fixed(u.d, 1) },
  known("snr") && { name: "snr", title: "dB", hint: "speech above noise", width: "46px", number: true, hide: "hide-narrow", value: (u) => u.n, cell: (u) => fixed(u.n, 0) },
  known("confidence") && { name: "confidence", title: "conf.", hint: "mean confidence of the words", width: "54px", number: true, hide: "hide-narrow", value: (u) => u.f, cell: (u) => fixed(u.f, 2) },
  { name: "text", title: "reference, with errors marked", width: "minmax(0, 1fr)", value: (u) => textOf(u, 0).toLowerCase(), cell: marked },
].filter(Boolean);

const utteranceList = new VirtualList($("utterance-list"), {
  label: "Utterances", columns: COLUMNS, sort: "errors", empty: "No utterance passes the filter.",
  choose: (u) => showDetail($("detail"), u, NAMES),
});

function applyFilter() {
  const text = $("filter").value;
  const state = $("filter-state");
  let test;
  try {
    test = parseFilter(text, FIELDS, searched);
  } catch (error) {
    if (!(error instanceof FilterError)) throw error;
    state.textContent = `At character ${error.at + 1}: ${error.message}.`;
    state.classList.add("fault");
    $("filter").setAttribute("aria-invalid", "true");
    return;
  }
  $("filter").removeAttribute("aria-invalid");
  state.classList.remove("fault");
  const found = DATA.utterances.filter(test);
  const sum = (key) => found.reduce((total, u) => total + key(u), 0);
  const [errors, words] = [sum((u) => u.e), sum((u) => u.w)];
  const second = BOTH ? `, B ${rate(sum((u) => u.b.e), sum((u) => u.b.w)).toFixed(2)} %` : "";
  state.textContent = `${whole(found.length)} of ${whole(DATA.utterances.length)} utterances${found.length ? ` · WER ${rate(errors, words).toFixed(2)} % (${whole(errors)} of ${whole(words)} words)${second}` : ""}`;
  utteranceList.set(found);
  if (!$("utterances").hidden && found.length && utteranceList.at < 0) utteranceList.select(0);
}

let typing = 0;
$("filter").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(applyFilter, 120); });
$("filter-form").addEventListener("submit", (event) => { event.preventDefault(); applyFilter(); utteranceList.box.focus(); });
$("filter-clear").addEventListener("click", () => { $("filter").value = ""; applyFilter(); $("filter").focus(); });
$("filter-fields").replaceChildren(
  el("p", {}, "Conditions are combined by and, or, not and parentheses. A word alone is looked for in id, reference and hypothesis. Texts compare without case; ~ is contains."),
  el("dl", { class: "fields" }, ...Object.entries(FIELDS).map(([name, field]) => el("div", {}, el("dt", {}, name), el("dd", {}, `${field.hint}: `, el("button", { type: "button", class: "link code", onclick: () => { $("filter").value = field.example; applyFilter(); } }, field.example))))));

/* ---- words and errors ---- */

const wordCell = (word) => el("bdi", { class: "text-line" }, word);

function drawWords() {
  const search = el("input", { type: "text", id: "word-search", spellcheck: "false", autocomplete: "off", placeholder: "find a word" });
  const frame = el("div", { class: "list-frame" });
  $("words").replaceChildren(el("div", { class: "filter" }, el("label", { for: "word-search" }, "Find"), search, el("p", { class: "quiet" }, "Enter or a click shows the utterances that hold the word.")), frame);
  const list = new VirtualList(frame, {
    label: "Words", sort: "spoken", empty: "No such word.", open: ([word]) => showUtterances(`word = ${quoted(word)} or wrong = ${quoted(word)}`),
    columns: [
      { name: "word", title: "word", width: "minmax(90px, 1.2fr)", narrow: "minmax(60px, 1fr)", value: (row) => row[0].toLowerCase(), cell: (row) => el("span", {}, wordCell(row[0]), row[7] ? el("small", { class: "tag" }, "outside lexicon") : null) },
      { name: "spoken", title: "in refs", hint: "how often references have it", width: "78px", narrow: "58px", number: true, value: (row) => row[1], cell: (row) => whole(row[1]) },
      { name: "accuracy", title: "right", width: "92px", narrow: "58px", number: true, hint: "share of these that were recognised", value: (row) => (row[1] ? row[2] / row[1] : undefined), cell: (row) => (row[1] ? percent(row[2] / row[1], 0) : "") },
      { name: "sub", title: "subst.", width: "64px", number: true, hide: "hide-narrow", value: (row) => row[3], cell: (row) => whole(row[3]) },
      { name: "del", title: "del.", width: "58px", number: true, hide: "hide-narrow", value: (row) => row[4], cell: (row) => whole(row[4]) },
      { name: "ins", title: "false", width: "64px", narrow: "48px", number: true, hint: "how often the hypothesis has it where the reference does not", value: (row) => row[5], cell: (row) => whole(row[5]) },
      { name: "others", title: "recognised as", width: "minmax(0, 2fr)", hide: "hide-narrow", value: (row) => (row[6].length ? row[6][0][1] : 0), cell: (row) => wordCell(row[6].map(([word, count]) => `${word} ${count}`).join(", ")) },
    ],
  });
  list.set(DATA.words);
  search.addEventListener("input", () => list.set(DATA.words.filter((row) => row[0].toLowerCase().includes(search.value.trim().toLowerCase()))));
}

function drawErrors() {
  const kinds = [
    ["Substitutions", DATA.errors.substitutions.map(([a, b, n]) => ({ words: [a, b], n, filter: `pair = ${quoted(`${a}>${b}`)}` })), "Nothing was substituted."],
    ["Deletions", DATA.errors.deletions.map(([a, n]) => ({ words: [a], n, filter: `pair = ${quoted(`${a}>`)}` })), "Nothing was deleted."],
    ["Insertions", DATA.errors.insertions.map(([b, n]) => ({ words: [b], n, filter: `pair = ${quoted(`>${b}`)}` })), "Nothing was inserted."],
  ];
  if (DATA.errors.outside) kinds.push(["Outside the lexicon", DATA.errors.outside.map(([a, n]) => ({ words: [a], n, filter: `word = ${quoted(a)}` })), "Every word of the references is in the lexicon."]);
  const panels = kinds.map(([title, rows, empty]) => {
    const frame = el("div", { class: "list-frame" });
    const list = new VirtualList(frame, {
      label: title, sort: "count", empty, height: 30, open: (row) => showUtterances(row.filter),
      columns: [
        { name: "words", title: title === "Substitutions" ? "reference → hypothesis" : "word", width: "minmax(0, 1fr)", value: (row) => row.words.join(" ").toLowerCase(), cell: (row) => el("span", { class: "text-line" }, ...row.words.flatMap((word, index) => [index ? " → " : "", el("bdi", {}, word)])) },
        { name: "count", title: "count", width: "64px", number: true, value: (row) => row.n, cell: (row) => whole(row.n) },
      ],
    });
    list.set(rows);
    return el("div", { class: "panel error-panel" }, el("h2", {}, title), el("p", { class: "quiet" }, `${whole(rows.reduce((total, row) => total + row.n, 0))} in all, ${whole(rows.length)} different`), frame);
  });
  if (!DATA.errors.outside) panels.push(el("div", { class: "panel" }, el("h2", {}, "Outside the lexicon"), el("p", { class: "quiet" }, "The evaluation has no lexicon: the model may write any word.")));
  $("errors").replaceChildren(el("div", { class: "panels" }, ...panels));
}

/* ---- keys and colours ---- */

function nextUtterance(step) {
  if ($("utterances").hidden) openTab("utterances");
  else utteranceList.select(utteranceList.at + step);
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || $("help").open) return;
  if (event.target instanceof HTMLInputElement) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const actions = {
    "/": () => { openTab("utterances"); $("filter").focus(); $("filter").select(); },
    "?": () => $("help").showModal(),
    j: () => nextUtterance(1),
    k: () => nextUtterance(-1),
    p: () => { const sound = SOUND.player; if (sound) { if (sound.paused) sound.play().catch(() => {}); else sound.pause(); } },
    1: () => openTab("overview", true), 2: () => openTab("utterances", true), 3: () => openTab("words", true), 4: () => openTab("errors", true),
  };
  if (Object.hasOwn(actions, event.key)) {
    event.preventDefault();
    actions[event.key]();
  }
});
$("help-open").addEventListener("click", () => $("help").showModal());

const THEMES = ["auto", "light", "dark"];
$("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "auto") + 1) % THEMES.length];
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Colours: ${theme}`;
  $("theme").setAttribute("aria-label", `Colours: ${theme}`);
  showDetail.repaint?.();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => showDetail.repaint?.());
addEventListener("resize", () => showDetail.repaint?.());

document.title = `${DATA.title}: recognition report`;
$("title").textContent = DATA.title;
$("subtitle").textContent = `${BOTH ? `A: ${NAMES[0]} · B: ${NAMES[1]}` : NAMES[0]} · ${whole(DATA.utterances.length)} utterances`;
drawOverview();
drawWords();
drawErrors();
applyFilter();
if (TABS.includes(location.hash.slice(1))) openTab(location.hash.slice(1));
document.documentElement.dataset.ready = "yes";
