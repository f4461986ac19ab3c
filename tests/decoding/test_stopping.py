import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import StopSequences, TextStream


def stream(pieces, stops):
    """What is shown piece by piece, and the stop that was found."""
    found = StopSequences(stops)
    shown = []
    for piece in pieces:
        shown.append(found.add(piece))
        if found.matched is not None:
            return shown, found.matched
    return [*shown, found.flush()], None


def expected(text, stops):
    """By definition: the stop complete first, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
)
@settings(max_examples=1000, deadline=None)
def test_however_the_text_is_cut(pieces, stops):
    shown, matched = stream(pieces, stops)
    assert ("".join(shown), matched) == expected("".join(pieces), stops)


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
@settings(max_examples=500, deadline=None)
def test_nothing_is_held_back_longer_than_needed(pieces, stops):
    found = StopSequences(stops)
    text = shown = ""
    for piece in pieces:
        text += piece
        shown += found.add(piece)
        if found.matched is not None:
            return
        held = text[len(shown) :]
        assert text == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_across_pieces_is_never_shown_in_part():
    assert stream(["Hello\n", "\nUs", "er", ": hi"], ["\n\nUser:"]) == (
        ["Hello", "", "", ""],
        "\n\nUser:",
    )


def test_a_stop_inside_one_piece():
    assert stream(["one STOP two"], ["STOP"]) == (["one "], "STOP")


def test_a_beginning_that_comes_to_nothing_is_shown():
    assert stream(["a", "a", "b", "c"], ["aab!"]) == (["", "", "", "aabc", ""], None)


def test_held_text_is_shown_at_the_end():
    assert stream(["x<", "|"], ["<|end|>"]) == (["x", "", "<|"], None)


class Bytes:
    """A detokenizer whose token ids are bytes."""

    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token):
        return self.decoder.decode(bytes([token]))

    def flush(self):
        return self.decoder.decode(b"", final=True)


@pytest.mark.parametrize("stops", [(), ("é",), ("日本",), ("�",)])
def test_stops_on_characters_of_several_tokens(stops):
    text = TextStream(Bytes(), stops)
    whole = "caf\u00e9 日本".encode()
    shown = ""
    for byte in whole:
        shown += text.add(byte)
        if text.stopped:
            break
    else:
        shown += text.finish()
    assert (shown, text.stopped) == expected(whole.decode(), stops)


def test_a_stop_can_be_found_in_what_the_detokenizer_still_held():
    text = TextStream(Bytes(), ["\ufffd"])
    shown = "".join(text.add(byte) for byte in "aé".encode()[:-1])
    assert shown + text.finish() == "a"
    assert text.stopped == "\ufffd"
