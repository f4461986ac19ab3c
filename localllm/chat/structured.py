"""Answers that are JSON: the constraints behind `response_format`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.chat.reasoning import TAGS, opened
from localllm.decoding.constraint import ConstraintCompiler, GrammarConstraint
from localllm.decoding.grammar import Grammar

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def json_constraint(
    compiler: ConstraintCompiler, schema: Mapping[str, Any], prompt: str, thinking: bool
) -> GrammarConstraint:
    """An answer that satisfies a JSON schema (`ANY_OBJECT`: any object), after its reasoning.

    Args:
        compiler: the model's.
        schema: the JSON schema; what it leaves open stays open, as the standard has it.
        prompt: text of the prompt; where it ends in an opened tag, the answer starts inside it.
        thinking: whether the model may think first where the prompt opened no tag.

    Raises:
        UsageError: the schema cannot be enforced, and why.
    """
    grammar = compiler.grammar()
    answer = grammar.json(schema)
    return compiler.compile(grammar, after_reasoning(grammar, answer, prompt, thinking))


def after_reasoning(grammar: Grammar, answer: str, prompt: str, thinking: bool) -> str:
    """The expression `answer` with white space and reasoning before it, as in `json_constraint`."""
    tags = opened(prompt)
    if tags is not None:
        return f"{grammar.until(tags[1])} {grammar.space()} {answer}"
    if not thinking:
        return f"{grammar.space()} {answer}"
    thoughts = [
        f"{grammar.tag(opening)} {grammar.until(closing)} {grammar.space()}"
        for opening, closing in TAGS
    ]
    return f"{grammar.space()} ({' | '.join(thoughts)})? {answer}"
