"""Requests to repeat words: the shortest lesson in copying, on which names and JSON build."""

from __future__ import annotations

import words
from source import Chat, Source, assistant, user

REQUESTS = [
    "Repeat: {t}", "Repeat after me: {t}", "Say: {t}", "Please repeat this: {t}", "Echo: {t}",
    "Copy this text: {t}", "Write this again: {t}", "Say exactly this: {t}", "Repeat {t}",
    "{t}\nRepeat that.", "{t}\nSay that again.",
]  # fmt: skip


def some_word(source: Source) -> str:
    """A word, a name, a made-up word or a number."""
    kind = source.rng.random()
    if kind < 0.3:
        return source.made_up_word()
    if kind < 0.5:
        return source.name()
    if kind < 0.6:
        return source.city()
    if kind < 0.75:
        return str(source.rng.randrange(1000))
    return source.choice(source.choice([words.ITEMS, words.NOUNS, words.COLORS, words.JOBS]))


def repeat_turn(source: Source) -> list[dict]:
    """Two to ten words and the same again."""
    joint = source.choice([" ", " ", ", ", "_"])
    text = joint.join(some_word(source) for _ in range(source.rng.randint(2, 10)))
    return [user(source.choice(REQUESTS).format(t=text)), assistant(text)]


def repeat(source: Source) -> Chat:
    """One to three requests."""
    return Chat([m for _ in range(source.rng.randint(1, 3)) for m in repeat_turn(source)])
