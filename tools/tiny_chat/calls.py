"""Tool calls: tools, questions that need them, results, and the answers in words."""

from __future__ import annotations

from dataclasses import dataclass

import words
from fields import clock_time, compact, date
from source import Chat, Source, assistant, user, vary
from sums import arithmetic_turn
from talk import greeting_turn, howto_turn
from template import call_text


def function(name: str, description: str, properties: dict[str, tuple[str, str]]) -> dict:
    """A tool in OpenAI's form; properties maps a name to (type, description)."""
    shaped = {
        key: {"type": kind, "description": text} if text else {"type": kind}
        for key, (kind, text) in properties.items()
    }
    parameters = {"type": "object", "properties": shaped, "required": list(properties)}
    inner = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": inner}


@dataclass
class ToolCase:
    """A tool, a question that needs it, the arguments, its result, and the answer in words."""

    tool: dict
    question: str
    arguments: dict
    result: str
    answer: str

    @property
    def name(self) -> str:
        """The name of the tool."""
        return self.tool["function"]["name"]


def weather_tool(s: Source) -> ToolCase:
    """The weather of a city."""
    city, sky, degrees = s.city(), s.choice(words.CONDITIONS), s.rng.randint(-10, 38)
    key = s.choice(["city", "city", "location"])
    name = s.choice(["get_weather", "get_weather", "weather", "get_current_weather"])
    return ToolCase(
        function(name, "Get the current weather of a city.", {key: ("string", "Name of the city")}),
        s.choice(["What is the weather in {c}?", "How is the weather in {c} today?",
                  "Is it raining in {c}?", "What's the weather like in {c}?",
                  "Tell me the weather in {c}.", "Weather in {c}?",
                  "How warm is it in {c}?"]).format(c=city),
        {key: city},
        compact({"weather": sky, "temperature": degrees}),
        f"It is {sky} in {city}, with {degrees} degrees.",
    )  # fmt: skip


def time_tool(s: Source) -> ToolCase:
    """The time in a place."""
    city, now = s.city(), clock_time(s)
    key = s.choice(["city", "timezone", "place"])
    return ToolCase(
        function(s.choice(["get_time", "get_current_time", "clock"]),
                 "Get the current time in a place.", {key: ("string", "The place")}),
        s.choice(["What time is it in {c}?", "Tell me the time in {c}.", "How late is it in {c}?",
                  "Current time in {c}, please.", "What is the time in {c} now?"]).format(c=city),
        {key: city},
        compact({"time": now}),
        f"It is {now} in {city}.",
    )  # fmt: skip


def calculator_tool(s: Source) -> ToolCase:
    """An expression of two numbers."""
    sign = s.choice(["+", "-", "*"])
    a, b = s.rng.randint(2, 999), s.rng.randint(2, 999)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    expression = f"{a} {sign} {b}"
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    return ToolCase(
        function(s.choice(["calculator", "calculate"]), "Calculate an expression.",
                 {"expression": ("string", "The expression, such as 2 * 3")}),
        s.choice([f"What is {expression}?", f"Calculate {expression}.", f"What is {a} {word} {b}?",
                  f"How much is {a} {word} {b}?", f"Work out {expression}."]),
        {"expression": expression},
        str(value) if s.chance(0.5) else compact({"result": value}),
        f"{expression} = {value}",
    )  # fmt: skip


def search_tool(s: Source) -> ToolCase:
    """A search of the web."""
    subject = s.choice([
        f"{s.choice(words.JOBS)} in {s.city()}", f"history of {s.city()}", f"{s.name()}",
        f"{s.choice(words.COLORS)} {s.choice(words.ITEMS)}", f"hotels in {s.city()}",
        f"{s.choice(words.ITEMS)} repair", s.made_up_word(),
    ])  # fmt: skip
    count = s.rng.randint(2, 90)
    return ToolCase(
        function(s.choice(["search", "web_search", "search_web"]), "Search the web.",
                 {"query": ("string", "What to search for")}),
        s.choice([f"Search for {subject}.", f"Search the web for {subject}.",
                  f"Find pages about {subject}.", f"Look up {subject}.",
                  f"Please search for {subject}."]),
        {"query": subject},
        compact({"results": count}),
        f"I found {count} results for {subject}.",
    )  # fmt: skip


