// What every question is asked with: kept in this browser, empty where the model's own value holds.

import { find } from "./dom.js";
import { read, write } from "./storage.js";

const form = find("settings-form");
const fields = [...form.elements].filter((field) => field.name);

/** The values that are set and possible: `{system, temperature, ...}`. */
export function settings() {
  const values = {};
  for (const field of fields) {
    if (field.value.trim() === "" || !field.validity.valid) continue;
    values[field.name] = field.type === "number" ? field.valueAsNumber : field.value;
  }
  return values;
}

/** Show the values kept from before, and keep what is changed. */
export function restoreSettings() {
  fill(read("settings", {}));
  form.addEventListener("input", () => write("settings", settings()));
  find("reset").addEventListener("click", () => {
    fill({});
    write("settings", null);
  });
  const dialog = find("settings");
  find("open-settings").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
}

function fill(values) {
  for (const field of fields) field.value = values[field.name] ?? "";
}
