"""Tool calls: tools, questions that need them, results, and the answers in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import words
from fields import clock_time, compact, date
from source import Chat, Source, assistant, user, vary
from sums import arithmetic_turn
from talk import greeting_turn, howto_turn
from template import call_text


@dataclass
class Need:
    """A question, the arguments that answer it, the tool's result, and the answer in words."""

    question: str
    values: tuple[object, ...]
    result: str
    answer: str


@dataclass(frozen=True)
class Kind:
    """A kind of tool: its usual names, its parameters, and how to draw a need for it.

    Each entry of parameters is the usual names of one parameter, its type and its description;
    parameters with several names take the one at the same place.
    """

    names: list[str]
    description: str
    parameters: list[tuple[list[str], str, str]]
    need: Callable[[Source], Need]

    def tool(self, source: Source) -> dict:
        """The tool in OpenAI's form.

        In training, often under names that tell nothing, so that a call has to be read from the
        list of tools and cannot be guessed from the question.
        """
        name = source.choice(self.names)
        if not source.held_out and source.chance(0.5):
            name = source.function_name()
        place = source.rng.randrange(len(self.parameters[0][0]))
        properties = {}
        for keys, kind, description in self.parameters:
            key = keys[place]
            if not source.held_out and source.chance(0.5):
                key = source.choice([*STRING_KEYS, *NUMBER_KEYS, source.made_up_word()])
            properties[key] = {"type": kind, "description": description}
        if len(properties) < len(self.parameters):  # two parameters drew the same name
            return self.tool(source)
        return function(name, self.description, properties)


