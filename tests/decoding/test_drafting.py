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


def by_definition(tokens, count):
    """What followed the latest earlier place of the longest n-gram at the end."""
    for size in range(min(LONGEST, len(tokens)), 0, -1):
        end = tokens[len(tokens) - size :]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == end:
                text = list(tokens)
                for _ in range(count):
                    text.append(text[start + size + len(text) - len(tokens)])
                return text[len(tokens) :]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9), st.data())
def test_lookup_is_what_its_definition_says_however_the_text_grows(tokens, count, data):
    lookup = PromptLookup()
    cuts = data.draw(st.sets(st.integers(1, len(tokens))))
    for cut in sorted(cuts | {len(tokens)}):
        assert lookup.propose(tokens[:cut], count) == by_definition(tokens[:cut], count)


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
