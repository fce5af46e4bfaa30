// A recording's loudness on a canvas: what was played in colour, the place, and marks under doubtful words.

export class Waveform {
  /** `onSeek(seconds)` is called while somebody clicks or drags. */
  constructor(canvas, onSeek) {
    this.canvas = canvas;
    this.peaks = null;
    this.duration = 0;
    this.at = 0;
    this.marks = [];
    this.hover = null;
    const seconds = (event) => Math.max(0, Math.min(1, event.offsetX / canvas.clientWidth)) * this.duration;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      onSeek(seconds(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.hover = seconds(event);
      if (canvas.hasPointerCapture(event.pointerId)) onSeek(this.hover);
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.hover = null;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  /** `peaks`: bytes, or null while they are not known. */
  show(peaks, duration) {
    this.peaks = peaks;
    this.duration = duration;
    this.draw();
  }

  /** Take the colours of the page anew. */
  recolour() {
    this.inks = null;
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (!wide || !high) return;
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round(high * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    this.inks ??= ["--accent", "--field", "--doubt", "--ink"].map((name) => colour(canvas, name));
    const [accent, rest, doubt, ink] = this.inks;
    const played = this.duration ? (this.at / this.duration) * wide : 0;
    bars(pen, this.peaks, wide, high, (x) => (x < played ? accent : rest));
    pen.fillStyle = doubt;
    for (const second of this.marks) pen.fillRect((second / this.duration) * wide - 1, high - 5, 2.5, 3.5);
    if (this.duration) {
      pen.fillStyle = ink;
      pen.fillRect(Math.min(wide - 1.5, played), 4, 1.5, high - 8);
    }
    if (this.hover !== null && this.duration) {
      pen.globalAlpha = 0.35;
      pen.fillRect((this.hover / this.duration) * wide, 4, 1, high - 8);
      pen.globalAlpha = 1;
    }
  }
}

/** The value of a custom property as a colour that a canvas takes (it knows no light-dark()). */
function colour(element, name) {
  element.style.color = `var(${name})`;
  const value = getComputedStyle(element).color;
  element.style.color = "";
  return value;
}

/** Rounded bars over the whole width, as loud as the loudest peak that each covers. */
function bars(pen, peaks, wide, high, ink, margin = 20) {
  const step = 4;
  const count = Math.floor(wide / step);
  const loudest = Math.max(24, ...(peaks?.length ? [top(peaks, 0, peaks.length)] : []));
  for (let n = 0; n < count; n += 1) {
    let level = 0;
    if (peaks?.length) {
      const from = Math.floor((n * peaks.length) / count);
      level = top(peaks, from, Math.max(from + 1, Math.floor(((n + 1) * peaks.length) / count))) / loudest;
    }
    const size = Math.max(2, level * (high - margin));
    pen.fillStyle = ink(n * step);
    pen.beginPath();
    pen.roundRect(n * step + 0.75, (high - size) / 2, step - 1.5, size, 1.25);
    pen.fill();
  }
}

function top(peaks, from, to) {
  let most = 0;
  for (let n = from; n < to && n < peaks.length; n += 1) if (peaks[n] > most) most = peaks[n];
  return most;
}

/** The last seconds of a running recording; `peaks` are ordinary numbers from 0 to 255. */
export function drawLevel(canvas, peaks) {
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(wide * scale);
  canvas.height = Math.round(high * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const count = Math.floor(wide / 4);
  const shown = peaks.slice(-count);
  while (shown.length < count) shown.unshift(0);
  const ink = colour(canvas, "--accent");
  bars(pen, shown, wide, high, () => ink, 8);
}
