// All keys of the page in one table, which the help shows and the handler reads.

import { $, make } from "./dom.js";

const SETTING = "asr-single-keys";

export class Keys {
  /** `rows`: `[{keys, does, when, run}]`: keys as `KeyboardEvent.key` in small letters, behind "Ctrl+" and "Shift+";
   * `when(target)` says whether the row counts now. */
  constructor(rows) {
    this.rows = rows;
    this.single = localStorage.getItem(SETTING) !== "off";
    $("single-keys").checked = this.single;
    $("single-keys").addEventListener("change", () => {
      this.single = $("single-keys").checked;
      localStorage.setItem(SETTING, this.single ? "on" : "off");
    });
    $("keys").append(make("dl", {}, ...rows.map(({ keys, does }) =>
      make("div", {}, make("dt", {}, ...keys.flatMap((key, n) => [n ? " " : "", make("kbd", {}, shown(key))])), make("dd", {}, does)))));
    document.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    if (event.defaultPrevented || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const typing = target.matches("input:not([type=checkbox], [type=file]), textarea, select");
    const control = event.ctrlKey || event.metaKey;
    if (typing && !control && event.key !== "Escape") return;
    if (typing && ["z", "y"].includes(event.key.toLowerCase())) return; // the field's own undo
    if (!control && event.key.length === 1 && event.key !== " " && !this.single) return;
    if ([" ", "Enter"].includes(event.key) && target.matches("button, summary, a, input")) return; // they press it
    const shift = event.shiftKey && (event.key.length > 1 || /\p{L}/u.test(event.key));
    const name = (control ? "Ctrl+" : "") + (shift ? "Shift+" : "") + (event.key.length === 1 ? event.key.toLowerCase() : event.key);
    const row = this.rows.find(({ keys, when }) => keys.includes(name) && (!when || when(target)));
    if (!row) return;
    event.preventDefault();
    row.run(event);
  }
}

function shown(key) {
  const names = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };
  return key.split(/(?<=.)\+(?=.)/).map((part) => names[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" + ");
}
