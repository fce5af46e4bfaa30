// Runs in the audio thread: hands the microphone's samples on in blocks.

const BLOCK = 2048;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.port.onmessage = () => {
      this.port.postMessage({ samples: this.block.slice(0, this.filled), last: true });
      this.done = true;
    };
  }

  process([input]) {
    if (this.done) return false;
    const channels = input.length;
    for (let i = 0; channels && i < input[0].length; i++) {
      let sum = 0;
      for (const channel of input) sum += channel[i];
      this.block[this.filled++] = sum / channels;
      if (this.filled === BLOCK) {
        this.port.postMessage({ samples: this.block.slice() });
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
