// The one conversation: questions and answers in turn, kept in this browser.

import { read, write } from "./storage.js";

// A message is {role, content}; an answer may have `reasoning`, `seconds` (that it reasoned),
// `note` (why it ended early) and `counts` of its tokens.

/** The messages, and what can be done with them. */
export class Conversation {
  #thinking = null; // when the last answer's first thought came

  constructor() {
    const kept = read("conversation", []);
    this.messages = Array.isArray(kept) ? kept.filter(isMessage) : [];
  }

  /** Keep it as it is now. */
  save() {
    write("conversation", this.messages.length ? this.messages : null);
  }

  /** The last message, if there is one. */
  get last() {
    return this.messages.at(-1);
  }

  /** Where the last question stands; -1: there is none. */
  get lastQuestion() {
    return this.messages.findLastIndex((message) => message.role === "user");
  }

  /** Add a message. */
  add(role, content = "") {
    const message = { role, content };
    this.messages.push(message);
    this.#thinking = null;
    return message;
  }

  /** Drop the messages from an index on. */
  cut(index) {
    this.messages.length = index;
  }

  /** Add a chunk of the API to the answer that stands last. */
  extend(chunk) {
    const answer = this.last;
    const choice = chunk.choices?.[0];
    const thought = choice?.delta?.reasoning_content;
    if (thought) {
      this.#thinking ??= performance.now();
      answer.reasoning = (answer.reasoning ?? "") + thought;
      answer.seconds = (performance.now() - this.#thinking) / 1000;
    }
    answer.content += choice?.delta?.content ?? "";
    if (choice?.finish_reason === "length") answer.note = "Cut off: no more tokens were allowed";
    if (chunk.usage) answer.counts = counts(chunk);
  }

  /** What the API is sent: earlier questions only with their answers, so that roles take turns. */
  asked(system) {
    const sent = system ? [{ role: "system", content: system }] : [];
    this.messages.forEach(({ role, content }, index) => {
      const answer = this.messages[index + 1];
      if (role !== "user") return;
      if (answer?.role === "assistant" && answer.content) {
        sent.push({ role, content }, { role: "assistant", content: answer.content });
      } else if (index === this.lastQuestion) {
        sent.push({ role, content });
      }
    });
    return sent;
  }

  /** The whole of it as JSON text, with what it was asked with. */
  exported(model, settings) {
    const document = { exported: new Date().toISOString(), model, settings, messages: this.messages };
    return JSON.stringify(document, null, 2);
  }
}

function isMessage(value) {
  return (value?.role === "user" || value?.role === "assistant") && typeof value.content === "string";
}

function counts({ usage, timings }) {
  return {
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    answer: usage.completion_tokens,
    perSecond: timings?.predicted_per_second ?? null,
  };
}
