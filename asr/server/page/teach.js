// The Teach button: with consent, corrections go to the server, which learns from them.

import { ask } from "./api.js";
import { $, bytes, notice, toast } from "./dom.js";

const ADDRESS = "page-data/teaching";
const LOOK_S = 3;

const WORDS = {
  idle: () => "",
  learning: () => "The server is learning. This takes some minutes; you can go on working.",
  paused: () => "The server is learning, and pauses while it is busy.",
  learnt: (found) => `Learnt. The server recognises with model ${found.current} now.`,
  refused: () => "The last learning was no improvement, so nothing was changed.",
  failed: () => "The last learning has failed.",
};

/** The dialog behind the button. `items()`: what would be sent, a promise of `[{blob, name, language, segments}]`. */
export class Teach {
  constructor(items) {
    this.items = items;
    $("teach").addEventListener("click", () => this.open());
    $("teach-cancel").addEventListener("click", () => $("teach-dialog").close());
    $("teach-forget").addEventListener("click", () => this.forget());
    $("teach-consent").addEventListener("change", () => this.enable());
    $("teach-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("teach-dialog").addEventListener("close", () => clearTimeout(this.timer));
  }

  async open() {
    this.sending = [];
    $("teach-consent").checked = false;
    notice("teach-problem", "");
    $("teach-dialog").showModal();
    try {
      this.sending = await this.items();
      await this.look();
    } catch (error) {
      notice("teach-problem", error.message);
    }
  }

  get count() {
    return this.sending.reduce((sum, item) => sum + item.segments.length, 0);
  }

  enable() {
    $("teach-go").disabled = !this.count || !$("teach-consent").checked;
  }

  async look() {
    clearTimeout(this.timer);
    this.show((await ask("GET", ADDRESS)).response);
    if ($("teach-dialog").open) this.timer = setTimeout(() => this.look().catch((error) => notice("teach-problem", error.message)), LOOK_S * 1000);
  }

  show(found) {
    const { count } = this;
    $("teach-what").textContent = count
      ? `${count} checked or corrected ${count === 1 ? "utterance" : "utterances"}: sound and text.`
      : "Nothing is checked or corrected here. Correct words, or tick paragraphs, first.";
    $("teach-where").textContent = `They are stored on the server in ${found.folder} until somebody deletes them. The model “${found.model}” learns from them, for everybody who uses this server.`;
    const more = Math.max(0, found.least - found.utterances);
    $("teach-stored").textContent = found.utterances
      ? `Stored now: ${found.utterances} ${found.utterances === 1 ? "utterance" : "utterances"}, ${bytes(found.bytes)}.${more ? ` Learning begins with ${found.least}.` : ""}`
      : "Nothing is stored now.";
    $("teach-forget").disabled = !found.utterances && !found.bytes;
    $("teach-state").textContent = WORDS[found.state]?.(found) ?? found.state;
    $("teach-report").textContent = found.message;
    $("teach-report").hidden = !["learnt", "refused", "failed"].includes(found.state);
    this.enable();
  }

  async send() {
    const body = new Blob(this.sending.flatMap(({ blob, name, language, segments }) =>
      [`${JSON.stringify({ name, language, bytes: blob.size, segments })}\n`, blob]));
    $("teach-go").disabled = true;
    try {
      const found = (await ask("POST", `${ADDRESS}?consent=yes`, { body })).response;
      this.sending = [];
      this.show(found);
      $("teach-what").textContent = found.left_out.length ? `Sent. Left out: ${found.left_out.join("; ")}` : "Sent.";
      await this.look();
    } catch (error) {
      notice("teach-problem", `Nothing was stored: ${error.message}`);
      this.enable();
    }
  }

  async forget() {
    try {
      this.show((await ask("DELETE", ADDRESS)).response);
      toast("The server has deleted the corrections. What it has learnt stays until somebody goes back to an older model.", {}, 12);
    } catch (error) {
      notice("teach-problem", `They were not deleted: ${error.message}`);
    }
  }
}
