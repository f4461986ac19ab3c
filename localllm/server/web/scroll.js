// Keeps the end in sight while an answer grows, unless the reader has gone elsewhere.

import { find } from "./dom.js";

const NEAR = 48; // pixels from the end that still count as the end
const area = find("scroll");
const button = find("down");
let following = true;

/** To be called when the page has grown. */
export function follow() {
  if (following) area.scrollTop = area.scrollHeight;
  look();
}

/** Go to the end, and stay there. */
export function toEnd() {
  following = true;
  follow();
}

function look() {
  button.hidden = area.scrollHeight - area.scrollTop - area.clientHeight < NEAR;
}

area.addEventListener("scroll", () => {
  look();
  following = button.hidden;
});
button.addEventListener("click", toEnd);
new ResizeObserver(follow).observe(area);
