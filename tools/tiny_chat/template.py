"""The chat template of tiny-chat (ChatML), and the same rendering in Python for training.

A message is {"role": ..., "content": ...}; an assistant message may instead carry
"tool_calls": [{"name": ..., "arguments": {...}}].
"""

from __future__ import annotations

import json

TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def _jinja_string(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


CHAT_TEMPLATE = (
    """{%- set has_system = messages and messages[0].role == 'system' %}
{%- if tools or has_system %}
    {{- '<|im_start|>system\\n' }}
    {%- if has_system %}
        {{- messages[0].content }}
    {%- endif %}
    {%- if tools %}
        {%- if has_system %}
            {{- '\\n\\n' }}
        {%- endif %}
        {{- TOOLS_BEFORE }}
        {%- for tool in tools %}
            {{- '\\n' }}
            {{- tool | tojson }}
        {%- endfor %}
        {{- TOOLS_AFTER }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {%- if call.arguments is string %}
                {{- call.arguments }}
            {%- else %}
                {{- call.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""".replace("TOOLS_BEFORE", _jinja_string(TOOLS_BEFORE))
    .replace("TOOLS_AFTER", _jinja_string(TOOLS_AFTER))
    .rstrip("\n")
)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def call_text(name: str, arguments: dict) -> str:
    """A call as the model writes it."""
    inner = f'{{"name": "{name}", "arguments": {_json(arguments)}}}'
    return f"<tool_call>\n{inner}\n</tool_call>"


def render(
    messages: list[dict], tools: list[dict] | None = None, add_generation_prompt: bool = False
) -> list[tuple[str, bool]]:
    """The pieces of the rendered chat in order, each with True where the model speaks.

    Joined, the pieces equal the rendering of CHAT_TEMPLATE. The model speaks the content of the
    assistant's turns and the <|im_end|> that closes them.
    """
    pieces: list[tuple[str, bool]] = []
    has_system = bool(messages) and messages[0]["role"] == "system"
    if tools or has_system:
        system = messages[0]["content"] if has_system else ""
        if tools:
            listed = "".join("\n" + _json(tool) for tool in tools)
            system += ("\n\n" if has_system else "") + TOOLS_BEFORE + listed + TOOLS_AFTER
        pieces.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    rest = messages[1:] if has_system else messages
    for index, message in enumerate(rest):
        role = message["role"]
        if role == "tool":
            first = index == 0 or rest[index - 1]["role"] != "tool"
            last = index == len(rest) - 1 or rest[index + 1]["role"] != "tool"
            text = "<|im_start|>user" if first else ""
            text += f"\n<tool_response>\n{message['content']}\n</tool_response>"
            pieces.append((text + ("<|im_end|>\n" if last else ""), False))
        elif role == "assistant":
            calls = [call_text(c["name"], c["arguments"]) for c in message.get("tool_calls", [])]
            said = [message["content"]] if message.get("content") or not calls else []
            pieces.append(("<|im_start|>assistant\n", False))
            pieces.append(("\n".join(said + calls) + "<|im_end|>", True))
            pieces.append(("\n", False))
        else:
            pieces.append((f"<|im_start|>{role}\n{message['content']}<|im_end|>\n", False))
    if add_generation_prompt:
        pieces.append(("<|im_start|>assistant\n", False))
    return pieces


def render_text(
    messages: list[dict], tools: list[dict] | None = None, add_generation_prompt: bool = False
) -> str:
    """The rendered chat as one string."""
    return "".join(text for text, _ in render(messages, tools, add_generation_prompt))
