// One message on the page: a question, or an answer with its thoughts, counts and buttons.

import { copyButton, element } from "./dom.js";
import { Markdown } from "./markdown.js";

/** Shows a message and follows it while it grows. */
export class MessageView {
  #body = element("div", { className: "body" });
  #thoughts = null;
  #foot = element("div", { className: "foot" });
  #markdown;

  constructor(message) {
    this.message = message;
    const label = { "aria-label": message.role === "user" ? "Question" : "Answer" };
    this.node = element("article", { className: message.role, ...label }, this.#body, this.#foot);
    this.#markdown = message.role === "user" ? null : new Markdown(this.#body);
  }

  /** Show it as it is now; `live` while it is made, otherwise with these buttons. */
  update(live, actions = []) {
    const { content, reasoning } = this.message;
    this.node.setAttribute("aria-busy", String(live));
    this.node.classList.toggle("live", live);
    if (reasoning) this.#think(live);
    if (this.#markdown) this.#markdown.show(content);
    else this.#body.textContent = content;
    this.#foot.replaceChildren(...(live ? [] : this.#footing(actions)));
  }

  #think(live) {
    const { content, reasoning, seconds } = this.message;
    const thinking = live && !content;
    if (!this.#thoughts) {
      const body = element("div", { className: "thoughts" });
      const summary = element("summary");
      const details = element("details", { open: thinking }, summary, body);
      this.#thoughts = { details, summary, text: new Markdown(body), thinking };
      this.node.prepend(details);
    }
    if (this.#thoughts.thinking && !thinking) this.#thoughts.details.open = false;
    this.#thoughts.thinking = thinking;
    const took = !(seconds >= 1) ? "Thought briefly" : `Thought for ${duration(seconds)}`;
    this.#thoughts.summary.textContent = thinking ? "Thinking" : took;
    this.#thoughts.text.show(reasoning);
  }

  #footing(actions) {
    const buttons = actions.map(([label, act]) => {
      const button = element("button", { type: "button", className: "text" }, label);
      button.addEventListener("click", act);
      return button;
    });
    const copy = this.message.content ? [copyButton(() => this.message.content)] : [];
    const notes = [this.message.note, describe(this.message.counts)].filter(Boolean);
    const shown = notes.map((note) => element("span", { className: "note" }, note));
    return [...copy, ...buttons, ...shown];
  }
}

function describe(counts) {
  if (!counts) return "";
  const prompt = counts.cached ? `${counts.prompt} (${counts.cached} cached)` : `${counts.prompt}`;
  const speed = counts.perSecond ? ` · ${amount(counts.perSecond)} tokens/s` : "";
  return `${prompt} tokens in · ${counts.answer} out${speed}`;
}

function amount(number) {
  return number < 10 ? number.toFixed(1) : String(Math.round(number));
}

function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
