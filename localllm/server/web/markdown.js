// Draws Markdown as elements, and draws again only what has changed.

import { blocks } from "./blocks.js";
import { copyButton, element } from "./dom.js";
import { inline } from "./inline.js";

/** A text in an element, which may grow: a block that stays the same keeps its element. */
export class Markdown {
  #drawn = []; // what each child of the element was drawn from

  constructor(target) {
    this.target = target;
  }

  /** Show this text. */
  show(text) {
    const wanted = blocks(text);
    wanted.forEach((block, index) => {
      const source = JSON.stringify(block);
      if (this.#drawn[index] === source) return;
      const node = draw(block);
      if (index < this.#drawn.length) this.target.children[index].replaceWith(node);
      else this.target.append(node);
      this.#drawn[index] = source;
    });
    while (this.#drawn.length > wanted.length) {
      this.target.lastElementChild.remove();
      this.#drawn.pop();
    }
  }
}

const DRAWING = {
  paragraph: ({ text }) => element("p", {}, ...inline(text)),
  heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, {}, ...inline(text)),
  rule: () => element("hr"),
  quote: ({ blocks }) => element("blockquote", {}, ...blocks.map(draw)),
  code,
  list,
  table,
};

function draw(block) {
  return DRAWING[block.kind](block);
}

function code({ language, text }) {
  const head = element("div", { className: "code-head" }, language || "text", copyButton(() => text));
  const body = element("pre", { tabIndex: 0 }, element("code", {}, text));
  return element("div", { className: "code" }, head, body);
}

function list({ start, items }) {
  const children = items.map((item) => element("li", {}, ...item.map(draw)));
  if (start === null) return element("ul", {}, ...children);
  return element("ol", start === 1 ? {} : { start }, ...children);
}

function table({ head, rows, align }) {
  const row = (tag, cells) => {
    const made = cells.map((text, i) => element(tag, { className: align[i] }, ...inline(text)));
    return element("tr", {}, ...made);
  };
  const body = rows.map((cells) => row("td", cells));
  const made = element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, ...body));
  return element("div", { className: "table", tabIndex: 0 }, made);
}
