// Changes the sample rate of a stream: a windowed sinc (Smith 2002), cut at the lower of the two Nyquist frequencies.

const ZEROS = 16; // zero crossings of the sinc on each side

export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    this.cutoff = Math.min(1, to / from) * 0.95;
    this.reach = Math.ceil(ZEROS / this.cutoff);
    this.samples = new Float32Array(this.reach); // silence before the first sample
    this.at = this.reach; // where in the samples the next output lies
  }

  // The outputs that the samples so far allow.
  accept(block) {
    const joined = new Float32Array(this.samples.length + block.length);
    joined.set(this.samples);
    joined.set(block, this.samples.length);
    const outputs = [];
    while (this.at + this.reach < joined.length) {
      outputs.push(this.value(joined, this.at));
      this.at += this.step;
    }
    const drop = Math.max(0, Math.floor(this.at) - this.reach);
    this.samples = joined.slice(drop);
    this.at -= drop;
    return Float32Array.from(outputs);
  }

  value(samples, at) {
    const first = Math.ceil(at - this.reach);
    const last = Math.floor(at + this.reach);
    let sum = 0;
    for (let i = Math.max(0, first); i <= last; i++) {
      const x = (at - i) * this.cutoff;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
      const hann = 0.5 + 0.5 * Math.cos((Math.PI * x) / ZEROS);
      if (Math.abs(x) <= ZEROS) sum += samples[i] * sinc * hann;
    }
    return sum * this.cutoff;
  }
}
