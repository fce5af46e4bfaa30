/* One utterance: figures, sound, alignment word by word, posteriors. */

const SOUND = { player: null, from: 0, until: Infinity, cursor: null };

/* Sound and picture that stand in the page; read when the utterance is first shown. */
function embedded(index) {
  const block = document.getElementById(`media-${index}`);
  return block ? JSON.parse(block.textContent) : {};
}

function showDetail(box, utterance, names) {
  SOUND.player?.pause();
  Object.assign(SOUND, { player: null, from: 0, until: Infinity, cursor: null });
  const media = embedded(utterance.index);
  const both = names.length > 1;
  const parts = [
    el("h2", { class: "utterance-id" }, el("bdi", {}, utterance.i)),
    figures(utterance),
    player(utterance, media),
    both && el("h3", {}, `A: ${names[0]}`),
    alignment(utterance, utterance.wer, scores(utterance)),
    both && el("h3", {}, `B: ${names[1]}`),
    both && alignment(utterance.b, utterance.wer2, scores(utterance.b)),
    picture(utterance, media, both ? names[0] : ""),
  ];
  box.replaceChildren(...parts.filter(Boolean));
  box.scrollTop = 0;
}

function figures(u) {
  const rows = [
    ["WER", u.wer === undefined ? "" : `${u.wer.toFixed(0)} %`, `${u.e} of ${u.w} words`],
    ["Speaker", u.s], ["Corpus", u.c],
    ["Length", u.d === undefined ? "" : `${u.d.toFixed(2)} s`],
    ["Speech above noise", u.n === undefined ? "" : `${u.n.toFixed(0)} dB`],
    ["Level", u.l === undefined ? "" : `${u.l.toFixed(0)} dBFS`],
    ["Reliability", fixed(u.r, 2)],
  ];
  const shown = rows.filter(([, value]) => value);
  return el("dl", { class: "figures" }, ...shown.map(([name, value, more]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, value), more && el("small", {}, ` ${more}`)))));
}

function scores(u) {
  const words = [
    u.f !== undefined && `confidence ${u.f.toFixed(2)}`,
    u.a !== undefined && `acoustic score ${u.a.toFixed(1)}`,
    u.m !== undefined && `language model ${u.m.toFixed(1)}`,
    u.a !== undefined && u.m !== undefined && `sum ${(u.a + u.m).toFixed(1)}`,
  ];
  return words.filter(Boolean).join(" · ");
}

function player(u, media) {
  const address = media.audio || u.u;
  if (!address) return el("p", { class: "quiet" }, "No sound in this report.");
  const sound = el("audio", { controls: true, preload: "metadata" });
  const fault = el("p", { class: "quiet", role: "status" });
  SOUND.player = sound;
  if (u.k && !media.audio) {
    SOUND.from = u.o || 0;
    SOUND.until = SOUND.from + (u.d || Infinity);
  }
  sound.addEventListener("loadedmetadata", () => { if (SOUND.player === sound && SOUND.from) sound.currentTime = SOUND.from; });
  sound.addEventListener("timeupdate", () => {
    if (SOUND.player === sound && sound.currentTime >= SOUND.until) { sound.pause(); sound.currentTime = SOUND.from; }
  });
  sound.addEventListener("play", follow);
  sound.addEventListener("seeked", follow);
  sound.addEventListener("error", () => { fault.textContent = "The browser cannot play this recording: it was moved, or its format is not for browsers."; });
  sound.src = address;
  const linked = media.audio ? null : el("a", { href: address, target: "_blank", rel: "noreferrer" }, "recording");
  return el("div", { class: "player" }, sound, linked, fault);
}

function play(start_s) {
  const sound = SOUND.player;
  if (!sound) return;
  sound.currentTime = SOUND.from + start_s;
  sound.play().catch(() => {});
}

/* Move the line in the picture while the sound plays. */
function follow() {
  const sound = SOUND.player;
  if (!sound || !SOUND.cursor) return;
  SOUND.cursor(sound.currentTime - SOUND.from);
  if (!sound.paused) requestAnimationFrame(follow);
}

const KINDS = { S: "substituted", D: "deleted", I: "inserted" };

/* Reference above hypothesis, a column for each pair; the letter says what is wrong, not the colour alone. */
function alignment(u, wer, below) {
  let word = 0;
  const columns = u.p.map((pair) => {
    const [said, heard] = typeof pair === "string" ? [pair, pair] : pair;
    const kind = said === heard ? "" : !heard ? "D" : !said ? "I" : "S";
    const times = heard && u.t ? u.t.slice(3 * word, 3 * word + 3) : null;
    if (heard) word++;
    return column(said, heard, kind, times);
  });
  const title = `${wer === undefined ? "" : `WER ${wer.toFixed(0)} % · `}${below}`;
  return el("div", { class: "aligned" },
    el("div", { class: "aligned-words", role: "list", "aria-label": "Reference above hypothesis" },
      el("div", { class: "word legend", "aria-hidden": "true" }, el("span", {}, "ref"), el("span", {}, "hyp"), el("span", { class: "mark" }, ""), el("span", { class: "sure" })),
      ...columns),
    el("p", { class: "quiet" }, title));
}

