"""The page's modules alone: streams taken apart, Markdown drawn."""

from __future__ import annotations

import json
import re

import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.peer

SPLIT = """async ([text, size]) => {
  const { events } = await import("/web/stream.js");
  const bytes = new TextEncoder().encode(text);
  const { readable, writable } = new TransformStream();
  const writer = writable.getWriter();
  for (let at = 0; at < bytes.length; at += size) writer.write(bytes.slice(at, at + size));
  writer.close();
  const found = [];
  for await (const data of events(readable)) found.push(data);
  return found;
}"""

DRAW = """async (text) => {
  const { Markdown } = await import("/web/markdown.js");
  const target = document.createElement("div");
  document.body.append(target);
  new Markdown(target).show(text);
  const html = target.innerHTML;
  await new Promise((resolve) => setTimeout(resolve));
  target.remove();
  return html;
}"""

GROW = """async (text) => {
  const { Markdown } = await import("/web/markdown.js");
  const target = document.createElement("div");
  const growing = new Markdown(target);
  for (let end = 0; end <= text.length; end += 1) {
    growing.show(text.slice(0, end));
    const fresh = document.createElement("div");
    new Markdown(fresh).show(text.slice(0, end));
    if (!target.isEqualNode(fresh)) return end;
  }
  return null;
}"""

SAMPLE = """# Title

Some **bold *and italic* text**, `code` and [a link](https://example.org/a_(b)).
Second line.

1. one
   - inner
   - more

     ```python
     x = 1

     y = 2
     ```
2. two

> quoted
> - list

| a | b |
|---|--:|
| 1 | 2 |

---
~~~
unclosed
"""


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_wherever_they_are_cut(modules, size, end):
    sent = [json.dumps({"text": "Häuser 東京 🙂"}, ensure_ascii=False), "two\nlines", "", "[DONE]"]
    text = f": a comment{end}{end}event: x{end}"
    for data in sent:
        text += "".join(f"data: {line}{end}" for line in data.split("\n")) + end
    text += f"data:tight{end}{end}data: not ended"
    assert modules.evaluate(SPLIT, [text, size]) == [*sent, "tight"]


@pytest.mark.parametrize(
    "text",
    [
        "plain & <b>bold?</b>\nnext line",
        "**bold** *it* __bold__ _it_ ***both*** ~~gone~~",
        "snake_case_name and 2 * 3 * 4 and **open and _open",
        "**a *b* c** and *a **b** c*",
        "`a ** b` and ``x ` y`` and **`a ** b`** and `open",
        r"\*not it\* \`not code\` \[no](x) back\slash",
        '[text](https://example.org/a?b=c&d) [t](https://e.org/a_(b)) [x](http://e.org/ "Title")',
        "# One\n\n## Two ##hash\n####### seven",
        "* c\n* d",
        "- a\n  - b\n    - c\n- d",
        "3. a\n4. b\n   1. c",
        "text\n- list\n\ntext\n1986. no list",
        "```js\nlet a = 1;\n\n  b\n```\nafter",
        "~~~~\n~~~\nx\n~~~~",
        "> a\n> b\n>\n> - c\n\nafter",
        "a\n\n---\n\n***\n\nb",
        "| a | b |\n|:--|--:|\n| **1** | 2 |\n\nafter",
    ],
)
def test_markdown_as_another_program_draws_it(modules, text):
    other = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    assert _plain(modules.evaluate(DRAW, text)) == _plain(_titled(other.render(text)))


def _plain(html: str) -> str:
    """Without what is the page's own choice, and white space between blocks."""
    html = re.sub(r'<div class="code-head">.*?</div>', "", html)
    html = re.sub(r'<div class="(code|table)"[^>]*>|</div>', "", html)
    html = re.sub(r'<(pre|code|td|th|a href="[^"]*")( [^>]*)>', r"<\1>", html)
    html = re.sub(r"<s>|</s>|<del>|</del>", "~~", html).replace("&quot;", '"')
    html = re.sub(r"<p>|</p>", "\n", html)  # a tight list's items have none
    html = html.replace("<hr />", "<hr>").replace("\n</code>", "</code>")
    html = re.sub(
        r"\s*(</?(?:ul|ol|li|blockquote|table|thead|tbody|tr|th|td|hr|pre|h\d)\b[^>]*>)\s*",
        r"\1",
        html,
    )
    return re.sub(r"\n+", "\n", html).strip()


def _titled(html: str) -> str:
    """The page itself has the two highest headings."""
    return re.sub(r"(</?h)(\d)", lambda m: m[1] + str(min(int(m[2]) + 2, 6)), html)


def test_a_text_that_grows_looks_as_if_drawn_at_once(modules):
    assert modules.evaluate(GROW, SAMPLE) is None


@pytest.mark.parametrize(
    "attack",
    [
        '<img src=x onerror="window.attacked = 1">',
        "<script>window.attacked = 1</script>",
        "<svg/onload='window.attacked=1'>",
        "[click](javascript:window.attacked=1)",
        "[click](JaVaScRiPt:window.attacked=1)",
        "[click](java\tscript:window.attacked=1)",
        "[click](&#106;avascript:window.attacked=1)",
        "[click](data:text/html,<script>window.attacked=1</script>)",
        "[click](vbscript:x) [c](file:///etc/passwd) [c](//example.org) [c](/v1/models)",
        "![image](https://example.org/track.png)",
        "![image](javascript:window.attacked=1)",
        '[<img src=x onerror=window.attacked=1>](https://example.org/"onclick="window.attacked=1)',
        'https://example.org/"onmouseover="window.attacked=1',
        '```"><img src=x onerror=window.attacked=1>\n<script>window.attacked=1</script>\n```',
        "| <img src=x onerror=window.attacked=1> |\n|---|\n| <b onclick=x>1</b> |",
    ],
)
def test_nothing_in_an_answer_acts(modules, attack):
    html = modules.evaluate(DRAW, attack)
    tags = re.findall(r"<([a-z0-9]+)", html)
    assert not {"img", "script", "svg", "b", "iframe"} & set(tags)
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r'"[^"]*"', '""', html))
    for address in re.findall(r'href="([^"]*)"', html):
        assert re.match(r"https?://example\.org/", address)
    assert html.count('rel="noopener noreferrer"') == html.count("<a ")
    assert modules.evaluate("window.attacked") is None


PIECES = ["*", "**a ", "*a_", "`", "`a``", "[", "[a](", "![a](b", "> ", "- ", "  - a\n", "1. ", "|"]
PIECES += ["|-\n", "~~a", "\\", "# ", "```\n", "http://", "***a", "_a ", "> - ", "a\n- b\n  "]


@pytest.mark.parametrize("piece", PIECES)
def test_hostile_texts_end(modules, piece):
    """A step that is not linear would take hours."""
    text = piece * (60_000 // len(piece))
    assert modules.evaluate(DRAW, text) is not None
