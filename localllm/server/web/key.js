// The API key, kept for as long as the tab is open, and the question for it.

import { find } from "./dom.js";
import { read, write } from "./storage.js";

const session = () => sessionStorage;
let key = read("key", "", session);
let asking = null;

/** The headers that carry the key. */
export function authorization() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Ask for the key; whether there is another one now. Two who ask at once share one question. */
export function askKey() {
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

async function ask() {
  const dialog = find("key");
  const input = find("key-input");
  find("key-reason").textContent = key
    ? "The server did not accept this key."
    : "This server asks for an API key.";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "given") return false;
  key = input.value.trim();
  write("key", key, session);
  return true;
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  find("key").close("given");
});
find("key-cancel").addEventListener("click", () => find("key").close(""));
