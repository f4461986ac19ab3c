// Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

/** Takes a stream apart into the data of its events, wherever the pieces are cut. */
export class EventParser {
  #rest = ""; // a line that has not ended
  #data = [];

  /** The data of the events that end in this piece of text. */
  add(text) {
    const events = [];
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) this.#take(line.endsWith("\r") ? line.slice(0, -1) : line, events);
    return events;
  }

  #take(line, events) {
    if (line === "") {
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    } // other fields and comments (keep-alives) mean nothing here
  }
}

/** The data of a response's events, as they arrive. An event that was not ended is dropped. */
export async function* events(body) {
  const parser = new EventParser();
  const decoder = new TextDecoder(); // holds back half a character
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.add(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
