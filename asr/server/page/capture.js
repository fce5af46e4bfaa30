// An AudioWorklet: the microphone's samples as 16-bit blocks of a tenth of a second.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.ceil(sampleRate / 10);
    this.block = new Int16Array(this.size);
    this.used = 0;
    this.port.onmessage = () => { // the end: what is there is sent, whatever its length
      this.give(this.used);
      this.port.postMessage(null);
      this.over = true;
    };
  }

  process(inputs) {
    if (this.over) return false;
    const samples = inputs[0][0];
    if (!samples) return true;
    for (const sample of samples) {
      this.block[this.used] = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
      this.used += 1;
      if (this.used === this.size) this.give(this.size);
    }
    return true;
  }

  give(count) {
    if (count) {
      const buffer = this.block.buffer.slice(0, 2 * count);
      this.port.postMessage(buffer, [buffer]);
    }
    this.used = 0;
  }
}

registerProcessor("capture", Capture);
