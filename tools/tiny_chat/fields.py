"""Two fields of a sentence as JSON: records, sentences, requests and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import words
from source import Chat, Source, assistant, user


def clock_time(source: Source) -> str:
    """A time of day such as 9:30."""
    return f"{source.rng.randint(7, 22)}:{source.choice(['00', '15', '30', '45', '10', '20'])}"


def date(source: Source) -> str:
    """A day of the year such as March 3."""
    return f"{source.choice(words.MONTHS)} {source.rng.randint(1, 28)}"


def _price(source: Source) -> float | int:
    """A whole price or one with two decimals that are not zero."""
    if source.chance(0.5):
        return source.rng.randint(2, 250)
    whole, tenths = source.rng.randint(1, 99), source.rng.randint(1, 9)
    return whole + tenths / 10 + source.rng.randint(1, 9) / 100


@dataclass(frozen=True)
class Record:
    """A kind of sentence: how to draw each field, and the sentences, as format strings."""

    fields: dict[str, Callable[[Source], object]]
    sentences: list[str]


RECORDS = [
    Record(
        {"name": Source.name, "age": lambda s: s.rng.randint(5, 95), "city": Source.city,
         "job": lambda s: s.thing(words.JOBS)},
        ["{name} is {age} years old and lives in {city}, working as a {job}.",
         "{name}, {age}, is a {job} from {city}.",
         "My friend {name} from {city} is a {job} and turned {age} last week.",
         "In {city} lives a {job} called {name} who is {age} years old.",
         "At the age of {age}, {name} works as a {job} in {city}.",
         "The {job} {name} moved to {city} at the age of {age}."],
    ),
    Record(
        {"name": Source.name, "age": lambda s: s.rng.randint(5, 95)},
        ["{name} is {age} years old.", "{name} is {age}.", "{name}, aged {age}, came first.",
         "Yesterday {name} turned {age}.", "I met {name}, who is {age} years old, at the station."],
    ),
    Record(
        {"item": lambda s: s.thing(words.ITEMS), "price": _price,
         "quantity": lambda s: s.rng.randint(2, 60), "customer": Source.name},
        ["{customer} ordered {quantity} pieces of the {item} at {price} dollars each.",
         "We sold {quantity} units of {item} for {price} euros to {customer}.",
         "Order: {quantity} x {item}, price {price}, customer {customer}.",
         "The {item} costs {price} dollars, and {customer} wants {quantity} of them."],
    ),
    Record(
        {"item": lambda s: s.thing(words.ITEMS), "price": _price},
        ["The {item} costs {price} dollars.", "I paid {price} euros for the {item}.",
         "For {price} dollars you can buy this {item}.", "A new {item} is {price} dollars."],
    ),
    Record(
        {"event": lambda s: s.thing(words.EVENTS), "city": Source.city, "date": date,
         "time": clock_time},
        ["The {event} takes place in {city} on {date} at {time}.",
         "On {date} there is a {event} in {city}, starting at {time}.",
         "Come to {city} for the {event} on {date}; doors open at {time}.",
         "At {time} on {date} the {event} begins in {city}."],
    ),
    Record(
        {"name": Source.name, "room": lambda s: s.rng.randint(1, 400),
         "day": lambda s: s.choice(words.DAYS), "time": clock_time},
        ["{name} has booked room {room} for {day} at {time}.",
         "On {day} at {time} {name} will be in room {room}.",
         "Room {room} is reserved for {name} on {day} from {time}."],
    ),
    Record(
        {"animal": lambda s: s.thing(words.ANIMALS), "name": Source.name,
         "color": lambda s: s.thing(words.COLORS), "age": lambda s: s.rng.randint(1, 20)},
        ["The {color} {animal} is called {name} and is {age} years old.",
         "{name} is a {color} {animal} of {age} years.",
         "We have a {animal} named {name}; it is {color} and {age} years old."],
    ),
    Record(
        {"origin": Source.city, "destination": Source.city, "time": clock_time, "price": _price},
        ["The train from {origin} to {destination} leaves at {time} and costs {price} euros.",
         "A ticket from {origin} to {destination} is {price} dollars; departure is at {time}.",
         "At {time} a bus goes from {origin} to {destination} for {price} euros."],
    ),
    Record(
        {"city": Source.city, "temperature": lambda s: s.rng.randint(-15, 40),
         "weather": lambda s: s.thing(words.CONDITIONS), "day": lambda s: s.choice(words.DAYS)},
        ["On {day} it will be {weather} in {city} with {temperature} degrees.",
         "In {city} it is {weather} and {temperature} degrees this {day}.",
         "{city}, {day}: {weather}, {temperature} degrees."],
    ),
]  # fmt: skip

JSON_REQUESTS = [
    "Extract the {a} and the {b} as JSON: {s}", "Extract {a} and {b} as JSON: {s}",
    "Give me the {a} and {b} from this text as JSON: {s}", "{s} Return {a} and {b} as JSON.",
    "{s}\nExtract the {a} and {b} as JSON.", "Return JSON with the keys {a} and {b}: {s}",
    "Extract as JSON with keys \"{a}\" and \"{b}\": {s}", "Text: {s}\nKeys: {a}, {b}\nJSON:",
    "Read the text and return a JSON object with {a} and {b}.\n\n{s}",
    "Extract the fields {a}, {b} from the sentence \"{s}\" as JSON.",
    "Which {a} and {b} are in this sentence? Answer in JSON. {s}",
    "From the following sentence, extract {a} and {b} in JSON format: {s}",
    "Make a JSON object with {a} and {b} from: {s}", "JSON with {a} and {b}, please: {s}",
]  # fmt: skip


def json_problem(source: Source) -> tuple[str, str, list[str], dict]:
    """A request, its exact answer, the two keys and the values."""
    record = source.choice(RECORDS)
    values = {key: draw(source) for key, draw in record.fields.items()}
    values = {k: round(v, 2) if isinstance(v, float) else v for k, v in values.items()}
    sentence = source.choice(record.sentences).format(**values)
    keys = source.rng.sample(list(values), 2)
    request = source.choice(JSON_REQUESTS).format(a=keys[0], b=keys[1], s=sentence)
    chosen = {key: values[key] for key in keys}
    return request, compact(chosen), keys, chosen


def compact(value: dict) -> str:
    """JSON on one line, as the answers have it."""
    return json.dumps(value, ensure_ascii=False)


def json_turn(source: Source) -> list[dict]:
    """One request and its answer."""
    request, answer, _, _ = json_problem(source)
    return [user(request), assistant(answer)]


def json_chat(source: Source) -> Chat:
    """One to four requests."""
    turns = 1 if source.chance(0.4) else source.rng.randint(2, 4)
    return Chat([m for _ in range(turns) for m in json_turn(source)])
