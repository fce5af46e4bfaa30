// Playback of one recording. A file that the browser cannot play is asked of the server once, as it decodes it.

export class Player {
  /** `decode()` resolves to a Blob that every browser plays; `onTime(seconds)` comes with each frame, `onState(playing)`
   * when it starts and stops, `onTrouble(message)` if nothing can be played. */
  constructor({ decode, onTime, onState, onTrouble }) {
    this.calls = { decode, onTime, onState, onTrouble };
    this.audio = new Audio();
    this.audio.preservesPitch = true;
    this.stopAt = Infinity;
    this.wanted = 0;
    this.asked = false; // whether it should play
    this.audio.addEventListener("play", () => { onState(true); this.tick(); });
    this.audio.addEventListener("pause", () => onState(false));
    this.audio.addEventListener("ended", () => onState(false));
    this.audio.addEventListener("seeked", () => onTime(this.audio.currentTime));
    this.audio.addEventListener("loadedmetadata", () => { if (this.wanted) this.audio.currentTime = this.wanted; });
    this.audio.addEventListener("error", () => this.decodeInstead());
  }

  /** Play this Blob from now on; null: there is no audio. */
  load(blob) {
    this.unload();
    this.decodedOnce = false;
    if (blob) this.audio.src = this.address = URL.createObjectURL(blob);
  }

  unload() {
    this.pause();
    this.wanted = 0;
    this.stopAt = Infinity;
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
    this.audio.removeAttribute("src");
  }

  async decodeInstead() {
    if (!this.address || this.decodedOnce) return;
    this.decodedOnce = true;
    const address = this.address;
    try {
      const blob = await this.calls.decode();
      if (this.address !== address) return; // another recording by now
      URL.revokeObjectURL(address);
      this.audio.src = this.address = URL.createObjectURL(blob);
      if (this.asked) this.start(); // the user pressed Play before it was there
    } catch (error) {
      if (this.address === address) this.calls.onTrouble(`This recording cannot be played: ${error.message}`);
    }
  }

  get playing() {
    return !this.audio.paused && !this.audio.ended;
  }

  get time() {
    return this.audio.readyState ? this.audio.currentTime : this.wanted;
  }

  play() {
    this.stopAt = Infinity;
    this.start();
  }

  start() {
    this.asked = true;
    if (this.address) this.audio.play().catch(() => {}); // an error event follows, or the user paused at once
  }

  pause() {
    this.asked = false;
    this.audio.pause();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  seek(seconds) {
    this.stopAt = Infinity;
    this.wanted = Math.max(0, seconds);
    if (this.audio.readyState) this.audio.currentTime = this.wanted;
    this.calls.onTime(this.wanted);
  }

  /** Play from one second to another, and stop. */
  playPart(from, to) {
    this.seek(from);
    this.stopAt = to;
    this.start();
  }

  set rate(value) {
    this.audio.defaultPlaybackRate = value;
    this.audio.playbackRate = value;
  }

  tick() {
    if (!this.playing) return;
    this.calls.onTime(this.audio.currentTime);
    if (this.audio.currentTime >= this.stopAt) {
      this.pause();
      this.stopAt = Infinity;
    }
    requestAnimationFrame(() => this.tick());
  }
}