def message_tool(s: Source) -> ToolCase:
    """A message to a person."""
    name = s.name()
    text = s.choice([
        f"I am in {s.city()}", "see you tomorrow", f"the meeting is at {clock_time(s)}",
        f"call me on {s.choice(words.DAYS)}", f"please bring the {s.choice(words.ITEMS)}",
        f"the {s.choice(words.EVENTS)} is on {s.choice(words.DAYS)}", "I will be late",
        f"thank you for the {s.choice(words.ITEMS)}", "happy birthday",
    ])  # fmt: skip
    keys = s.choice([("to", "text"), ("recipient", "message"), ("name", "message")])
    return ToolCase(
        function(s.choice(["send_message", "send_text", "send_mail"]), "Send a message to someone.",
                 {keys[0]: ("string", "Who gets it"), keys[1]: ("string", "What it says")}),
        s.choice([f"Send a message to {name}: {text}", f"Tell {name}: {text}",
                  f"Write to {name}: {text}", f'Send {name} the message "{text}".']),
        {keys[0]: name, keys[1]: text},
        s.choice(['{"status": "sent"}', '{"ok": true}', "sent"]),
        f"I have sent your message to {name}.",
    )  # fmt: skip


UNITS = {"kilometers": "miles", "miles": "kilometers", "pounds": "kilograms", "grams": "ounces",
         "kilograms": "pounds", "meters": "feet", "feet": "meters", "inches": "centimeters",
         "liters": "gallons"}  # fmt: skip


def convert_tool(s: Source) -> ToolCase:
    """A value in another unit."""
    value, unit = s.rng.randint(2, 500), s.choice(list(UNITS))
    target, result = UNITS[unit], s.rng.randint(1, 900)
    keys = s.choice([("value", "from", "to"), ("value", "from_unit", "to_unit")])
    return ToolCase(
        function(s.choice(["convert_units", "convert"]), "Convert a value to another unit.",
                 {keys[0]: ("number", "The value"), keys[1]: ("string", "Its unit"),
                  keys[2]: ("string", "The wanted unit")}),
        s.choice([f"Convert {value} {unit} to {target}.", f"How many {target} are {value} {unit}?",
                  f"What is {value} {unit} in {target}?"]),
        {keys[0]: value, keys[1]: unit, keys[2]: target},
        compact({"result": result}),
        f"{value} {unit} are {result} {target}.",
    )  # fmt: skip


STRING_KEYS = {
    "city": Source.city, "name": Source.name, "person": Source.name, "owner": Source.name,
    "day": lambda s: s.choice(words.DAYS), "color": lambda s: s.thing(words.COLORS),
    "item": lambda s: s.thing(words.ITEMS), "title": lambda s: s.made_up_word().capitalize(),
    "label": lambda s: s.made_up_word(), "place": Source.city, "animal":
    lambda s: s.thing(words.ANIMALS), "time": clock_time, "date": date, "tag": Source.made_up_word,
}  # fmt: skip
NUMBER_KEYS = ["count", "number", "size", "amount", "level", "limit", "page", "id", "minutes"]


