"""Calls and content come apart the same way wherever the stream is cut."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat import call_formats
from localllm.chat.call_formats import (
    DEEPSEEK,
    DEEPSEEK_PLAIN,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    QWEN_CODER,
    CallFormat,
)
from localllm.chat.call_parser import CallParser

FORMATS = [HERMES, QWEN_CODER, LLAMA, MISTRAL, MISTRAL_ARGS, DEEPSEEK, DEEPSEEK_PLAIN]
FUNCTIONS = {
    "f": {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}}},
    "get-time_2": {},
}
Calls = list[tuple[str, Any]]

SEP, CALL, END = "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
ONE = ("f", {"s": 'é}{"\\ </tool_call>', "o": [{"x": {}}, "]"]})
ONE_TEXT = '{"s": "é}{\\"\\\\ </tool_call>", "o": [{"x": {}}, "]"]}'
SECOND = ("get-time_2", {})

TIME, NO_TIME = '{"name": "get-time_2"}', '{"name": "g", "arguments": {}}'
F_CALL = f'{{"name": "f", "arguments": {ONE_TEXT}}}'
OPEN, CLOSE = "<tool_call>", "</tool_call>"
ELEMENTS = """<tool_call>
<function=f>
<parameter=s>
12
"q"
</parameter>
<parameter=n>
12
</parameter>
<parameter=o>
[1, {}]
</parameter>
</function>
</tool_call>"""
DEEP_ONE = f"{CALL}function{SEP}f\n```json\n{ONE_TEXT}\n```{END}"
DEEP_SECOND = f"{CALL}function{SEP}get-time_2\n```json\n{{}}\n```{END}"
DEEP_PLAIN = f"{CALL}f{SEP}{ONE_TEXT}{END}{CALL}get-time_2{SEP}{{}}{END}"
BEGIN, FINISH = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

AS_TEXT = [
    (HERMES, "Hello.\n"),
    (HERMES, ""),
    (HERMES, "  a <tool_call> b"),
    (HERMES, f"{OPEN}{NO_TIME}{CLOSE}"),
    (HERMES, f'{OPEN}{{"name": "f", "arguments": [1]}}{CLOSE}x'),
    (HERMES, f'x\n{OPEN}{{"name": f}}{CLOSE}\n'),
    (HERMES, f'{OPEN}{{"name": "f", "arguments": {{"n": NaN}}}}'),
    (HERMES, f'{OPEN}{{"name": "f", "argu'),
    (HERMES, "see <tool_cal"),
    (QWEN_CODER, "<function=f>\nfoo"),
    (LLAMA, '{"weather": "fine"} and so on'),
    (LLAMA, 'It is {"name": "f", "parameters": {}}'),
    (LLAMA, "{ I am no JSON }"),
    (MISTRAL, "[TOOL_CALLS][]"),
    (MISTRAL, "[TOOL_CALLS]"),
    (MISTRAL, "[TOOL] text"),
    (DEEPSEEK, f"{CALL}function{SEP}f\n```json\nno\n```"),
]
CASES: list[tuple[CallFormat, str, str, Calls]] = [
    *((format, text, text, []) for format, text in AS_TEXT),
    (HERMES, f"{OPEN}\n{F_CALL}\n{CLOSE}", "", [ONE]),
    (HERMES, f"A \n{OPEN}{F_CALL}{CLOSE} \nB ", "A \nB ", [ONE]),
    (HERMES, f"{OPEN}{TIME}{CLOSE}\n{OPEN}{F_CALL}{CLOSE}\n", "", [SECOND, ONE]),
    (HERMES, f'{OPEN}{{"name": "get-time_2", "arguments": "{{}}"}}', "", [SECOND]),
    (HERMES, f'{OPEN}[{{"function": {TIME}}}]{CLOSE}', "", [SECOND]),
    (HERMES, f"{OPEN}no\n{OPEN}{TIME}{CLOSE}", f"{OPEN}no", [SECOND]),
    (QWEN_CODER, ELEMENTS, "", [("f", {"s": '12\n"q"', "n": 12, "o": [1, {}]})]),
    (QWEN_CODER, f"Now:\n<function=get-time_2>\n</function>\n{CLOSE}", "Now:", [SECOND]),
    (QWEN_CODER, "<function=f><parameter=n>x</parameter></function>", "", [("f", {"n": "x"})]),
    (LLAMA, f'{{"name": "f", "parameters": {ONE_TEXT}}}', "", [ONE]),
    (LLAMA, f"\n<|python_tag|>{TIME}", "", [SECOND]),
    (LLAMA, f'{{"type": "function", "name": "f"}}; {TIME}\n', "", [("f", {}), SECOND]),
    (MISTRAL, f"[TOOL_CALLS][{F_CALL}, {TIME}]", "", [ONE, SECOND]),
    (MISTRAL, f"So [TOOL_CALLS] [{TIME}]", "So", [SECOND]),
    (MISTRAL_ARGS, f"[TOOL_CALLS]f[CALL_ID]123[ARGS]{ONE_TEXT}", "", [ONE]),
    (MISTRAL_ARGS, "[TOOL_CALLS]f{}[TOOL_CALLS]get-time_2[ARGS]{}", "", [("f", {}), SECOND]),
    (DEEPSEEK, f"Hm.\n\n{BEGIN}{DEEP_ONE}\n{DEEP_SECOND}{FINISH}", "Hm.", [ONE, SECOND]),
    (DEEPSEEK_PLAIN, f"{BEGIN}{DEEP_PLAIN}{FINISH}", "", [ONE, SECOND]),
]


def feed(format: CallFormat, pieces: list[str]) -> tuple[str, Calls, list[str]]:
    parser = CallParser(format, FUNCTIONS)
    out = [parser.add(piece) for piece in pieces] + [parser.add("", done=True)]
    calls = [call for _, found in out for call in found]
    assert len({call.id for call in calls}) == len(calls)
    assert all(call.id.startswith("call_") for call in calls)
    said = "".join(content for content, _ in out)
    return said, [(call.name, json.loads(call.arguments)) for call in calls], parser.warnings


@pytest.mark.parametrize(("format", "text", "content", "calls"), CASES)
def test_whole(format: CallFormat, text: str, content: str, calls: Calls) -> None:
    said, found, warnings = feed(format, [text])
    assert (said, found) == (content, calls)
    left = any(start in content for start in format.starts)
    assert bool(warnings) == (left or (format is LLAMA and content.startswith("{")))


@pytest.mark.parametrize(("format", "text", "content", "calls"), CASES)
def test_every_split_in_three(format: CallFormat, text: str, content: str, calls: Calls) -> None:
    places = range(len(text) + 1) if len(text) < 80 else range(0, len(text) + 1, 3)
    for i, j in combinations(places, 2):
        pieces = [text[:i], text[i:j], text[j:]]
        assert feed(format, pieces)[:2] == (content, calls), pieces


@pytest.mark.parametrize(("format", "text", "content", "calls"), CASES)
def test_letter_by_letter(format: CallFormat, text: str, content: str, calls: Calls) -> None:
    assert feed(format, list(text))[:2] == (content, calls)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)


all_calls = st.tuples(st.sampled_from(sorted(FUNCTIONS)), st.dictionaries(texts, values))


@settings(deadline=None)
@given(
    st.sampled_from([format for format in FORMATS if format is not QWEN_CODER]),
    st.lists(all_calls, min_size=1),
    st.data(),
)
def test_what_is_spelled_is_read(format: CallFormat, calls: Calls, data: st.DataObject) -> None:
    text = format.spell([(name, json.dumps(arguments)) for name, arguments in calls])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert feed(format, pieces) == ("", calls, [])


@settings(deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_nothing_is_lost_or_raised(format: CallFormat, data: st.DataObject) -> None:
    bits = [
        *format.starts,
        *format.tags,
        format.before,
        format.middle,
        format.after,
        *'{}[]"\\ \nf',
    ]
    pieces = data.draw(st.lists(st.sampled_from([bit for bit in bits if bit]), max_size=15))
    said, calls, warnings = feed(format, pieces)
    assert feed(format, ["".join(pieces)]) == (said, calls, warnings)
    if not calls:
        assert said == "".join(pieces)


def test_content_is_not_held_longer_than_needed() -> None:
    parser = CallParser(HERMES, FUNCTIONS)
    assert parser.add("one ") == ("one", [])
    assert parser.add("two <tool") == (" two", [])
    assert parser.add(" three") == (" <tool three", [])
    assert parser.add('\n<tool_call>{"name": "f"}</tool_call>')[1][0].name == "f"
    assert parser.add("\n\nfour") == ("\nfour", [])


def test_a_long_call_takes_no_more_than_linear_work() -> None:
    long = json.dumps({"s": "{[x" * 30_000})
    text = HERMES.spell([("f", long)])
    _, calls, _ = feed(HERMES, [text[i : i + 3] for i in range(0, len(text), 3)])
    assert calls == [("f", json.loads(long))]
    assert feed(HERMES, ["<tool_call>{" * 20_000])[0] == "<tool_call>{" * 20_000


def test_numbers_and_nesting_that_python_refuses() -> None:
    for odd in ("[" * 100_000 + "]" * 100_000, "1" * 5000, '{"a":' * 5000 + "1" + "}" * 5000):
        text = HERMES.spell([("f", odd)])
        said, calls, warnings = feed(HERMES, [text])
        assert (said, calls) == (text, [])
        assert warnings


def test_half_a_surrogate_pair_can_be_sent() -> None:
    parser = CallParser(HERMES, FUNCTIONS)
    (call,) = parser.add(HERMES.spell([("f", '{"s": "\\ud800"}')]), done=True)[1]
    call.arguments.encode()


def test_the_format_is_told_by_the_template(templates: Any) -> None:
    named = {
        "Qwen-Qwen2.5": HERMES, "Qwen-Qwen3": HERMES, "NousResearch": HERMES, "meta-llama": LLAMA,
        "mistralai": MISTRAL, "deepseek": DEEPSEEK, "google": HERMES, "HuggingFaceTB": HERMES,
    }  # fmt: skip
    for path in templates.glob("*.jinja"):
        for start, format in named.items():
            if path.name.startswith(start):
                assert call_formats.format_of(path.read_text()) is format, path.name
    assert call_formats.format_of("[TOOL_CALLS]{{ name }}[ARGS]") is MISTRAL_ARGS
    assert call_formats.format_of("<function=…><parameter=…><tool_call>") is QWEN_CODER
    assert call_formats.format_of("<｜tool▁calls▁begin｜>") is DEEPSEEK_PLAIN
