/* Elements made of texts only, and lists that draw the rows in sight and no others. */

/* A new element. Strings become text nodes: no text is ever read as HTML. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

const whole = (value) => value.toLocaleString("en-US");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const fixed = (value, digits) => (value === undefined || value === null ? "" : value.toFixed(digits));

/*
 * A list of any length. `columns`: {title, name, width, value: item => sort key, cell: item => text or node,
 * number, hint, hide}; `open(item)`: Enter or a click. Rows have one height, so that their places are known.
 */
class VirtualList {
  constructor(frame, { label, columns, height = 34, open = null, choose = null, sort = null, down = true, empty = "Nothing here." }) {
    Object.assign(this, { frame, columns, height, open, choose, sort, down, empty });
    this.items = [];
    this.shown = [];
    this.at = -1;
    this.drawn = new Map();
    this.id = `list-${VirtualList.count = (VirtualList.count || 0) + 1}`;
    frame.classList.add("list");
    frame.style.setProperty("--columns", columns.map((column) => column.width).join(" "));
    const narrow = columns.filter((column) => !column.hide).map((column) => column.narrow || column.width);
    frame.style.setProperty("--columns-narrow", narrow.join(" "));
    this.head = el("div", { class: "row head-row" }, ...columns.map((column) => this.title(column)));
    this.space = el("div", { class: "space", role: "presentation" });
    this.box = el("div", { class: "scroll", role: "listbox", tabindex: "0", "aria-label": label, id: this.id }, this.space);
    frame.append(this.head, this.box);
    this.box.addEventListener("scroll", () => this.later());
    this.box.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.later()).observe(this.box);
  }

  title(column) {
    const button = el("button", { type: "button", class: `plain sort ${column.number ? "number" : ""} ${column.hide || ""}`, title: column.hint }, column.title);
    button.addEventListener("click", () => {
      this.down = this.sort === column.name ? !this.down : Boolean(column.number);
      this.sort = column.name;
      this.arrange();
    });
    column.button = button;
    return button;
  }

  set(items) {
    this.items = items;
    this.arrange();
  }

  arrange() {
    const column = this.columns.find(({ name }) => name === this.sort);
    const kept = this.shown[this.at];
    this.shown = [...this.items];
    if (column) {
      const key = column.value;
      const sign = this.down ? -1 : 1;
      this.shown.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        return x < y ? -sign : x > y ? sign : 0;
      });
    }
    for (const { button, name } of this.columns) {
      const state = name === this.sort ? (this.down ? "descending" : "ascending") : "none";
      button.dataset.sort = state;
      button.setAttribute("aria-label", state === "none" ? `Sort by ${button.textContent}` : `${button.textContent}, sorted ${state}`);
    }
    this.at = kept === undefined ? -1 : this.shown.indexOf(kept);
    for (const row of this.drawn.values()) row.remove();
    this.drawn.clear();
    this.space.style.height = `${Math.max(1, this.shown.length) * this.height}px`;
    if (this.at < 0) this.box.scrollTop = 0;
    this.draw();
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 4);
    const last = Math.min(this.shown.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + 4);
    for (const [index, row] of this.drawn) {
      if (index < first || index >= last) {
        row.remove();
        this.drawn.delete(index);
      }
    }
    for (let index = first; index < last; index++) if (!this.drawn.has(index)) this.drawn.set(index, this.row(index));
    if (!this.shown.length && !this.drawn.has(-1)) {
      const row = el("div", { class: "empty" }, this.empty);
      this.space.append(row);
      this.drawn.set(-1, row);
    }
    if (this.drawn.has(this.at)) this.box.setAttribute("aria-activedescendant", `${this.id}-${this.at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(index) {
    const item = this.shown[index];
    const cells = this.columns.map((column) => el("span", { class: `cell ${column.number ? "number" : ""} ${column.hide || ""}` }, column.cell(item)));
    const row = el("div", { class: "row", role: "option", id: `${this.id}-${index}`, "aria-selected": index === this.at ? "true" : "false", "aria-setsize": this.shown.length, "aria-posinset": index + 1 }, ...cells);
    row.style.top = `${index * this.height}px`;
    row.addEventListener("click", () => {
      this.select(index);
      if (this.open) this.open(item);
    });
    this.space.append(row);
    return row;
  }

  select(index, tell = true) {
    if (!this.shown.length) return;
    const at = Math.max(0, Math.min(this.shown.length - 1, index));
    this.drawn.get(this.at)?.setAttribute("aria-selected", "false");
    this.at = at;
    const top = at * this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + this.height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + this.height - this.box.clientHeight;
    this.draw();
    this.drawn.get(at)?.setAttribute("aria-selected", "true");
    if (tell && this.choose) this.choose(this.shown[at]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const moves = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page, Home: 0, End: this.shown.length - 1 };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in moves) this.select(moves[event.key]);
    else if (event.key === "Enter" && this.open && this.at >= 0) this.open(this.shown[this.at]);
    else return;
    event.preventDefault();
  }
}
