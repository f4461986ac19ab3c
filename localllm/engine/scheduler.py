"""Who computes what in the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from localllm.decoding.drafting import MOST_DRAFTS
from localllm.engine.pace import Pace
from localllm.engine.pages import OutOfPagesError, PagePool
from localllm.engine.sequence import Sequence

# Most tokens in a step. Weights are read once a step, so a prompt is computed faster in long ones,
# until arithmetic is what takes the time. Memory for activations grows with it, and so does the
# time that an answer waits for a long prompt beside it. llama.cpp has the same default.
STEP_TOKENS = 512


PROMPT_ROWS = 32  # of a prompt whose logits are wanted, in a step: a row is a whole vocabulary


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

    @property
    def wanted(self) -> int:
        """How many of its last rows' logits are wanted."""
        if self.sequence.reads_prompt and self.past < self.sequence.stats.prompt_tokens:
            return self.count
        return 1 + len(self.drafts) if self.draws else 0


@dataclass
class Plan:
    """One step: pages to copy first, in order, then the chunks, computed in one batch."""

    budget: int  # tokens that may still be added
    copies: list[tuple[int, int]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class Occupancy:
    """How many sequences run and wait, and how many pages are held, kept for reuse, and free."""

    running: int
    waiting: int
    held: int
    kept: int
    free: int

    @property
    def pages(self) -> int:
        """All pages."""
        return self.held + self.kept + self.free


class Scheduler:
    """First come, first served, with decode rows and prompt chunks in one batch.

    Decode rows go first, so that a long prompt does not stop answers under way; prompts share what
    their pace leaves of the step's token budget. A prompt whose beginning another one is just
    computing waits for that. When pages run out the newest running sequence gives its pages back
    and waits to be computed again (its tokens and its sampler stay: nothing is lost).

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
        self.pace = Pace()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first

    @property
    def occupancy(self) -> Occupancy:
        """As things are now; any thread may ask."""
        pool = self.pool
        kept, available = pool.kept, pool.available
        free = max(0, available - kept)
        held = pool.pages - kept - free
        return Occupancy(len(self.running), len(self.waiting), held, kept, free)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind all others."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and take its pages back; one that is not here is left alone.

        Answers that wait for its prompt wait for it as before, the first of them in its place.
        """
        place = 0
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            place = self.waiting.index(sequence)
            self.waiting.remove(sequence)
        else:
            for leader in [*self.running, *self.waiting]:
                if sequence in leader.forks:
                    leader.forks.remove(sequence)
            return
        self.pool.release(sequence.table)
        if sequence.forks:
            heir, *heir.forks = sequence.forks
            sequence.forks = []
            self.waiting.insert(place, heir)

    def schedule(self) -> Plan:
        """The next step; empty only where nothing is queued."""
        plan = Plan(self.budget)
        decoding = [s for s in self.running if s.missing == 1]
        for sequence in decoding:
            # Those that may have to give way are newer, so none of them is in the plan yet.
            while plan.budget and sequence in self.running and not self._reserve(plan, sequence, 1):
                self._preempt()
        answers = len(plan.chunks)
        if plan.budget and self.waiting:
            self._admit_waiting()
        prompts = [s for s in self.running if s not in decoding]
        room = plan.budget
        if answers:
            room = min(room, self.pace.allowance(answers, len(prompts)))
        for sequence, most in _shares(prompts, room):
            # A prompt that finds no pages waits for a later step, unless this one would be empty.
            while (count := min(most, room)) > 0 and sequence in self.running:
                if self._reserve(plan, sequence, count):
                    room -= plan.chunks[-1].count
                if plan.chunks:
                    break
                self._preempt()
        return plan

    @property
    def room(self) -> int:
        """Tokens that may be computed before the next step, so that answers keep their pace."""
        answers = sum(sequence.missing == 1 for sequence in self.running)
        return min(self.budget, self.pace.allowance(answers, 1)) if answers else self.budget

    def complete(self, plan: Plan) -> None:
        """Note that a step was computed."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.computed = chunk.past + chunk.count
            full = sequence.computed // self.pool.page_size
            if self.reuse and full > sequence.table.named:
                self.pool.register(sequence.table, self._names(sequence, full))

    def fork(self, sequence: Sequence) -> list[Sequence]:
        """Let the answers that waited for this one's prompt run on its pages."""
        forks, sequence.forks = sequence.forks, []
        place = self.running.index(sequence) + 1
        for fork in forks:
            fork.table = self.pool.fork(sequence.table)
            fork.computed = sequence.computed
            fork.stats.cached_tokens = sequence.stats.cached_tokens
            fork.stats.prefill_seconds = sequence.stats.prefill_seconds
        self.running[place:place] = forks
        return forks

    def _reserve(self, plan: Plan, sequence: Sequence, most: int) -> bool:
        """Plan the next tokens of a sequence, at most so many, if there are pages for them."""
        count = min(most, sequence.missing)
        if sequence.reads_prompt:
            count = min(count, PROMPT_ROWS)
        chunk = Chunk(sequence, sequence.computed, count)
        if sequence.missing == 1:
            chunk.drafts = self._drafts(sequence, plan.budget - 1)
        start, stop = chunk.past, chunk.past + count + len(chunk.drafts)
        try:
            plan.copies += self.pool.writable(sequence.table, start, stop)
        except OutOfPagesError:
            return False
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

    def _admit_waiting(self) -> None:
        """Let waiting sequences run, the oldest first, as long as there are pages for them."""
        prompts = [s for s in self.running if s.missing > 1]
        promised = sum(self._needed(s) for s in prompts)
        under_way = {name for s in prompts for name in self._prompt_names(s)}
        for sequence in list(self.waiting):
            if len(self.running) + 1 + len(sequence.forks) > self.sequences and self.running:
                return
            names = self._prompt_names(sequence)
            known = self.pool.known(names)
            if known < len(names) and names[known] in under_way:
                continue  # its beginning is being computed, and will be found then
            sequence.table = self.pool.match(names)
            sequence.computed = known * self.pool.page_size
            needed = self._needed(sequence)
            # One page more is left for each running one, or the next few tokens would send it back.
            if needed + promised + len(self.running) > self.pool.available:
                self.pool.release(sequence.table)
                sequence.computed = 0
                return
            promised += needed
            under_way.update(names)
            if not sequence.stats.generated_tokens:
                sequence.stats.cached_tokens = sequence.computed
            self.waiting.remove(sequence)
            self.running.append(sequence)

    def _needed(self, sequence: Sequence) -> int:
        """Pages that the rest of a sequence's tokens takes."""
        return self.pool.needed(sequence.table, sequence.computed, len(sequence.tokens))

    def _prompt_names(self, sequence: Sequence) -> list[bytes]:
        """Of the pages that need not be computed if they are known: without the last token's."""
        if not self.reuse or sequence.reads_prompt:
            return []
        return self._names(sequence, (len(sequence.tokens) - 1) // self.pool.page_size)

    def _names(self, sequence: Sequence, count: int) -> list[bytes]:
        names, tokens = sequence.names, sequence.tokens
        return names.first(count, tokens, self.pool.page_size, sequence.adapter)

    def _preempt(self) -> None:
        """Send the newest running sequence back to the head of the queue, without its pages."""
        sequence = self.running.pop()
        self.pool.release(sequence.table)
        sequence.computed = 0
        self.waiting.appendleft(sequence)


def _shares(prompts: list[Sequence], room: int) -> Iterator[tuple[Sequence, int]]:
    """The order in which prompts may take of the room, and how much each at most.

    The one that is soonest done goes first, so that a short one need not wait for a long one; it
    leaves half, so that the long one gets on in any case.
    """
    if not prompts:
        return
    soonest = min(prompts, key=lambda sequence: sequence.missing)
    yield soonest, room if len(prompts) == 1 else max(1, room // 2)
    for sequence in prompts:
        if sequence is not soonest:
            yield sequence, room
