// The server's API as the page uses it: the models, and answers piece by piece.

import { askKey, authorization } from "./key.js";
import { events } from "./stream.js";

/** A request that failed. `status` is of HTTP, 0 where the connection was lost. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }

  /** One line for people: what happened, and what to do. */
  get line() {
    if (this.status === 0) return "The connection to the server was lost. Is it still running?";
    if (this.status === 401) return "The server asks for an API key.";
    if (this.status === 503) {
      const wait = this.retryAfter ? ` in ${this.retryAfter} s` : " in a moment";
      return `The server is busy: ${this.message}. Try again${wait}.`;
    }
    if (this.code === "context_length_exceeded") {
      return `The chat is too long: ${this.message}. Begin a new chat, or shorten the question.`;
    }
    return this.message;
  }
}

/** The models that can be asked: `[{id, context_length}]`. */
export async function listModels() {
  const response = await request("v1/models", { cache: "no-store" });
  return (await response.json()).data;
}

/** The chunks of an answer. Aborting `signal` ends it, here and on the server. */
export async function* answer(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 500, chunk.error.code);
      yield chunk;
    }
  } catch (error) {
    throw error instanceof ApiError ? error : lost(error);
  }
  throw lost();
}

/** A response that succeeded; where a key is wanted, it is asked for until one fits. */
async function request(path, options) {
  for (;;) {
    const headers = { ...options.headers, ...authorization() };
    const response = await fetch(path, { ...options, headers }).catch((error) => {
      throw lost(error);
    });
    if (response.ok) return response;
    if (response.status === 401 && (await askKey())) continue;
    throw await failure(response);
  }
}

async function failure(response) {
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `the server answered ${response.status}`;
  return new ApiError(message, response.status, error?.code, response.headers.get("Retry-After"));
}

function lost(cause) {
  return new ApiError(cause?.message ?? "the answer broke off");
}