function column(said, heard, kind, times) {
  const sure = times ? times[2] / 100 : undefined;
  const bar = el("span", { class: "sure" }, sure === undefined ? null : el("i", {}));
  if (sure !== undefined) bar.firstChild.style.width = `${100 * sure}%`;
  const parts = [
    el("span", { class: "said" }, el("bdi", {}, said || "∗")),
    el("span", { class: "heard" }, el("bdi", {}, heard || "∗")),
    el("span", { class: "mark" }, kind),
    bar,
  ];
  const what = kind ? `${KINDS[kind]}: ${said || "nothing"}, recognised ${heard || "nothing"}` : said;
  const hint = `${what}${times ? `; ${(times[0] / 100).toFixed(2)} to ${(times[1] / 100).toFixed(2)} s, confidence ${sure.toFixed(2)}` : ""}`;
  const listed = (...children) => el("div", { role: "listitem", class: "word-item" }, ...children);
  if (!times) return listed(el("div", { class: `word ${kind}`, title: hint }, ...parts));
  return listed(el("button", { type: "button", class: `word ${kind}`, title: hint, "aria-label": hint, onclick: () => play(times[0] / 100) }, ...parts));
}

const ROW = 15; // height of a token's row in the picture
const LEFT = 46; // room for the tokens' names
const TOP = 20; // room for the words

/* Posteriors: a row for each token, a column for each frame; words above, a line where the sound is. */
function picture(u, media, name) {
  const found = media.picture || u.v;
  if (!found) return u.u || media.audio ? el("p", { class: "quiet" }, "No posteriors in this report for this utterance.") : null;
  const [address, frame_s, tokens] = found;
  const canvas = el("canvas", { class: "posteriors", role: "img", "aria-label": `Posteriors of ${tokens.length} tokens over time` });
  const readout = el("p", { class: "quiet readout", "aria-live": "off" }, "Point at the picture for the posterior; click to play from there.");
  const image = new Image();
  const state = { image, tokens, frame_s, u, canvas, at: null, values: null, ready: false };
  image.addEventListener("load", () => {
    state.ready = true;
    state.values = readValues(image);
    paint(state);
  });
  image.addEventListener("error", () => { readout.textContent = "The picture of the posteriors is not there."; });
  image.src = address;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const frame = Math.floor((event.clientX - box.left - LEFT) / state.width);
    const row = Math.floor((event.clientY - box.top - TOP) / ROW);
    return state.ready && frame >= 0 && frame < image.naturalWidth ? [frame, row] : null;
  };
  canvas.addEventListener("mousemove", (event) => {
    const found = place(event);
    if (!found) return;
    const [frame, row] = found;
    const value = state.values && row >= 0 && row < tokens.length ? state.values[4 * (row * image.naturalWidth + frame) + 3] / 255 : undefined;
    readout.textContent = `${(frame * frame_s).toFixed(2)} s${row >= 0 && row < tokens.length ? ` · ${tokens[row]}` : ""}${value === undefined ? "" : ` · ${value.toFixed(2)}`}`;
  });
  canvas.addEventListener("click", (event) => {
    const found = place(event);
    if (found) play(found[0] * frame_s);
  });
  SOUND.cursor = (seconds) => {
    state.at = seconds;
    paint(state);
  };
  showDetail.repaint = () => paint(state);
  return el("div", { class: "picture" }, el("h3", {}, name ? `Posteriors of ${name}` : "Posteriors"), el("div", { class: "picture-scroll" }, canvas), readout);
}

/* Opacities of the pixels; a file beside the page may not be read in this way, and then there are none. */
function readValues(image) {
  try {
    const copy = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = copy.getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data;
  } catch {
    return null;
  }
}

function paint(state) {
  const { canvas, image, tokens, frame_s, u } = state;
  if (!state.ready || !canvas.isConnected) return;
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name);
  const room = canvas.parentElement.clientWidth - LEFT - 2;
  state.width = Math.max(2, Math.min(12, room / image.naturalWidth));
  const width = LEFT + state.width * image.naturalWidth;
  const height = TOP + ROW * tokens.length;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.imageSmoothingEnabled = false;
  // The picture is black with opacities: painted over it takes the colour of the theme.
  context.drawImage(image, LEFT, TOP, width - LEFT, height - TOP);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour("--accent");
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "destination-over";
  for (let row = 0; row < tokens.length; row++) {
    context.fillStyle = colour(row % 2 ? "--surface" : "--stripe");
    context.fillRect(LEFT, TOP + row * ROW, width - LEFT, ROW);
  }
  context.globalCompositeOperation = "source-over";
  context.font = "11px ui-monospace, monospace";
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillStyle = colour("--quiet");
  tokens.forEach((token, row) => context.fillText(token, LEFT - 6, TOP + (row + 0.5) * ROW, LEFT - 8));
  paintWords(context, u, frame_s, state.width, height, colour);
  if (state.at !== null) {
    context.fillStyle = colour("--S");
    context.fillRect(LEFT + (state.at / frame_s) * state.width - 0.75, 0, 1.5, height);
  }
}

function paintWords(context, u, frame_s, width, height, colour) {
  if (!u.t) return;
  const heard = u.p.map((pair) => (typeof pair === "string" ? pair : pair[1])).filter(Boolean);
  context.textAlign = "left";
  heard.forEach((word, index) => {
    const [start, end] = [u.t[3 * index], u.t[3 * index + 1]].map((time) => LEFT + (time / 100 / frame_s) * width);
    context.fillStyle = colour("--line");
    context.fillRect(start, TOP - 4, 1, height - TOP + 4);
    context.fillStyle = colour("--accent");
    context.fillRect(start, TOP - 4, Math.max(1, end - start - 1), 2);
    context.save();
    context.beginPath();
    const next = index + 1 < heard.length ? LEFT + (u.t[3 * index + 3] / 100 / frame_s) * width : start + 4000;
    context.rect(start, 0, Math.max(0, next - start - 2), TOP);
    context.clip();
    context.fillStyle = colour("--text");
    context.fillText(word, start, TOP / 2 - 1);
    context.restore();
  });
}
