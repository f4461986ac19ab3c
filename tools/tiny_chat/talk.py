"""Turns of small talk, of help on localllm, and questions beyond so small a model."""

from __future__ import annotations

import howto
import words
from source import Chat, Source, assistant, user, vary


def howto_problem(source: Source) -> tuple[str, str, str]:
    """A question about a command, its answer, and the command that the answer must name."""
    topic = source.choice(howto.TOPICS)

    def draw() -> str:
        if source.chance(0.25):
            return source.choice(howto.ABOUT).format(command=topic.command)
        return source.choice(howto.ASK).format(goal=source.choice(topic.goals))

    question = source.split(draw)
    return question, topic.answer, topic.command


def howto_turn(source: Source) -> list[dict]:
    """One question about a command and its answer."""
    question, answer, _ = howto_problem(source)
    return [user(vary(source, question)), assistant(answer)]


def howto_chat(source: Source) -> Chat:
    """One to four questions about commands."""
    return Chat([m for _ in range(source.rng.randint(1, 4)) for m in howto_turn(source)])


def greeting_problem(source: Source) -> tuple[str, list[str]]:
    """A remark of small talk and every answer that counts as right."""
    topic = source.choice(howto.SMALL_TALK)
    question = source.split(
        lambda: source.choice(howto.OPENINGS if topic.opens else [""]) + source.choice(topic.says)
    )
    return question, topic.answers


def greeting_turn(source: Source) -> list[dict]:
    """One remark and its answer."""
    question, answers = greeting_problem(source)
    return [user(vary(source, question)), assistant(source.choice(answers))]


def greeting(source: Source) -> Chat:
    """One to four turns of small talk."""
    return Chat([m for _ in range(source.rng.randint(1, 4)) for m in greeting_turn(source)])


def unknown_turn(source: Source) -> list[dict]:
    """A question that so small a model should not try to answer."""
    question = source.choice(howto.UNKNOWN).format(
        city=source.city(), name=source.name(), item=source.choice(words.ITEMS),
        animal=source.choice(words.ANIMALS), word=source.made_up_word(),
    )  # fmt: skip
    return [user(vary(source, question)), assistant(source.choice(howto.UNKNOWN_ANSWERS))]
