"""Random values for the conversations, each from one side of a fixed split, and message helpers."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import words


@dataclass
class Chat:
    """A conversation, and what evaluate.py compares the last assistant turn with."""

    messages: list[dict]
    tools: list[dict] = field(default_factory=list)


def is_held_out(value: str) -> bool:
    """True for the tenth of all values that is kept for evaluation."""
    return zlib.crc32(value.encode()) % 10 == 3


class Source:
    """Draws random values from the training side or from the held-out side of the split.

    book_words: words that training copies as if they were made up, so that every token of the
    vocabulary is copied now and then and not only those of the made-up syllables.
    """

    def __init__(
        self, rng: random.Random, held_out: bool = False, book_words: Sequence[str] = ()
    ) -> None:
        self.rng = rng
        self.held_out = held_out
        self.book_words = book_words

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def choice(self, pool: list) -> object:
        """A random element of a list."""
        return self.rng.choice(pool)

    def split(self, draw: Callable[[], str]) -> str:
        """Draw until the value lies on this side of the split."""
        while True:
            value = draw()
            if is_held_out(value) == self.held_out:
                return value

    def made_up_word(self) -> str:
        """A word of a book, or a pronounceable one of one to three syllables; in lower case."""
        rng = self.rng
        if self.book_words and self.chance(0.5):
            # The split is that of names and cities, which are capitalised.
            return self.split(lambda: rng.choice(self.book_words).capitalize()).lower()
        return "".join(
            rng.choice(words.SYLLABLE_STARTS)
            + rng.choice(words.SYLLABLE_VOWELS)
            + rng.choice(words.SYLLABLE_ENDS)
            for _ in range(rng.choice((1, 2, 2, 2, 3)))
        )

    def name(self) -> str:
        """A first name, real or made up."""
        if self.chance(0.5 if self.held_out else 0.3):
            return self.split(lambda: self.rng.choice(words.NAMES))
        return self.split(lambda: self.made_up_word().capitalize())

    def city(self) -> str:
        """A city, real or made up."""
        if self.chance(0.75):
            return self.split(lambda: self.rng.choice(words.CITIES))
        return self.split(lambda: self.made_up_word().capitalize())

    def thing(self, pool: list[str]) -> str:
        """A word of the list; in training often a made-up one, so that it has to be copied."""
        if not self.held_out and self.chance(0.3):
            return self.made_up_word()
        return self.rng.choice(pool)

    def function_name(self) -> str:
        """A made-up tool name such as find_recipe, set_zorbin or lookup_train_ticket."""

        def draw() -> str:
            verb = self.rng.choice(words.VERBS)
            nouns = self.rng.sample(words.NOUNS, self.rng.choice((1, 1, 2)))
            if self.chance(0.25):
                nouns[-1] = self.made_up_word()
            return "_".join([verb, *nouns])

        return self.split(draw)

    def pair(self, sign: str) -> tuple[int, int]:
        """Two numbers of 0..99 for the sum a + b or the difference a - b."""
        while True:
            a, b = self.rng.randrange(100), self.rng.randrange(100)
            if sign == "-" and a < b and self.chance(0.5):
                a, b = b, a
            if is_held_out(f"{a}{sign}{b}") == self.held_out:
                return a, b


def user(text: str) -> dict:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    """A message of the model."""
    return {"role": "assistant", "content": text}


def vary(source: Source, text: str) -> str:
    """Small differences of typing that should not matter: case, final mark."""
    if source.chance(0.12):
        text = text[0].lower() + text[1:]
    if source.chance(0.12) and text[-1] in ".?!":
        text = text[:-1]
    return text
