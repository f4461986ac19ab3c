// Markdown inside a line: code, bold, italics, struck out, links.

import { element } from "./dom.js";

const DEEPEST = 6;
const ESCAPED = /[!-/:-@[-`{-~]/;
const LINK = /!?\[([^[\]]{0,300})\]\(\s*([^\s()<>]{0,1000}(?:\([^\s()<>]{0,300}\)[^\s()<>]{0,300})?)(?:\s+"[^"]{0,300}")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"`]{1,2000}/y;
const TAGS = { "**": ["strong"], __: ["strong"], "*": ["em"], _: ["em"], "***": ["strong", "em"], "~~": ["del"] };

/** The nodes of a text. */
export function inline(text, depth = 0) {
  return new Inline(text, depth).nodes();
}

/** A link's address as a browser may open it, or null: only http and https. */
export function safeAddress(text) {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

class Inline {
  #made = [];
  #plain = ""; // what was read and is no markup
  #at = 0;
  #unclosed = new Set(); // marks that end nowhere in the rest: not looked for again

  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
  }

  nodes() {
    while (this.#at < this.text.length) {
      if (!this.#markup()) this.#plain += this.text[this.#at++];
    }
    this.#flush();
    return this.#made;
  }

  #markup() {
    const character = this.text[this.#at];
    if (character === "\\") return this.#escape();
    if (character === "`") return this.#code();
    if (character === "[" || character === "!") return this.#link();
    if (character === "h") return this.#address();
    if ("*_~".includes(character)) return this.#emphasis();
    return false;
  }

  #escape() {
    const next = this.text[this.#at + 1] ?? "";
    if (!ESCAPED.test(next)) return false;
    this.#plain += next;
    this.#at += 2;
    return true;
  }

  #code() {
    const marks = run(this.text, this.#at);
    const begin = this.#at + marks.length;
    const end = this.#find(marks, () => {
      for (let at = this.text.indexOf(marks, begin); at >= 0; at = this.text.indexOf(marks, at)) {
        const found = run(this.text, at).length;
        if (found === marks.length) return at;
        at += found;
      }
      return -1;
    });
    if (end < 0) return this.#literally(marks);
    const inner = this.text.slice(begin, end).replaceAll("\n", " ");
    const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
    this.#push(element("code", {}, padded ? inner.slice(1, -1) : inner), end + marks.length);
    return true;
  }

  #link() {
    LINK.lastIndex = this.#at;
    const match = LINK.exec(this.text);
    const address = match && safeAddress(match[2]);
    if (!address) return false;
    const label = this.depth < DEEPEST ? inline(match[1], this.depth + 1) : [match[1]];
    this.#push(link(address, ...(match[1] ? label : [address])), LINK.lastIndex);
    return true;
  }

  #address() {
    ADDRESS.lastIndex = this.#at;
    if (/\w/.test(this.text[this.#at - 1] ?? "")) return false;
    const match = ADDRESS.exec(this.text);
    const shown = match && match[0].replace(/[.,;:!?'*_~)\]}]{1,10}$/, "");
    const address = match && safeAddress(shown);
    if (!address) return false;
    this.#push(link(address, shown), this.#at + shown.length);
    return true;
  }

  #emphasis() {
    const marks = run(this.text, this.#at);
    const begin = this.#at + marks.length;
    const follows = this.text[begin] ?? " ";
    const within = marks[0] === "_" && /\w/.test(this.text[this.#at - 1] ?? "");
    if (!TAGS[marks] || /\s/.test(follows) || within || this.depth >= DEEPEST) {
      return this.#literally(marks);
    }
    const end = this.#find(marks, () => this.#closing(marks, begin));
    if (end < 0) return this.#literally(marks);
    let children = inline(this.text.slice(begin, end), this.depth + 1);
    for (const tag of TAGS[marks]) children = [element(tag, {}, ...children)];
    this.#push(children[0], end + marks.length);
    return true;
  }

  /** Where the text that these marks began ends, or -1. Marks within code are none. */
  #closing(marks, begin) {
    for (let at = begin; at < this.text.length; ) {
      const character = this.text[at];
      if (character === "\\") {
        at += 2;
      } else if (character === "`" || character === marks[0]) {
        const found = run(this.text, at);
        const after = at + found.length;
        const closes = found.length === marks.length || found.length === 3;
        const word = marks[0] === "_" && /\w/.test(this.text[after] ?? "");
        if (character === "`") {
          const end = this.text.indexOf(found, after);
          at = end < 0 ? after : end + found.length;
        } else if (closes && !word && at > begin && !/\s/.test(this.text[at - 1])) {
          return after - marks.length;
        } else {
          at = after;
        }
      } else {
        at += 1;
      }
    }
    return -1;
  }

  #find(marks, search) {
    const end = this.#unclosed.has(marks) ? -1 : search();
    if (end < 0) this.#unclosed.add(marks);
    return end;
  }

  #literally(marks) {
    this.#plain += marks;
    this.#at += marks.length;
    return true;
  }

  #push(node, next) {
    this.#flush();
    this.#made.push(node);
    this.#at = next;
  }

  #flush() {
    if (this.#plain) this.#made.push(document.createTextNode(this.#plain));
    this.#plain = "";
  }
}

function link(href, ...children) {
  return element("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

/** The same character, as often as it stands there. */
function run(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end += 1;
  return text.slice(at, end);
}
