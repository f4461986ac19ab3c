"""Reasoning and content come apart the same way wherever the stream is cut."""

from __future__ import annotations

from itertools import combinations

import pytest

from localllm.chat.reasoning import ReasoningParser

CASES = [
    ("Hello.", "", "Hello."),
    ("", "", ""),
    ("  \n Hello.", "", "  \n Hello."),
    ("<think>\nhm\n</think>\n\nYes.", "hm", "Yes."),
    ("<think></think>Yes.", "", "Yes."),
    ("<think>\n\n</think>\n\nYes.", "", "Yes."),
    ("\n<think>a\n\nb</think>c\n", "a\n\nb", "c\n"),
    ("<think>never closed", "never closed", ""),
    ("<think>a < b </thin k> </think>x", "a < b </thin k>", "x"),
    ("<thin air>", "", "<thin air>"),
    ("<thi", "", "<thi"),
    ("say <think>no</think>", "", "say <think>no</think>"),
    ("<think>a</think>b</think>c", "a", "b</think>c"),
    ("[THINK]a[/THINK]b", "a", "b"),
    ("[THIS] is text", "", "[THIS] is text"),
    ("<think>a</thi", "a</thi", ""),
]


def feed(parser: ReasoningParser, pieces: list[str]) -> tuple[str, str]:
    out = [parser.add(piece) for piece in pieces] + [parser.add("", done=True)]
    return "".join(reasoning for reasoning, _ in out), "".join(content for _, content in out)


@pytest.mark.parametrize(("text", "reasoning", "content"), CASES)
def test_whole(text: str, reasoning: str, content: str) -> None:
    assert feed(ReasoningParser(), [text]) == (reasoning, content)
    assert ReasoningParser().add(text, done=True) == (reasoning, content)


@pytest.mark.parametrize(("text", "reasoning", "content"), CASES)
def test_every_split_in_three(text: str, reasoning: str, content: str) -> None:
    for i, j in combinations(range(len(text) + 1), 2):
        pieces = [text[:i], text[i:j], text[j:]]
        assert feed(ReasoningParser(), pieces) == (reasoning, content), pieces


@pytest.mark.parametrize(("text", "reasoning", "content"), CASES)
def test_letter_by_letter(text: str, reasoning: str, content: str) -> None:
    assert feed(ReasoningParser(), list(text)) == (reasoning, content)


@pytest.mark.parametrize("prompt", ["<|assistant|>\n<think>\n", "…[THINK]"])
def test_a_prompt_that_opened_the_tag(prompt: str) -> None:
    close = "[/THINK]" if "THINK" in prompt else "</think>"
    for text, expected in [
        (f"hm{close}Yes.", ("hm", "Yes.")),
        (f"{close}Yes.", ("", "Yes.")),
        ("still thinking", ("still thinking", "")),
    ]:
        assert feed(ReasoningParser(prompt), list(text)) == expected


def test_a_prompt_that_closed_the_tag() -> None:
    prompt = "<|assistant|>\n<think>\n\n</think>\n\n"
    assert feed(ReasoningParser(prompt), ["Yes."]) == ("", "Yes.")


def test_text_is_not_held_longer_than_needed() -> None:
    parser = ReasoningParser()
    assert parser.add("<think>one two") == ("one two", "")
    assert parser.thinking
    assert parser.add(" three </th") == (" three", "")
    assert parser.add("ink>") == ("", "")
    assert not parser.thinking
    assert parser.add("four <") == ("", "four <")
