// Which model is asked.

import { listModels } from "./api.js";
import { element, find } from "./dom.js";
import { read, write } from "./storage.js";

const picker = find("model");
let contexts = {}; // tokens that each model holds

/** Ask the server which models there are; the one that was chosen before stays chosen. */
export async function loadModels() {
  const models = await listModels();
  const names = models.map(({ id }) => id);
  const chosen = [picker.value, read("model", "")].find((name) => names.includes(name)) ?? names[0];
  contexts = Object.fromEntries(models.map(({ id, context_length }) => [id, context_length]));
  picker.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  picker.value = chosen;
  picker.disabled = names.length < 2;
}

/** The chosen model's name; empty while none is known. */
export function chosenModel() {
  return picker.value;
}

/** The tokens that it holds, where the server tells. */
export function contextLength() {
  return contexts[picker.value];
}

/** Call this when another one is chosen. */
export function whenChosen(act) {
  picker.addEventListener("change", () => {
    write("model", picker.value);
    act();
  });
}
