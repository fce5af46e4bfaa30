// From the microphone to a stream of 16-bit blocks, at most ten a second.

/** Why there is no microphone, for the user. */
function reason(error) {
  if (!window.isSecureContext) return "A browser lends its microphone only to pages from https:// or from this computer (localhost).";
  if (error?.name === "NotAllowedError") return "The browser does not allow the microphone here. Allow it beside the address, and try again.";
  if (error?.name === "NotFoundError") return "There is no microphone. Connect one, and try again.";
  if (error?.name === "NotReadableError") return "Another program uses the microphone. Close it there, and try again.";
  return `The microphone cannot be used: ${error?.message ?? "the browser has none"}.`;
}

export class Microphone {
  /** Open the microphone. `onBlock(Int16Array)` gets the samples, `onLost()` is called if it is unplugged. */
  static async open(onBlock, onLost) {
    const microphone = new Microphone();
    try {
      // The model was trained on sound without these filters, which also cut off beginnings of words.
      microphone.stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      });
    } catch (error) {
      throw new Error(reason(error));
    }
    try {
      microphone.context = new AudioContext();
      await microphone.context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
      await microphone.context.resume();
      microphone.node = new AudioWorkletNode(microphone.context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      microphone.node.port.onmessage = ({ data }) => (data ? onBlock(new Int16Array(data)) : microphone.finished?.());
      microphone.context.createMediaStreamSource(microphone.stream).connect(microphone.node);
      microphone.stream.getAudioTracks()[0].addEventListener("ended", onLost);
      return microphone;
    } catch (error) {
      microphone.release();
      throw new Error(reason(error));
    }
  }

  /** Samples per second. */
  get rate() {
    return this.context.sampleRate;
  }

  /** Give the last block, then release the device. */
  async close() {
    const last = new Promise((resolve) => { this.finished = resolve; });
    this.node.port.postMessage("end");
    await Promise.race([last, new Promise((resolve) => setTimeout(resolve, 500))]);
    this.release();
  }

  release() {
    this.stream.getTracks().forEach((track) => track.stop());
    this.context?.close();
  }
}