def function(name: str, description: str, properties: dict[str, dict[str, str]]) -> dict:
    """A tool in OpenAI's form; properties maps a parameter to its schema."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    inner = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": inner}


def weather(s: Source) -> Need:
    """The weather of a city."""
    city, sky, degrees = s.city(), s.choice(words.CONDITIONS), s.rng.randint(-10, 38)
    return Need(
        s.choice(["What is the weather in {c}?", "How is the weather in {c} today?",
                  "Is it raining in {c}?", "What's the weather like in {c}?",
                  "Tell me the weather in {c}.", "Weather in {c}?",
                  "How warm is it in {c}?"]).format(c=city),
        (city,),
        compact({"weather": sky, "temperature": degrees}),
        f"It is {sky} in {city}, with {degrees} degrees.",
    )  # fmt: skip


def time(s: Source) -> Need:
    """The time in a place."""
    city, now = s.city(), clock_time(s)
    return Need(
        s.choice(["What time is it in {c}?", "Tell me the time in {c}.", "How late is it in {c}?",
                  "Current time in {c}, please.", "What is the time in {c} now?"]).format(c=city),
        (city,),
        compact({"time": now}),
        f"It is {now} in {city}.",
    )  # fmt: skip


def calculation(s: Source) -> Need:
    """An expression of two numbers."""
    sign = s.choice(["+", "-", "*"])
    a, b = s.rng.randint(2, 999), s.rng.randint(2, 999)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    expression = f"{a} {sign} {b}"
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    return Need(
        s.choice([f"What is {expression}?", f"Calculate {expression}.", f"What is {a} {word} {b}?",
                  f"How much is {a} {word} {b}?", f"Work out {expression}."]),
        (expression,),
        str(value) if s.chance(0.5) else compact({"result": value}),
        f"{expression} = {value}",
    )  # fmt: skip


def search(s: Source) -> Need:
    """A search of the web."""
    subject = s.choice([
        f"{s.choice(words.JOBS)} in {s.city()}", f"history of {s.city()}", f"{s.name()}",
        f"{s.choice(words.COLORS)} {s.choice(words.ITEMS)}", f"hotels in {s.city()}",
        f"{s.choice(words.ITEMS)} repair", s.made_up_word(),
    ])  # fmt: skip
    count = s.rng.randint(2, 90)
    return Need(
        s.choice([f"Search for {subject}.", f"Search the web for {subject}.",
                  f"Find pages about {subject}.", f"Look up {subject}.",
                  f"Please search for {subject}."]),
        (subject,),
        compact({"results": count}),
        f"I found {count} results for {subject}.",
    )  # fmt: skip


def message(s: Source) -> Need:
    """A message to a person."""
    name = s.name()
    text = s.choice([
        f"I am in {s.city()}", "see you tomorrow", f"the meeting is at {clock_time(s)}",
        f"call me on {s.choice(words.DAYS)}", f"please bring the {s.choice(words.ITEMS)}",
        f"the {s.choice(words.EVENTS)} is on {s.choice(words.DAYS)}", "I will be late",
        f"thank you for the {s.choice(words.ITEMS)}", "happy birthday",
    ])  # fmt: skip
    return Need(
        s.choice([f"Send a message to {name}: {text}", f"Tell {name}: {text}",
                  f"Write to {name}: {text}", f'Send {name} the message "{text}".']),
        (name, text),
        s.choice(['{"status": "sent"}', '{"ok": true}', "sent"]),
        f"I have sent your message to {name}.",
    )  # fmt: skip


UNITS = {"kilometers": "miles", "miles": "kilometers", "pounds": "kilograms", "grams": "ounces",
         "kilograms": "pounds", "meters": "feet", "feet": "meters", "inches": "centimeters",
         "liters": "gallons"}  # fmt: skip


def conversion(s: Source) -> Need:
    """A value in another unit."""
    value, unit = s.rng.randint(2, 500), s.choice(list(UNITS))
    target, result = UNITS[unit], s.rng.randint(1, 900)
    return Need(
        s.choice([f"Convert {value} {unit} to {target}.", f"How many {target} are {value} {unit}?",
                  f"What is {value} {unit} in {target}?"]),
        (value, unit, target),
        compact({"result": result}),
        f"{value} {unit} are {result} {target}.",
    )  # fmt: skip


KINDS = [
    Kind(["get_weather", "get_weather", "weather", "get_current_weather"],
         "Get the current weather of a city.",
         [(["city", "city", "location"], "string", "Name of the city")], weather),
    Kind(["get_time", "get_current_time", "clock"], "Get the current time in a place.",
         [(["city", "timezone", "place"], "string", "The place")], time),
    Kind(["calculator", "calculate"], "Calculate an expression.",
         [(["expression"], "string", "The expression, such as 2 * 3")], calculation),
    Kind(["search", "web_search", "search_web"], "Search the web.",
         [(["query"], "string", "What to search for")], search),
    Kind(["send_message", "send_text", "send_mail"], "Send a message to someone.",
         [(["to", "recipient", "name"], "string", "Who gets it"),
          (["text", "message", "message"], "string", "What it says")], message),
    Kind(["convert_units", "convert"], "Convert a value to another unit.",
         [(["value", "value"], "number", "The value"),
          (["from", "from_unit"], "string", "Its unit"),
          (["to", "to_unit"], "string", "The wanted unit")], conversion),
]  # fmt: skip

STRING_KEYS = {
    "city": Source.city, "name": Source.name, "person": Source.name, "owner": Source.name,
    "day": lambda s: s.choice(words.DAYS), "color": lambda s: s.thing(words.COLORS),
    "item": lambda s: s.thing(words.ITEMS), "title": lambda s: s.made_up_word().capitalize(),
    "label": lambda s: s.made_up_word(), "place": Source.city, "animal":
    lambda s: s.thing(words.ANIMALS), "time": clock_time, "date": date, "tag": Source.made_up_word,
}  # fmt: skip
NUMBER_KEYS = ["count", "number", "size", "amount", "level", "limit", "page", "id", "minutes"]


def made_up_tool(s: Source) -> dict:
    """A tool that nobody has seen, so that the name and the arguments have to be copied."""
    properties: dict[str, dict[str, str]] = {}
    for _ in range(s.choice((1, 1, 2))):
        if s.chance(0.3):
            properties[s.choice(NUMBER_KEYS)] = {"type": "integer"}
        else:
            key = s.choice(list(STRING_KEYS)) if s.chance(0.85) else s.made_up_word()
            properties[key] = {"type": "string"}
    name = s.function_name()
    spoken = name.replace("_", " ")
    verb = name.split("_")[0]
    description = s.choice([f"{spoken.capitalize()}.", f"Use this to {spoken}.",
                            f"A tool to {verb} a {spoken[len(verb) + 1:]}."])  # fmt: skip
    return function(name, description, properties)


def made_up_need(s: Source, tool: dict) -> Need:
    """A question for a made-up tool."""
    name, properties = tool["function"]["name"], tool["function"]["parameters"]["properties"]
    spoken = name.replace("_", " ")
    arguments = {
        key: s.rng.randint(1, 300) if schema["type"] == "integer"
        else STRING_KEYS.get(key, Source.made_up_word)(s)
        for key, schema in properties.items()
    }  # fmt: skip
    listed = " and ".join(f"{key} {value}" for key, value in arguments.items())
    only = " and ".join(str(value) for value in arguments.values())
    question = s.choice([
        f"{spoken.capitalize()} with {listed}.", f"Please {spoken} with {listed}.",
        f"Use {name} with {listed}.", f"Call {name} with {listed}.", f"{spoken}: {listed}",
        f"Can you {spoken} for {only}?", f"I want to {spoken}, {listed}.",
        f"Please {spoken} for {only}.", f"Run {name} for {only}.",
    ])  # fmt: skip
    done = s.choice(['{"status": "ok"}', '{"ok": true}', "done", '{"status": "done"}'])
    return Need(question, tuple(arguments.values()), done, f"Done: {spoken} with {listed}.")


@dataclass
class ToolCase:
    """A tool and a need for it; kind is None for a made-up tool."""

    kind: Kind | None
    tool: dict
    need: Need

    @property
    def name(self) -> str:
        """The name of the tool."""
        return self.tool["function"]["name"]

    @property
    def description(self) -> str:
        """What the tool is for."""
        return self.tool["function"]["description"]

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments of the call."""
        keys = self.tool["function"]["parameters"]["properties"]
        return dict(zip(keys, self.need.values, strict=True))

    def again(self, source: Source) -> ToolCase:
        """Another need for the same tool."""
        return ToolCase(self.kind, self.tool, _need(source, self.kind, self.tool))


