// Takes Markdown apart into blocks: plain objects, to be drawn by markdown.js. The text is a model's:
// every step is linear in its length, and nesting ends at a depth.

const DEEPEST = 6;
const FENCE = /^(\s*)(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])(?:\s+(.*))?$/;
const DELIMITER = /^:?-+:?$/; // a cell between a table's head and its body

/** The blocks of a text: `{kind, ...}`. A fence or a table that has not ended yet is one already. */
export function blocks(text) {
  return parse(text.replaceAll("\r\n", "\n").split("\n"), 0);
}

function parse(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (blank(lines[at])) {
      at += 1;
      continue;
    }
    const take = beginning(lines, at, depth) ?? paragraph;
    const [block, next] = take(lines, at, depth);
    found.push(block);
    at = next;
  }
  return found;
}

/** What reads the block that begins at a line; null where it is a paragraph. */
function beginning(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return fence;
  if (HEADING.test(line)) return heading;
  if (RULE.test(line)) return rule;
  if (depth < DEEPEST && QUOTE.test(line)) return quote;
  if (depth < DEEPEST && ITEM.test(line)) return list;
  return isTable(lines, at) ? table : null;
}

// Each of these takes the lines, where to begin and how deep it is; it gives the block and the line
// after it.

function paragraph(lines, at, depth) {
  let next = at + 1;
  while (next < lines.length && !blank(lines[next]) && !interrupts(lines, next, depth)) next += 1;
  const text = lines.slice(at, next).map((line) => line.trim()).join("\n");
  return [{ kind: "paragraph", text }, next];
}

/** Whether a block begins in the middle of a paragraph. "1986. A good year" begins none. */
function interrupts(lines, at, depth) {
  const item = ITEM.exec(lines[at]);
  if (item && (item[3] === undefined || (item[2] ?? "1") !== "1")) return false;
  return beginning(lines, at, depth) !== null;
}

function heading(lines, at) {
  const [, marks, text] = HEADING.exec(lines[at]);
  return [{ kind: "heading", level: marks.length, text: text.trim() }, at + 1];
}

function rule(lines, at) {
  return [{ kind: "rule" }, at + 1];
}

function fence(lines, at) {
  const [, indent, marks, info] = FENCE.exec(lines[at]);
  const closed = (line) => {
    const text = line.trim();
    return text.length >= marks.length && text === marks[0].repeat(text.length);
  };
  let next = at + 1;
  while (next < lines.length && !closed(lines[next])) next += 1;
  const text = lines.slice(at + 1, next).map((line) => outdent(line, width(indent))).join("\n");
  const language = info.trim().split(/\s/, 1)[0];
  return [{ kind: "code", language, text }, next + 1];
}

function quote(lines, at, depth) {
  const inner = [];
  let next = at;
  for (let match; next < lines.length && (match = QUOTE.exec(lines[next])); next += 1) {
    inner.push(match[1]);
  }
  return [{ kind: "quote", blocks: parse(inner, depth + 1) }, next];
}

function list(lines, at, depth) {
  const [, lead, number] = ITEM.exec(lines[at]);
  const indent = width(lead);
  const items = [];
  let inside = 0; // where the item's own text begins
  let next = at;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const item = ITEM.exec(line);
    if (!blank(line) && width(line) > indent + (item ? 1 : 0)) {
      items.at(-1).push(outdent(line, inside));
    } else if (item && !RULE.test(line) && (item[2] === undefined) === (number === undefined)) {
      items.push([item[3] ?? ""]);
      inside = item[3] ? line.length - item[3].length : width(line) + 2;
    } else if (blank(line)) {
      items.at(-1).push("");
    } else {
      break;
    }
  }
  const start = number === undefined ? null : Number(number);
  return [{ kind: "list", start, items: items.map((item) => parse(item, depth + 1)) }, next];
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || !lines[at + 1]?.includes("-")) return false;
  const delimiters = cells(lines[at + 1]);
  return delimiters.length === cells(lines[at]).length && delimiters.every((c) => DELIMITER.test(c));
}

function table(lines, at) {
  const head = cells(lines[at]);
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|"); next += 1) {
    const row = cells(lines[next]);
    rows.push(head.map((_, column) => row[column] ?? ""));
  }
  const align = cells(lines[at + 1]).map((mark) =>
    mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left",
  );
  return [{ kind: "table", head, rows, align }, next];
}

/** The cells of a table's row: `| a | b |` or `a | b`; `\|` is no border. */
function cells(line) {
  const parts = line.trim().replaceAll("\\|", "\0").split("|");
  if (parts[0].trim() === "") parts.shift();
  if (parts.length && parts.at(-1).trim() === "") parts.pop();
  return parts.map((part) => part.replaceAll("\0", "|").trim());
}

function blank(line) {
  return line.trim() === "";
}

/** Columns of white space that a line begins with; a tab counts four. */
function width(line) {
  let columns = 0;
  for (const character of line) {
    if (character === "\t") columns += 4;
    else if (character === " ") columns += 1;
    else break;
  }
  return columns;
}

/** The line without so many columns of the white space that it begins with. */
function outdent(line, columns) {
  let at = 0;
  for (let left = columns; left > 0 && (line[at] === " " || line[at] === "\t"); at += 1) {
    left -= line[at] === "\t" ? 4 : 1;
  }
  return line.slice(at);
}
