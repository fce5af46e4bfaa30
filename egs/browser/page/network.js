// The streaming graph of `asr export MODEL OUT --to onnx`: samples in, rows of log-probabilities out.
// docs/export.md says what its inputs, outputs and states are, and how blocks and the end are fed.

function joined(first, second) {
  const all = new Float32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}

export class Network {
  // `ort`: onnxruntime-web. `session`: of the streaming graph. `model`: model.json, which prepare.py writes.
  constructor(ort, session, model) {
    this.ort = ort;
    this.session = session;
    this.model = model;
    this.start();
  }

  start() {
    this.samples = new Float32Array(0);
    this.received = 0; // samples of the recording
    this.held = new Float32Array(0); // its last ones, for reflection (`framed`)
    this.fed = 0; // frames of features that have come
    this.taken = 0; // frames after subsampling that the graph has had
    this.given = 0; // rows that it has given
    this.states = null;
  }

  // The rows that are complete with these samples (Float32Array at the model's rate).
  async accept(block) {
    this.add(this.framed(block));
    const rows = [];
    for (let size = this.next(); size; size = this.next()) rows.push(...(await this.call(size, -1)));
    return rows;
  }

  // All rows that are left. Call start() before the next stream.
  async finish() {
    this.add(this.ending());
    const { subsampling: factor, upsampling } = this.model.frames;
    const due = upsampling * Math.ceil(this.fed / factor);
    let left = Math.ceil(this.fed / factor) - this.taken;
    const rows = [];
    while (this.given < due) {
      const more = await this.call(Math.max(1, left), left);
      if (!left && !more.length) throw new Error(`expected ${due} rows from the graph, got ${this.given}`);
      rows.push(...more);
      left = 0;
    }
    return rows;
  }

  // Take the samples that windows are cut from.
  add(samples) {
    const { hop_samples: hop, window_samples: window } = this.model.features;
    const { subsampling: factor } = this.model.frames;
    this.samples = joined(this.samples, samples);
    const had = this.taken ? 1 + factor * (this.taken - 1) : 0;
    this.fed = had + Math.max(0, 1 + Math.floor((this.samples.length - window) / hop));
  }

  // Where windows are centred (`lead_samples`), the recording is reflected at both ends: here in front.
  framed(block) {
    const { window_samples: window, lead_samples: lead } = this.model.features;
    if (lead === undefined) return block;
    const begins = this.received < lead;
    const all = joined(this.held, block);
    this.received += block.length;
    if (this.received < lead) {
      this.held = all;
      return new Float32Array(0);
    }
    this.held = all.slice(-Math.ceil(window / 2));
    return begins ? joined(all.slice(0, lead).reverse(), all) : block;
  }

  // What is reflected behind the last sample: one window for each hop of which at least half is there.
  ending() {
    const { hop_samples: hop, window_samples: window, lead_samples: lead } = this.model.features;
    if (lead === undefined || this.received < window - lead) return new Float32Array(0);
    const frames = Math.floor((this.received + Math.floor(hop / 2)) / hop);
    const missing = (frames - 1) * hop + window - lead - this.received;
    return this.held.slice(this.held.length - missing).reverse();
  }

  // Frames after subsampling of the next call; 0 where it must wait for more samples.
  next() {
    const { subsampling: factor } = this.model.frames;
    const { bidirectional, first_wait: wait, chunk, right } = this.model.latency;
    const waiting = this.fed - (this.taken ? 1 + factor * (this.taken - 1) : 0);
    const ready = this.taken ? Math.floor(waiting / factor) : waiting ? Math.floor((waiting - 1) / factor) + 1 : 0;
    if (!bidirectional) return this.taken || ready > wait ? ready : 0;
    const size = this.taken ? chunk : chunk + right;
    return ready >= size ? size : 0;
  }

  async call(size, last) {
    const { hop_samples: hop, window_samples: window } = this.model.features;
    const { subsampling: factor } = this.model.frames;
    const frames = this.taken ? factor * size : 1 + factor * (size - 1);
    const samples = new Float32Array((frames - 1) * hop + window);
    samples.set(this.samples.subarray(0, samples.length));
    const feeds = {
      samples: new this.ort.Tensor("float32", samples, [1, samples.length]),
      last: this.integers([last]),
      ...(this.states ?? this.zeros()),
    };
    const { bidirectional, chunk, right } = this.model.latency;
    if (bidirectional) feeds.latency = this.integers([chunk, right]);
    const found = await this.session.run(feeds);
    this.states = Object.fromEntries(this.model.states.map(({ name }) => [name, found[`next.${name}`]]));
    this.samples = this.samples.slice(frames * hop);
    this.taken += last < 0 ? size : last;
    const [, count, columns] = found.log_probs.dims;
    this.given += count;
    return Array.from({ length: count }, (_, row) => found.log_probs.data.slice(row * columns, (row + 1) * columns));
  }

  integers(values) {
    return new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
  }

  zeros() {
    return Object.fromEntries(
      this.model.states.map(({ name, shape }) => {
        const own = [1, ...shape.slice(1)];
        return [name, new this.ort.Tensor("float32", new Float32Array(own.reduce((a, b) => a * b, 1)), own)];
      }),
    );
  }
}
