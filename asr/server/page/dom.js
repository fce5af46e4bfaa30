// Elements are made here, and texts always become text nodes: nothing is ever parsed as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `dataset`, `aria-…`, `on…` and others) and children: elements or texts. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** 75.3 → "1:15"; from an hour on "1:01:15". */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds || 0));
  const rest = `${String(Math.floor(whole / 60) % 60).padStart(whole < 3600 ? 1 : 2, "0")}:${String(whole % 60).padStart(2, "0")}`;
  return whole < 3600 ? rest : `${Math.floor(whole / 3600)}:${rest}`;
}

export function bytes(count) {
  if (count < 1e6) return `${Math.max(1, Math.round(count / 1e3))} kB`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(1)} GB`;
}

/** A short message at the bottom, with buttons `{label: action}`; it goes after `seconds`, and `gone()` is called. */
export function toast(message, buttons = {}, seconds = 8, gone = null) {
  const element = make("div", { class: "toast" }, make("span", {}, message));
  let open = true;
  const close = (expired) => {
    if (!open) return;
    open = false;
    clearTimeout(timer);
    element.remove();
    if (expired && gone) gone();
  };
  for (const [label, action] of Object.entries(buttons)) {
    element.append(make("button", { type: "button", onclick: () => { close(false); action(); } }, label));
  }
  element.append(make("button", { type: "button", "aria-label": "Dismiss", onclick: () => close(true) }, icon("close")));
  const timer = setTimeout(() => close(true), seconds * 1000);
  $("toasts").append(element);
  while ($("toasts").children.length > 3) $("toasts").firstElementChild.querySelector("[aria-label=Dismiss]").click();
  return () => close(true);
}

/** Show a notice, or hide it if the message is empty. */
export function notice(id, message, button = null) {
  const element = $(id);
  element.replaceChildren(...(message ? [message] : []), ...(button ? [button] : []));
  element.hidden = !message;
}

/** Save a Blob as a file of this name. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
