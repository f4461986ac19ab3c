// What the browser keeps. A browser that keeps nothing (private windows, a full disk) is fine too.

/** The value kept under a name, or `otherwise`. */
export function read(name, otherwise, store = () => localStorage) {
  try {
    return JSON.parse(store().getItem(`localllm.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keep a value; `null` forgets it. */
export function write(name, value, store = () => localStorage) {
  try {
    if (value === null) store().removeItem(`localllm.${name}`);
    else store().setItem(`localllm.${name}`, JSON.stringify(value));
  } catch {
    // Then it lasts as long as the page.
  }
}
