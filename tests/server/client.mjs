// The official Node client against the server at LOCALLLM_URL; test_clients.py runs it. What it finds
// wrong ends it with a message.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(process.env.LOCALLLM_NODE_MODULES + "/").resolve("openai");
const { OpenAI } = await import(pathToFileURL(found).href);

const client = new OpenAI({ baseURL: process.env.LOCALLLM_URL + "/v1", apiKey: "any", maxRetries: 0 });
const model = "tiny-chat";
const messages = [{ role: "user", content: "What is 12 + 30?" }];
const weather = [{ role: "user", content: "What is the weather in Paris?" }];
const greedy = { model, messages, temperature: 0, max_tokens: 40 };
const location = {
  type: "object",
  properties: { location: { type: "string", maxLength: 20 } },
  required: ["location"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "get_weather", parameters: location } };
const schema = {
  type: "object",
  properties: { sum: { enum: [41, 42] } },
  required: ["sum"],
  additionalProperties: false,
};

const checks = {
  async models() {
    const names = [];
    for await (const one of client.models.list()) names.push(one.id);
    assert.deepEqual(names, [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async chat() {
    const answer = await client.chat.completions.create({ ...greedy, seed: 1, stop: ["#"], user: "u" });
    assert.match(answer.choices[0].message.content, /^12 \+ 30/);
    assert.equal(answer.choices[0].finish_reason, "stop");
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
    assert.equal(prompt_tokens + completion_tokens, total_tokens);
  },

  async stream() {
    const whole = (await client.chat.completions.create(greedy)).choices[0].message.content;
    const asked = { ...greedy, stream: true, stream_options: { include_usage: true } };
    let text = "";
    let last;
    for await (const chunk of await client.chat.completions.create(asked)) {
      text += chunk.choices[0]?.delta.content ?? "";
      last = chunk;
    }
    assert.equal(text, whole);
    assert.deepEqual(last.choices, []);
    assert.ok(last.usage.completion_tokens > 0);
  },

  async "an answer is left half read"() {
    const stream = await client.chat.completions.create({ ...greedy, max_tokens: 400, stream: true });
    for await (const _ of stream) break;
  },

  async "the tools are run by the client"() {
    const named = { name: "get_weather", parameters: location, parse: JSON.parse };
    for (const stream of [false, true]) {
      const places = [];
      const called = (given) => places.push(given.location) && { weather: "sunny" };
      const tools = [{ type: "function", function: { ...named, function: called } }];
      const asked = { ...greedy, messages: weather, tools, stream };
      const text = await client.chat.completions.runTools(asked).finalContent();
      assert.deepEqual(places, ["Paris"]);
      assert.match(text, /sunny/);
    }
  },

  async "a call is demanded"() {
    const asked = { ...greedy, messages: weather, tools: [tool], parallel_tool_calls: false };
    for (const tool_choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
      const stream = client.chat.completions.stream({ ...asked, tool_choice });
      const [choice] = (await stream.finalChatCompletion()).choices;
      assert.equal(choice.finish_reason, "tool_calls");
      assert.equal(choice.message.tool_calls.length, 1);
      assert.deepEqual(JSON.parse(choice.message.tool_calls[0].function.arguments), { location: "Paris" });
    }
  },

  async "a JSON schema"() {
    const response_format = { type: "json_schema", json_schema: { name: "sum", strict: true, schema } };
    const parsed = await client.chat.completions.parse({ ...greedy, response_format });
    assert.ok([41, 42].includes(parsed.choices[0].message.parsed.sum));
    const text = await client.chat.completions.stream({ ...greedy, response_format }).finalContent();
    assert.ok([41, 42].includes(JSON.parse(text).sum));
  },

  async "logprobs of several answers"() {
    const asked = { ...greedy, n: 2, max_tokens: 5, logprobs: true, top_logprobs: 2 };
    const whole = await client.chat.completions.create(asked);
    const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
    for (const answer of [whole, streamed]) {
      assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
      for (const choice of answer.choices) {
        assert.equal(choice.logprobs.content.length, 5);
        assert.equal(choice.logprobs.content.map((one) => one.token).join(""), choice.message.content);
        for (const one of choice.logprobs.content) assert.equal(one.top_logprobs.length, 2);
      }
    }
  },

  async completions() {
    const asked = { model, prompt: "Once upon", max_tokens: 4, temperature: 0, echo: true, logprobs: 1 };
    const [choice] = (await client.completions.create(asked)).choices;
    assert.ok(choice.text.startsWith("Once upon"));
    assert.equal(choice.logprobs.tokens.join(""), choice.text);
    let text = "";
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      text += chunk.choices[0].text;
    }
    assert.equal(text, choice.text);
  },

  async "embeddings as base64 and as numbers"() {
    const input = ["a cat", "a dog"];
    const coded = await client.embeddings.create({ model, input });
    const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
    for (const [at, { embedding }] of plain.data.entries()) {
      assert.equal(embedding.length, coded.data[at].embedding.length);
      const error = embedding.map((value, place) => Math.abs(value - coded.data[at].embedding[place]));
      assert.ok(Math.max(...error) < 1e-6);
    }
  },

  async responses() {
    const asked = { model, input: messages, temperature: 0 };
    const whole = await client.responses.create(asked);
    assert.match(whole.output_text, /^12 \+ 30/);
    const stream = client.responses.stream(asked);
    let text = "";
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    assert.equal(text, whole.output_text);
    assert.equal((await stream.finalResponse()).usage.output_tokens, whole.usage.output_tokens);
    const format = { type: "json_schema", name: "sum", strict: true, schema };
    const parsed = await client.responses.parse({ ...asked, text: { format } });
    assert.ok([41, 42].includes(parsed.output_parsed.sum));
  },

  async "what is left open is null"() {
    const names = ["n", "stream", "stop", "tools", "tool_choice", "response_format", "logprobs"];
    names.push("top_logprobs", "parallel_tool_calls", "stream_options", "seed", "logit_bias");
    const nulls = Object.fromEntries(names.map((name) => [name, null]));
    const answer = await client.chat.completions.create({ ...greedy, ...nulls });
    assert.equal(answer.choices.length, 1);
  },

  async errors() {
    const ask = (changes) => client.chat.completions.create({ ...greedy, ...changes });
    await assert.rejects(ask({ model: "gpt-9" }), OpenAI.NotFoundError);
    await assert.rejects(ask({ nonsense: 1 }), (error) => {
      return error instanceof OpenAI.BadRequestError && error.param === "nonsense";
    });
    const long = [{ role: "user", content: "word ".repeat(2000) }];
    await assert.rejects(ask({ messages: long, stream: true }), (error) => {
      return error.status === 400 && error.code === "context_length_exceeded";
    });
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    process.exitCode = 1;
  }
}
