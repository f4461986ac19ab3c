// The page: what is asked and clicked becomes questions, and answers are shown as they come.

import { answer, ApiError } from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { element, find } from "./dom.js";
import { MessageView } from "./message.js";
import { chosenModel, contextLength, loadModels, whenChosen } from "./models.js";
import { follow, toEnd } from "./scroll.js";
import { restoreSettings, settings } from "./settings.js";

const conversation = new Conversation();
const composer = new Composer({ send, stop });
let views = [];
let running = null; // the answer under way: {controller, done}

async function begin() {
  hideProblem();
  try {
    await loadModels();
  } catch (error) {
    showProblem(error, begin);
  }
  show();
}

// -- What can be done

function send(text, edited) {
  if (edited) conversation.cut(conversation.lastQuestion);
  conversation.add("user", text);
  ask();
}

/** Answer the last question, anew if it was answered before. */
function ask() {
  if (running) return;
  conversation.cut(conversation.lastQuestion + 1);
  running = { controller: new AbortController() };
  running.done = receive(running.controller.signal);
}

async function stop() {
  running?.controller.abort();
  await running?.done;
}

async function clear() {
  await stop();
  conversation.cut(0);
  conversation.save();
  composer.clear();
  composer.focus();
  hideProblem();
  show();
}

function download() {
  const text = conversation.exported(chosenModel(), settings());
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href, download: `chat-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

// -- The answer under way

async function receive(signal) {
  const { system, ...sampling } = settings();
  const request = { model: chosenModel(), messages: conversation.asked(system), ...sampling };
  const message = conversation.add("assistant");
  hideProblem();
  show();
  toEnd();
  let problem = null;
  try {
    for await (const chunk of answer(request, signal)) {
      conversation.extend(chunk);
      draw();
    }
  } catch (error) {
    problem = signal.aborted ? null : error;
    if (message.content || message.reasoning) message.note = problem ? "Broken off" : "Stopped";
    else conversation.cut(conversation.lastQuestion + 1);
  }
  running = null;
  conversation.save();
  if (problem) showProblem(problem, ask);
  show();
}

let drawing = false;

/** Show what has come of the answer, at most once a frame. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (running) views.at(-1)?.update(true);
    follow();
  });
}

// -- What is shown

/** Show everything as it is now. */
function show() {
  const { messages } = conversation;
  views = messages.map((message) => {
    const view = views.find((known) => known.message === message) ?? new MessageView(message);
    view.update(running !== null && message === conversation.last, actions(message));
    return view;
  });
  const nodes = views.map((view) => view.node);
  for (const node of [...find("log").children]) if (!nodes.includes(node)) node.remove();
  find("log").append(...nodes.filter((node) => !node.isConnected));
  find("welcome").hidden = messages.length > 0;
  find("new").disabled = find("export").disabled = messages.length === 0;
  showUsed();
  composer.update(running !== null, chosenModel());
  follow();
}

/** The buttons of a message, besides the one that copies it: `[label, what it does]`. */
function actions(message) {
  const found = [];
  if (running) return found;
  const question = conversation.messages[conversation.lastQuestion];
  if (message === question) found.push(["Edit", () => composer.edit(message.content)]);
  if (message === conversation.last && !find("problem").hasChildNodes()) {
    found.push([message === question ? "Ask again" : "Regenerate", ask]);
  }
  return found;
}

function showUsed() {
  const counts = conversation.last?.counts;
  const used = counts ? counts.prompt + counts.answer : 0;
  const context = contextLength();
  const numbers = [used, context].map((number) => number?.toLocaleString("en"));
  find("used").textContent = used && context ? `${numbers.join(" of ")} tokens` : "";
  find("used").classList.toggle("nearly-full", used > 0.9 * context);
}

function showProblem(error, again) {
  const known = error instanceof ApiError;
  if (!known) console.error(error);
  const line = known ? error.line : `The page failed: ${error.message}`;
  const button = element("button", { type: "button", className: "text" }, "Try again");
  button.addEventListener("click", again);
  find("problem").replaceChildren(element("p", {}, element("span", {}, line), button));
}

function hideProblem() {
  find("problem").replaceChildren();
}

find("new").addEventListener("click", clear);
find("export").addEventListener("click", download);
addEventListener("pagehide", () => {
  if (running) conversation.save(); // otherwise it is kept already, perhaps changed by another tab
});
whenChosen(show);
restoreSettings();
show();
composer.focus();
begin();
