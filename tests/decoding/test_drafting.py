from hypothesis import given
from hypothesis import strategies as st

from localllm.decoding.drafting import (
    FIRST_REST,
    LONGEST,
    LONGEST_REST,
    MOST_DRAFTS,
    PromptLookup,
    Speculation,
)


def by_definition(tokens, count, distance):
    """What follows an earlier place of the text's end, and how far back that place is.

    That of the last drafts (as far back as before) where it is still like the end, else the latest
    of the longest n-gram.
    """
    at = len(tokens) - distance
    like = distance and tokens[:at][-LONGEST:] == tokens[-min(at, LONGEST) :]
    places = [(LONGEST, at)] if like else []
    for size in range(min(LONGEST, len(tokens)), 0, -1):
        end = tokens[len(tokens) - size :]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == end:
                places.append((size, start + size))
    if not places:
        return [], 0
    _, place = places[0]
    text = list(tokens)
    for i in range(count):
        text.append(text[place + i])
    return text[len(tokens) :], len(tokens) - place


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9), st.data())
def test_lookup_is_what_its_definition_says_however_the_text_grows(tokens, count, data):
    lookup, distance = PromptLookup(), 0
    cuts = data.draw(st.sets(st.integers(1, len(tokens))))
    for cut in sorted(cuts | {len(tokens)}):
        drafts, distance = by_definition(tokens[:cut], count, distance)
        assert lookup.propose(tokens[:cut], count) == drafts


def test_a_copy_stays_on_its_way():
    text = [0, 1, 2, 3, 4, 9, 1, 2, 3, 5, 9]
    lookup = PromptLookup()
    assert lookup.propose([*text, 0], 3) == [1, 2, 3]
    assert lookup.propose([*text, 0, 1, 2, 3], 2) == [4, 9]
    assert PromptLookup().propose([*text, 0, 1, 2, 3], 2) == [5, 9]  # else the latest place


class Constant:
    def propose(self, tokens, count):
        return [7] * count


def run(tokens, right, cost):
    """Decode with a drafter of which ``right(at)`` drafts hold; seconds used, 1.0 a plain step."""
    speculation, at, seconds = Speculation(Constant()), 0, 0.0
    sizes = []
    while at < tokens:
        drafts = speculation.propose([], 100)
        accepted = min(len(drafts), right(at))
        took = 1.0 + cost * len(drafts)
        speculation.took(took, len(drafts), accepted)
        sizes.append(len(drafts))
        at, seconds = at + accepted + 1, seconds + took
    return seconds, sizes


def test_drafts_that_are_never_right_cost_little_and_rest_ever_longer():
    seconds, sizes = run(2000, lambda at: 0, cost=0.2)
    assert seconds < 2000 * 1.02
    assert sum(size > 0 for size in sizes) < 40
    rests = [len(part) for part in "".join("d" if s else " " for s in sizes).split("d") if part]
    assert FIRST_REST in rests
    assert max(rests) == LONGEST_REST


def test_drafts_that_are_right_grow_to_the_most():
    seconds, sizes = run(2000, lambda at: MOST_DRAFTS, cost=0.05)
    assert sizes[0] == 0
    assert sizes[-1] == MOST_DRAFTS
    assert seconds < 2000 / 6


def test_drafts_that_become_right_are_found_again():
    seconds, _ = run(4000, lambda at: 0 if at < 1000 else MOST_DRAFTS, cost=0.05)
    assert seconds < 1000 * 1.05 + 512 + 3000 / 5


def test_right_drafts_that_cost_more_than_they_save_are_left_out():
    seconds, _ = run(2000, lambda at: 1, cost=0.9)
    assert seconds < 2000 * 1.03
