// The field for questions, with its buttons to send and to stop.

import { find } from "./dom.js";

/** What is typed; `send(text, edited)` and `stop()` are called when that is wanted. */
export class Composer {
  #field = find("question");
  #draft = null; // what was typed before an earlier question was edited
  #running = false;
  #model = "";

  constructor({ send, stop }) {
    this.#field.addEventListener("input", () => this.#fit());
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send(send);
    });
    find("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(send);
    });
    find("stop").addEventListener("click", () => {
      stop();
      this.focus();
    });
    find("cancel-edit").addEventListener("click", () => this.#cancelEdit());
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
      if (this.#running) stop();
      else if (this.#editing) this.#cancelEdit();
    });
  }

  /** Change an earlier question: sending it then replaces that one. */
  edit(text) {
    this.#draft ??= this.#field.value;
    find("editing").hidden = false;
    this.#set(text);
    this.focus();
  }

  /** Empty the field; nothing is edited any more. */
  clear() {
    this.#draft = null;
    find("editing").hidden = true;
    this.#set("");
  }

  /** Type here. */
  focus() {
    this.#field.focus();
  }

  /** Show the buttons for the moment: whether an answer is under way, and the model that is asked. */
  update(running, model) {
    this.#running = running;
    this.#model = model;
    this.#field.placeholder = model ? `Ask ${model}` : "";
    find("stop").hidden = !running;
    find("send").hidden = running;
    this.#fit();
  }

  get #editing() {
    return this.#draft !== null;
  }

  get #text() {
    return this.#field.value.trim();
  }

  #send(send) {
    if (!this.#text || this.#running || !this.#model) return;
    const [text, edited] = [this.#text, this.#editing];
    this.clear();
    send(text, edited);
  }

  #cancelEdit() {
    const draft = this.#draft;
    this.clear();
    this.#set(draft);
    this.focus();
  }

  #set(text) {
    this.#field.value = text;
    this.#fit();
  }

  /** Let the field be as high as its text, and sent only if there is some. */
  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
    find("send").disabled = !this.#text || !this.#model;
  }
}
