"""Conversations in which the user gives a name and asks for it later."""

from __future__ import annotations

import words
from fields import json_turn
from source import Chat, Source, assistant, user, vary
from sums import arithmetic_turn, sum_problem
from talk import greeting_turn, howto_turn, unknown_turn

NAME_GIVEN = [
    "My name is {n}.", "I'm {n}.", "I am {n}.", "Hi, I'm {n}.", "Hello, my name is {n}.",
    "Hi! My name is {n}.", "Call me {n}.", "You can call me {n}.", "Please call me {n}.",
    "Hello! I am {n}.", "Hey, {n} here.", "This is {n}.", "The name is {n}.", "Hi there, I'm {n}.",
    "People call me {n}.", "Good morning, my name is {n}.", "Good evening. I am {n}.",
    "Let me introduce myself: I am {n}.", "My name's {n}.", "Hello, {n} is my name.",
    "Hi, my name is {n} and I live in {c}.", "I'm {n}, a {j} from {c}.", "I am {n} from {c}.",
    "My name is {n} and I am {k} years old.", "Hello, I'm {n}. I work as a {j}.",
    "Remember that my name is {n}.", "My name is {n}. Please remember it.",
]  # fmt: skip
NAME_GREETED = [
    "Nice to meet you, {n}!", "Hello, {n}! How can I help you?", "Hi {n}, nice to meet you.",
    "Hello {n}! What can I do for you?", "Pleased to meet you, {n}.",
]  # fmt: skip
NAME_ASKED = [
    "What is my name?", "What's my name?", "Do you remember my name?", "Who am I?",
    "Do you know my name?", "Can you tell me my name?", "What did I say my name was?",
    "Please tell me my name.", "What am I called?", "Tell me my name.", "And what is my name?",
    "Do you still know what my name is?", "What was my name again?", "Say my name.",
    "Which name did I give you?", "So what is my name?", "Remind me, what is my name?",
]  # fmt: skip
NAME_MISSING = "You have not told me your name yet."


def name_given(source: Source, name: str) -> str:
    """What the user says to give the name."""
    return source.choice(NAME_GIVEN).format(
        n=name, c=source.city(), j=source.choice(words.JOBS), k=source.rng.randint(8, 90)
    )


def name_asked(source: Source, name: str) -> list[dict]:
    """The question for the name and its answer."""
    return [user(vary(source, source.choice(NAME_ASKED))), assistant(f"Your name is {name}.")]


def filler_turn(source: Source) -> list[dict]:
    """A turn about something else."""
    turn = source.rng.choices(
        [arithmetic_turn, greeting_turn, howto_turn, json_turn, unknown_turn],
        [4, 4, 3, 1.5, 2],
    )[0]
    return turn(source)


def name_chat(source: Source) -> Chat:
    """The user gives a name, talks of something else, and asks for the name."""
    if not source.held_out and source.chance(0.06):
        messages = [m for _ in range(source.rng.randint(0, 2)) for m in filler_turn(source)]
        asked = vary(source, source.choice(NAME_ASKED))
        return Chat([*messages, user(asked), assistant(NAME_MISSING)])
    name = source.name()
    messages = [m for _ in range(source.choice((0, 0, 0, 1))) for m in filler_turn(source)]
    given = name_given(source, name)
    if source.chance(0.2):
        question, answer = sum_problem(source)
        messages += [user(f"{given} {question}"), assistant(answer)]
    else:
        reply = source.choice(NAME_GREETED).format(n=name)
        messages += [user(vary(source, given)), assistant(reply)]
    for _ in range(source.choice((0, 1, 1, 2, 2, 3, 4))):
        messages += filler_turn(source)
    messages += name_asked(source, name)
    if not source.held_out and source.chance(0.3):
        messages += filler_turn(source) + name_asked(source, name)
    return Chat(messages)
