"""Who computes what in the next step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from localllm.decoding.drafting import MOST_DRAFTS
from localllm.engine.pages import PagePool
from localllm.engine.sequence import Sequence

# Most tokens in a step. Weights are read once a step, so a prompt is computed faster in long ones,
# until arithmetic is what takes the time. Memory for activations grows with it, and so does the
# time that an answer waits for a long prompt beside it. llama.cpp has the same default.
STEP_TOKENS = 512


@dataclass
class Chunk:
    """The next ``count`` tokens of a sequence after ``past`` computed ones, then drafted ones.

    Attributes:
        accepted: how many of the drafted tokens were drawn, once the step is computed.
    """

    sequence: Sequence
    past: int
    count: int
    drafts: list[int] = field(default_factory=list)
    accepted: int = 0

    @property
    def draws(self) -> bool:
        """Whether the sequence's next token is drawn after this chunk."""
        return self.past + self.count == len(self.sequence.tokens)

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute."""
        return self.sequence.tokens[self.past : self.past + self.count] + self.drafts


@dataclass
class Plan:
    """One step: pages to copy first, in order, then the chunks, computed in one batch."""

    budget: int  # tokens that may still be added
    copies: list[tuple[int, int]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


class Scheduler:
    """First come, first served, with decode rows and prompt chunks in one batch.

    Decode rows go first, so that a long prompt does not stop answers under way; prompts share what
    is left of the step's token budget. When pages run out the newest running sequence gives its
    pages back and waits to be computed again (its tokens and its sampler stay: nothing is lost).

    Args:
        pool: the pages; must be able to hold the longest sequence alone.
        budget: most tokens in a step.
        sequences: most sequences running at once; at most ``budget``.
        reuse: whether computed prefixes are kept and found again.
    """

    def __init__(self, pool: PagePool, budget: int, sequences: int, reuse: bool) -> None:
        if not 0 < sequences <= budget:
            raise ValueError(f"{sequences} sequences in a step of {budget} tokens")
        self.pool = pool
        self.budget = budget
        self.sequences = sequences
        self.reuse = reuse
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind all others."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and take its pages back; one that is not here is left alone."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            return
        self.pool.release(sequence.table)

    def schedule(self) -> Plan:
        """The next step; empty only where nothing is queued."""
        plan = Plan(self.budget)
        for sequence in [s for s in self.running if s.missing == 1]:
            # Those that may have to give way are newer, so none of them is in the plan yet.
            while sequence in self.running and not self._reserve(plan, sequence):
                self._preempt()
        for sequence in [s for s in self.running if s.missing > 1]:
            # A prompt that finds no pages waits for a later step, unless this one would be empty.
            while plan.budget and sequence in self.running:
                if self._reserve(plan, sequence) or plan.chunks:
                    break
                self._preempt()
        while self.waiting and plan.budget and len(self.running) < self.sequences:
            if not self._admit():
                break
            self._reserve(plan, self.running[-1])
        return plan

    def complete(self, plan: Plan) -> None:
        """Note that a step was computed."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.computed = chunk.past + chunk.count
            if self.reuse:
                self.pool.register(sequence.table, sequence.tokens, sequence.computed)

    def _reserve(self, plan: Plan, sequence: Sequence) -> bool:
        """Plan the next tokens of a sequence if there are pages for them."""
        count = min(plan.budget, sequence.missing)
        chunk = Chunk(sequence, sequence.computed, count)
        if sequence.missing == 1:
            chunk.drafts = self._drafts(sequence, plan.budget - 1)
        start, stop = chunk.past, chunk.past + len(chunk.tokens)
        if self.pool.needed(sequence.table, start, stop) > self.pool.available:
            return False
        plan.copies += self.pool.writable(sequence.table, start, stop)
        plan.chunks.append(chunk)
        plan.budget -= stop - start
        return True

    def _drafts(self, sequence: Sequence, budget: int) -> list[int]:
        """Tokens to try after the next one, if there is room and there are pages for them."""
        if sequence.speculation is None:
            return []
        # Every other sequence may need a page for its own next token; guesses come after those.
        spare = max(0, self.pool.available - len(self.running))
        end = len(sequence.tokens)
        room = (len(sequence.table.pages) + spare) * self.pool.page_size - end
        rows = min(MOST_DRAFTS + 1, self.budget) // len(self.running)
        most = min(rows - 1, budget, room, sequence.longest - end - 1)
        return sequence.speculation.propose(sequence.tokens, most)

    def _admit(self) -> bool:
        """Let the oldest waiting sequence run if there are pages for all its tokens.

        One more is left for each running one, or the next few tokens would send it back.
        """
        sequence = self.waiting[0]
        if self.reuse:
            # The last token is computed in any case: its logits are wanted.
            sequence.table = self.pool.match(sequence.tokens[:-1], sequence.adapter)
            sequence.computed = len(sequence.table.pages) * self.pool.page_size
        needed = self.pool.needed(sequence.table, sequence.computed, len(sequence.tokens))
        if needed + len(self.running) > self.pool.available:
            self.pool.release(sequence.table)
            sequence.computed = 0
            return False
        if not sequence.stats.generated_tokens:
            sequence.stats.cached_tokens = sequence.computed
        self.running.append(self.waiting.popleft())
        return True

    def _preempt(self) -> None:
        """Send the newest running sequence back to the head of the queue, without its pages."""
        sequence = self.running.pop()
        self.pool.release(sequence.table)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