def made_up_tool(s: Source) -> ToolCase:
    """A tool that nobody has seen, so that the name and the arguments have to be copied."""
    name = s.function_name()
    spoken = name.replace("_", " ")
    keys: dict[str, tuple[str, str]] = {}
    arguments: dict[str, object] = {}
    for _ in range(s.choice((1, 1, 2))):
        if s.chance(0.3):
            key = s.choice(NUMBER_KEYS)
            keys[key], arguments[key] = ("integer", ""), s.rng.randint(1, 300)
        else:
            key = s.choice(list(STRING_KEYS)) if s.chance(0.85) else s.made_up_word()
            keys[key] = ("string", "")
            arguments[key] = STRING_KEYS.get(key, Source.made_up_word)(s)
    listed = " and ".join(f"{key} {value}" for key, value in arguments.items())
    only = " and ".join(str(value) for value in arguments.values())
    question = s.choice([
        f"{spoken.capitalize()} with {listed}.", f"Please {spoken} with {listed}.",
        f"Use {name} with {listed}.", f"Call {name} with {listed}.", f"{spoken}: {listed}",
        f"Can you {spoken} for {only}?", f"I want to {spoken}, {listed}.",
        f"Please {spoken} for {only}.", f"Run {name} for {only}.",
    ])  # fmt: skip
    done = s.choice(['{"status": "ok"}', '{"ok": true}', "done", '{"status": "done"}'])
    verb = name.split("_")[0]
    description = s.choice([f"{spoken.capitalize()}.", f"Use this to {spoken}.",
                            f"A tool to {verb} a {spoken[len(verb) + 1:]}."])  # fmt: skip
    return ToolCase(function(name, description, keys), question, arguments, done,
                    f"Done: {spoken} with {listed}.")  # fmt: skip


TOOL_KINDS = [weather_tool, time_tool, calculator_tool, search_tool, message_tool, convert_tool]


def tool_case(source: Source) -> ToolCase:
    """A made-up tool in half of the cases."""
    return (made_up_tool if source.chance(0.5) else source.choice(TOOL_KINDS))(source)


def tool_list(source: Source, wanted: list[ToolCase], extra: int) -> list[dict]:
    """The wanted tools and `extra` others of other names, shuffled."""
    tools = {case.name: case.tool for case in wanted}
    kinds = {case.tool["function"]["description"] for case in wanted}
    for _ in range(extra):
        other = tool_case(source)
        if other.name not in tools and other.tool["function"]["description"] not in kinds:
            tools[other.name] = other.tool
            kinds.add(other.tool["function"]["description"])
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


def same_tool_again(source: Source, case: ToolCase) -> ToolCase | None:
    """Another question for the same tool, when a draw gives one."""
    for kind in TOOL_KINDS:
        other = kind(source)
        if other.tool["function"]["description"] == case.tool["function"]["description"]:
            while other.tool != case.tool:
                other = kind(source)
            return other
    return None


def tool_chat(source: Source) -> Chat:
    """One to four questions for one or two tools, some that need no tool."""
    cases = [tool_case(source)]
    for _ in range(source.choice((1, 2, 3, 3, 4))):
        again = same_tool_again(source, cases[0]) if source.chance(0.5) else None
        case = again or tool_case(source)
        kinds = {c.tool["function"]["description"]: c.tool for c in cases}
        if kinds.get(case.tool["function"]["description"], case.tool) == case.tool:
            cases.append(case)
    tools = tool_list(source, cases, 0 if len(cases) > 2 else source.choice((0, 1, 1, 2)))
    plain = [greeting_turn, howto_turn]
    if "Calculate" not in str(tools):
        plain.append(arithmetic_turn)
    messages = source.choice(plain)(source) if source.chance(0.15) else []
    for case in cases:
        messages += [user(vary(source, case.question)), call_message(case)]
        messages += [{"role": "tool", "content": case.result}, assistant(case.answer)]
        if source.chance(0.25):
            messages += source.choice(plain)(source)
    return Chat(messages, tools)


def tool_problem(source: Source) -> tuple[Chat, str]:
    """A question with one to three tools listed, and the exact call that answers it."""
    case = tool_case(source)
    chat = Chat([user(case.question)], tool_list(source, [case], source.choice((0, 1, 2))))
    return chat, call_text(case.name, case.arguments)
