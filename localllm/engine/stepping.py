"""The sequences under way on one runner: one step computes the next tokens of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from weakref import WeakSet

from localllm.engine.batch import Batch
from localllm.engine.pages import OutOfPagesError, PageLeakError, PagePool
from localllm.engine.reading import Reader, WholeReader
from localllm.engine.runner import Logits, Rows, Runner
from localllm.engine.scheduler import Chunk, Scheduler
from localllm.engine.sequence import Sequence
from localllm.errors import LocalLLMError
from localllm.gguf import GGUFFile

MOST_SEQUENCES = 64  # that run at once; the others wait


class Stepper:
    """Steps sequences, and gives readers of the same pages their turns.

    Args:
        runner: computes the batches.
        file: the model's.
        budget: most tokens in a step.
        kv_cache: False: everything is computed again for every token.
        causal: see ``ModelConfig``.

    Attributes:
        scheduler: who is computed next; a new one where the books of the old one broke.
        readers: those that hold pages, or will.
    """

    def __init__(
        self, runner: Runner, file: GGUFFile, budget: int, kv_cache: bool, causal: bool
    ) -> None:
        self.readers: WeakSet[Reader] = WeakSet()
        self._runner = runner
        self._file = file
        self._kv_cache = kv_cache
        self._reader = Reader if causal else WholeReader
        self.scheduler = self._fresh_scheduler(budget)

    @property
    def busy(self) -> bool:
        """Whether there is a sequence to step."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    def compute(self, batch: Batch, output: str) -> Rows:
        """An output of a batch: see ``Runner.step``.

        Raises:
            ModelFileError: the model file was cut short meanwhile.
        """
        self._file.require_unchanged()  # embeddings are read from the mapped file
        return self._runner.step(batch, output)

    def read(self, texts: Iterable[Sequence], output: str, most: int) -> Reader:
        """A reader of texts, with at most so many tokens in a step; see ``Engine.read``."""
        scheduler = self.scheduler
        compute = partial(self.compute, output=output)
        reader = self._reader(scheduler.pool, compute, texts, lambda: min(most, scheduler.room))
        self.readers.add(reader)
        return reader

    def step(self) -> None:
        """Compute one step of all sequences under way.

        An exception that is not one sequence's own ends them all; the engine stays usable.

        Raises:
            OutOfPagesError: readers hold the pages that all sequences wait for; none was ended.
        """
        started = time.perf_counter()
        try:
            plan = self.scheduler.schedule()
            if not plan.chunks:
                raise OutOfPagesError(
                    "no sequence can go on: other readers hold all pages of the KV memory"
                )
            for source, target in plan.copies:
                self._runner.copy_page(source, target)
            rows = iter(self.compute(Batch.of(plan.chunks), "logits"))
            chunks = list(plan.chunks)
            decoding = [chunk.sequence.stats.generated_tokens > 0 for chunk in chunks]
            self.scheduler.complete(plan)
            for chunk in plan.chunks:
                found = [next(rows) for _ in range(chunk.wanted)]
                chunk.sequence.read_prompt(chunk.past, found)
                if not chunk.draws:
                    continue
                for fork in self.scheduler.fork(chunk.sequence):
                    chunks.append(Chunk(fork, fork.computed, 0))
                    self._draw(chunks[-1], found[-1:])
                self._draw(chunk, found[-1 - len(chunk.drafts) :])
            decoding += [False] * (len(chunks) - len(decoding))
            self._note_time(chunks, decoding, time.perf_counter() - started)
        except OutOfPagesError:
            raise
        except BaseException as error:
            self._abandon(error)
            raise

    def _draw(self, chunk: Chunk, rows: list[Logits]) -> None:
        """Draw what comes after a chunk; what goes wrong there is its sequence's own."""
        sequence = chunk.sequence
        try:
            chunk.accepted = sequence.draw(rows, chunk.drafts)
        except LocalLLMError as error:
            sequence.error = error
        if not self._kv_cache:
            sequence.computed = 0
        if sequence.ended:
            self.scheduler.remove(sequence)

    def _note_time(self, chunks: list[Chunk], decoding: list[bool], elapsed: float) -> None:
        """Add a step's seconds to the statistics of its sequences."""
        prompts = sum(chunk.count for chunk, one in zip(chunks, decoding, strict=True) if not one)
        self.scheduler.pace.took(elapsed, sum(decoding), prompts)
        only_decoding = all(chunk.count == 1 for chunk in chunks)
        for chunk, decodes in zip(chunks, decoding, strict=True):
            stats, speculation = chunk.sequence.stats, chunk.sequence.speculation
            if decodes:
                stats.decode_seconds += elapsed
            else:
                stats.prefill_seconds += elapsed
            stats.drafted_tokens += len(chunk.drafts)
            stats.accepted_tokens += chunk.accepted
            if speculation is not None and decodes and only_decoding:
                speculation.took(elapsed, len(chunk.drafts), chunk.accepted)

    def _abandon(self, error: BaseException) -> None:
        """End all sequences after a step that broke off; keep the pages' content if it is sound."""
        if not isinstance(error, Exception):  # an interrupt is for whoever ran the step
            error = LocalLLMError("the computation was interrupted")
        queued = [*self.scheduler.running, *self.scheduler.waiting]
        sequences = queued + [fork for sequence in queued for fork in sequence.forks]
        for sequence in sequences:
            sequence.error = error
            sequence.forks = []
        try:
            for sequence in sequences:
                self.scheduler.remove(sequence)
            self.scheduler.pool.check([t for reader in self.readers for t in reader.tables])
        except (PageLeakError, LookupError):
            for reader in self.readers:
                reader.abandon()
            self.scheduler = self._fresh_scheduler(self.scheduler.budget)

    def _fresh_scheduler(self, budget: int) -> Scheduler:
        pool = PagePool(self._runner.pages, self._runner.page_size)
        return Scheduler(pool, budget, min(MOST_SEQUENCES, budget), reuse=self._kv_cache)