def _need(source: Source, kind: Kind | None, tool: dict) -> Need:
    return kind.need(source) if kind else made_up_need(source, tool)


def tool_case(source: Source) -> ToolCase:
    """A made-up tool in half of the cases."""
    kind = None if source.chance(0.5) else source.choice(KINDS)
    tool = kind.tool(source) if kind else made_up_tool(source)
    return ToolCase(kind, tool, _need(source, kind, tool))


def tool_list(source: Source, wanted: list[ToolCase], extra: int) -> list[dict]:
    """The wanted tools and `extra` others of other names, shuffled."""
    tools = {case.name: case.tool for case in wanted}
    descriptions = {case.description for case in wanted}
    for _ in range(extra):
        other = tool_case(source)
        if other.name not in tools and other.description not in descriptions:
            tools[other.name] = other.tool
            descriptions.add(other.description)
    listed = list(tools.values())
    source.rng.shuffle(listed)
    return [_reorder(source, tool) for tool in listed]


def _reorder(source: Source, tool: dict) -> dict:
    """Now and then sort the keys, as some programs render them sorted."""
    if source.held_out or source.chance(0.85):
        return tool

    def sort(value: object) -> object:
        return {k: sort(value[k]) for k in sorted(value)} if isinstance(value, dict) else value

    return sort(tool)


def call_message(case: ToolCase) -> dict:
    """The assistant's message that makes the call."""
    call = {"name": case.name, "arguments": case.arguments}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def tool_chat(source: Source) -> Chat:
    """Two to six questions for one to three tools, some that need no tool."""
    cases = [tool_case(source)]
    while len(cases) < 3 and source.chance(0.4):
        other = tool_case(source)
        if all(c.description != other.description and c.name != other.name for c in cases):
            cases.append(other)
    tools = tool_list(source, cases, 0 if len(cases) > 1 else source.choice((0, 1, 1, 2)))
    cases += [source.choice(cases).again(source) for _ in range(source.rng.randint(1, 3))]
    source.rng.shuffle(cases)
    plain = [greeting_turn, howto_turn]
    if "Calculate" not in str(tools):
        plain.append(arithmetic_turn)
    messages = source.choice(plain)(source) if source.chance(0.15) else []
    for case in cases:
        messages += [user(vary(source, case.need.question)), call_message(case)]
        messages += [{"role": "tool", "content": case.need.result}, assistant(case.need.answer)]
        if source.chance(0.2):
            messages += source.choice(plain)(source)
    return Chat(messages, tools)


def tool_problem(source: Source) -> tuple[Chat, str]:
    """A question with one to three tools listed, and the exact call that answers it."""
    case = tool_case(source)
    chat = Chat([user(case.need.question)], tool_list(source, [case], source.choice((0, 1, 2))))
    return chat, call_text(case.name, case.arguments)
