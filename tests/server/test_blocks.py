"""Pieces into blocks."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.call_parser import ToolCall
from localllm.decoding.logprobs import Logprob
from localllm.server.blocks import Blocks
from tests.server.pieces import piece

CALL = ToolCall("f", "{}", "call_1")
PIECES = st.lists(
    st.sampled_from(
        [piece(), piece("a"), piece(reasoning="b"), piece("c", "d"), piece(calls=[CALL, CALL])]
    )
)


def test_only_tokens_of_the_text_are_told_with_it():
    parts = [
        piece(reasoning="Hm"),
        piece(),  # the closing tag
        piece("Hi"),
        piece(),  # half a character
        piece("é"),
        piece(),  # the markup of a call
        piece(calls=[CALL], end="tool_calls"),
    ]
    blocks = Blocks()
    for number, part in enumerate(parts):
        list(blocks.add(replace(part, logprob=Logprob(number, -1.0, ()))))
    assert [[one.token for one in block.likely] for block in blocks.all] == [[], [2, 3, 4], []]
    assert blocks.reasoning_tokens == 2


@given(PIECES, st.sampled_from(["stop", "length"]))
def test_every_block_starts_grows_and_ends_once(parts, end):
    blocks = Blocks()
    changes = [change for part in [*parts, piece(end=end)] for change in blocks.add(part)]
    grown: dict[int, str] = {}
    for index, change in enumerate(changes):
        if change.step == "start":
            assert index == 0 or changes[index - 1].step == "end"
            assert change.block.index == len(grown)
            grown[change.block.index] = ""
        elif change.step == "grow":
            assert changes[index - 1].block is change.block
            grown[change.block.index] += change.text
    assert not changes or changes[-1].step == "end"
    assert [block.text for block in blocks.all] == list(grown.values())
    for kind, text in (
        ("text", "".join(part.content for part in parts)),
        ("reasoning", "".join(part.reasoning for part in parts)),
    ):
        assert "".join(block.text for block in blocks.all if block.kind == kind) == text
    assert sum(block.kind == "call" for block in blocks.all) == sum(len(p.calls) for p in parts)
    assert all(block.whole for block in blocks.all[:-1])
    assert not blocks.all or blocks.all[-1].whole == (end == "stop")
