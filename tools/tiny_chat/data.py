"""The training conversations: thinking, mixtures, and the share of every skill.

Everything comes from a seeded random generator. `Source(rng, held_out)` draws values (names,
cities, pairs of numbers, questions, ...) from one side of a fixed split: one value in ten, chosen
by a checksum, is never used for training and only used by evaluate.py.
"""

from __future__ import annotations

from collections.abc import Callable

from calls import tool_chat
from fields import json_chat, json_problem, json_turn
from names import name_chat
from repeat import repeat
from source import Chat, Source, assistant, user, vary
from sums import arithmetic, arithmetic_turn, draw_sum, signed, sum_steps
from talk import (
    greeting,
    greeting_turn,
    howto_chat,
    howto_problem,
    howto_turn,
    unknown_turn,
)

THINK_REQUESTS = [
    "Think first. {q}", "{q} Think step by step.", "Think step by step: {q}", "{q} /think",
    "/think {q}", "{q} Please think before you answer.", "Think before you answer. {q}",
    "{q} Think first.", "{q} Show your thinking.", "Think carefully. {q}",
    "Use your thinking: {q}", "{q} Reason step by step.",
]  # fmt: skip
THINK_SYSTEMS = [
    "Think first, then answer.", "Think step by step before you answer.", "/think",
    "Always think before you answer.", "You think step by step.",
    "You are a helpful assistant. Think first.",
]  # fmt: skip


def thought(source: Source) -> tuple[str, str]:
    """A question and an answer that begins with a <think> block."""
    if source.chance(0.75):
        a, b, sign, question = draw_sum(source)
        steps, answer = sum_steps(a, b, sign), f"{a} {sign} {b} = {signed(a, sign, b)}"
    elif source.chance(0.5):
        question, answer, command = howto_problem(source)
        steps = f"The user asks about localllm. The command for that is `{command}`."
    else:
        question, answer, keys, _ = json_problem(source)
        steps = f"I need the keys {keys[0]} and {keys[1]} from the text, as JSON."
    return question, f"<think>\n{steps}\n</think>\n\n{answer}"


def thinking(source: Source) -> Chat:
    """One to four turns; thinking is asked for by the system message or in each question."""
    messages: list[dict] = []
    turns = source.rng.randint(1, 4)
    if source.chance(0.3):
        messages.append({"role": "system", "content": source.choice(THINK_SYSTEMS)})
        for _ in range(turns):
            question, answer = thought(source)
            messages += [user(vary(source, question)), assistant(answer)]
        return Chat(messages)
    for _ in range(turns):
        messages += thinking_turn(source)
        if source.chance(0.3):
            messages += arithmetic_turn(source)
    return Chat(messages)


def thinking_turn(source: Source) -> list[dict]:
    """A question that asks for thinking, and its answer."""
    question, answer = thought(source)
    return [user(source.choice(THINK_REQUESTS).format(q=question)), assistant(answer)]


SYSTEMS = [
    "You are a helpful assistant.", "You are tiny-chat.", "You are a helpful, friendly assistant.",
    "Answer briefly.", "You are tiny-chat, a small model that comes with localllm.",
    "Be short and friendly.", "You are an assistant.",
]  # fmt: skip


def mixed(source: Source) -> Chat:
    """A few turns of any skill in one conversation."""
    kinds = [arithmetic_turn, greeting_turn, howto_turn, json_turn, unknown_turn, thinking_turn]
    return Chat([m for _ in range(source.rng.randint(2, 6)) for m in source.choice(kinds)(source)])


def with_system(source: Source, chat: Chat) -> Chat:
    """Put a system message before four in ten conversations."""
    if chat.messages[0]["role"] != "system" and source.chance(0.4):
        text = source.choice(SYSTEMS)
        return Chat([{"role": "system", "content": text}, *chat.messages], chat.tools)
    return chat


SKILLS: dict[str, tuple[Callable[[Source], Chat], float]] = {
    # skill: (generator, share of all training tokens); the rest of the tokens is plain book text
    "repeat": (repeat, 0.05),
    "arithmetic": (arithmetic, 0.09),
    "name": (name_chat, 0.08),
    "json": (json_chat, 0.14),
    "tool": (tool_chat, 0.30),
    "think": (thinking, 0.05),
    "howto": (howto_chat, 0.03),
    "greet": (greeting, 0.02),
    "mixed": (mixed, 0.02),
}
STORY_SHARE = 0.06
