"""A loaded model that answers: sequences in, tokens out."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np

from localllm.decoding import GenerationParams, Sampler, TextStream
from localllm.decoding.constraint import Constraint
from localllm.decoding.drafting import Drafter, PromptLookup, Speculation
from localllm.decoding.logprobs import Logprob, logprob
from localllm.engine import memory
from localllm.engine.adapters import Adapter, Adapters
from localllm.engine.batch import Batch
from localllm.engine.draft_model import DraftModel
from localllm.engine.machine import available_memory, default_threads, kernels, require_threads
from localllm.engine.pages import PAGE_SIZE, OutOfPagesError, PageLeakError, PagePool
from localllm.engine.reading import Reader
from localllm.engine.runner import Logits, NativeRunner, Rows, Runner
from localllm.engine.scheduler import STEP_TOKENS, Chunk, Occupancy, Scheduler
from localllm.engine.sequence import Sequence, Stats, Token
from localllm.errors import ContextFullError, LocalLLMError, UsageError
from localllm.gguf import GGUFFile
from localllm.models.config import ModelConfig
from localllm.models.registry import load_definition
from localllm.ops.packed import PackedCache
from localllm.tokenize import StreamingDetokenizer, Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from localllm.models.blocks import Model


class Engine:
    """A model, its tokenizer, its KV pages, and the sequences under way.

    Several generations may be under way at once: whichever is asked for its next token steps all.
    ``last_stats`` are those of the generation begun last, up to date while it runs.

    Args:
        runner: computes the batches.
        tokenizer: of the same model.
        file: the open model file.
        config: what it says of the model.
        context: most tokens of a prompt and its answer together.
        budget: most tokens in a step.
        kv_cache: False recomputes everything for every token, to see what the cache is worth.
        drafter: makes what guesses an answer's next tokens; None guesses nothing.
        device: where the runner computes: "cpu", or a device of torch.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        file: GGUFFile,
        config: ModelConfig,
        *,
        context: int,
        budget: int = STEP_TOKENS,
        kv_cache: bool = True,
        drafter: Callable[[], Drafter] | None = None,
        device: str = "cpu",
    ) -> None:
        if context > runner.pages * runner.page_size:
            raise ValueError(f"{runner.pages} pages do not hold {context} tokens")
        self.runner = runner
        self.tokenizer = tokenizer
        self.file = file
        self.config = config
        self.context = context
        self.kv_cache = kv_cache
        self.drafter = drafter
        self.device = device
        self.last_stats = Stats()
        self.adapters = Adapters(runner)
        self.default_adapter: str | None = None  # of sequences for which none is named
        self.notes: list[str] = []  # what the user should know of how the model was loaded
        self._scheduler = self._fresh_scheduler(budget)
        self._readers: WeakSet[Reader] = WeakSet()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        context: int | None = None,
        texts: int = 1,
        threads: int | None = None,
        kv_type: str = "f16",
        device: str = "cpu",
        kv_cache: bool = True,
        packed: PackedCache | None = None,
        drafter: Callable[[], Drafter] | None = PromptLookup,
        reserved: int = 0,
    ) -> Engine:
        """Load a model file.

        Args:
            path: of the GGUF file.
            context: in tokens; None: what the model was trained for, at most 8192, less where
                memory is short.
            texts: how many of that length the KV memory holds; fewer where memory is short.
            threads: None: the physical cores that this process may use.
            kv_type: "f16" or "int8".
            device: "cpu", or a device of torch.
            kv_cache: see the class.
            packed: where packed weights are kept for the next start; None: nowhere.
            drafter: see the class; on the CPU only.
            reserved: bytes of the machine's memory that others will still take.

        Raises:
            ModelFileError: the file cannot be run.
            UsageError: an impossible argument.
            LocalLLMError: the machine has too little memory, said before anything is loaded.
        """
        memory.require_known(kv_type)
        require_threads(threads)
        if device == "cpu":
            kernels()
        file = GGUFFile.open(path)
        model = load_definition(file, context)
        config = model.config
        available = max(0, available_memory() - reserved)
        chosen = memory.choose_context(file, config, context, available, kv_type)
        if chosen != (context or config.context_length):
            model = load_definition(file, chosen)
        room = memory.choose_room(file, config, chosen, texts, available, kv_type)
        pages = -(-room // PAGE_SIZE)
        # Weights are packed or checked with the interpreter lock released: time for the vocabulary.
        with ThreadPoolExecutor(1) as beside:
            tokenizer = beside.submit(load_tokenizer, file)
            if device == "cpu":
                runner: Runner = NativeRunner(
                    model,
                    pages=pages,
                    page_size=PAGE_SIZE,
                    kv_type=kv_type,
                    threads=threads or default_threads(),
                    place=packed.place if packed else None,
                )
            else:
                runner = _eager_runner(model, pages, device)
            vocabulary = tokenizer.result()
        file.release()  # each small thing that was read had much around it mapped
        engine = cls(
            runner,
            vocabulary,
            file,
            config,
            context=chosen,
            kv_cache=kv_cache,
            # Elsewhere a row's result depends on the rows beside it: drafts would change tokens.
            drafter=drafter if device == "cpu" else None,
            device=device,
        )
        engine.notes += _notes(config, context, chosen)
        return engine

    def draft_with(self, small: Engine) -> None:
        """Let a smaller model guess the next tokens.

        Raises:
            UsageError: it has another vocabulary, or no drafts are made.
        """
        ours, theirs = self.tokenizer, small.tokenizer
        size = ours.vocab_size
        require_drafts(self.device, self.kv_cache)
        if theirs.vocab_size != size or any(
            ours.token_bytes(token) != theirs.token_bytes(token) for token in range(size)
        ):
            raise UsageError(f"--draft {small.file.path}: has another vocabulary than the model")
        pages = np.arange(small.runner.pages, dtype=np.int32)
        model = DraftModel(small.compute, pages, small.context, size)
        self.drafter = lambda: model

    def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Load a LoRA adapter, a GGUF file or a folder of PEFT, while sequences are under way.

        Its name is that of the file, without ".gguf", where none is given.

        Raises:
            UsageError, ModelFileError, LocalLLMError: see ``Adapters.load``.
        """
        self.file.require_unchanged()
        model = load_definition(self.file, self.context)
        name = Path(path).resolve().name.removesuffix(".gguf") if name is None else name
        return self.adapters.load(path, name, model)

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter; UsageError where sequences use it, or there is none."""
        self.adapters.drop(name)

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja template, if the file has one."""
        return self.file.get("tokenizer.chat_template", str, None)

    def generate(self, prompt: Ids[int], params: GenerationParams) -> Iterator[Token]:
        """Answer a prompt, a token at a time; closing the iterator gives the pages back.

        Raises:
            UsageError, ContextFullError: as of ``sequence``.
        """
        return self.run(self.sequence(prompt, params))

    def sequence(
        self,
        prompt: Ids[int],
        params: GenerationParams,
        *,
        adapter: str | None = None,
        context: int | None = None,
        logprobs: int | None = None,
        reads_prompt: bool = False,
        constraint: Constraint | None = None,
        shown: Container[int] = (),
    ) -> Sequence:
        """What ``add`` takes: a checked prompt and everything its answer needs. Any thread may ask.

        Args:
            prompt: token ids.
            params: how to answer.
            adapter: name of a loaded one; None: `default_adapter`.
            context: most tokens of prompt and answer, at most the engine's.
            logprobs: see `Sequence`.
            reads_prompt: see `Sequence`.
            constraint: what the answer has to follow; this answer's alone.
            shown: control tokens that are part of its text.

        Raises:
            UsageError: an empty prompt, a token id outside the vocabulary, or no such adapter.
            ContextFullError: the prompt leaves no room in the context.
        """
        tokens = [int(token) for token in prompt]
        longest = self.context if context is None else min(context, self.context)
        self._require_fitting(tokens, longest)
        sampler = Sampler(params, self.tokenizer.vocab_size, tokens, constraint)
        # After a control token the answer begins a text of its own, else it continues the prompt's.
        at_start = self.tokenizer.is_control(tokens[-1])
        detokenizer = StreamingDetokenizer(self.tokenizer, at_start=at_start, shown=shown)
        stream = TextStream(detokenizer, params.stop)
        if params.max_tokens is not None:
            longest = min(longest, len(tokens) + params.max_tokens)
        speculation = Speculation(self.drafter()) if self.drafter and self.kv_cache else None
        sequence = Sequence(tokens, sampler, stream, longest, speculation, logprobs, reads_prompt)
        adapter = adapter or self.default_adapter
        if adapter is not None:
            self.adapters.use(adapter, sequence)
        return sequence

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, and with it those that fork from it; ``step`` fills their outboxes."""
        self._scheduler.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take the pages of a sequence back; one that has ended is left alone."""
        self._scheduler.remove(sequence)
        self.adapters.release(sequence)

    @property
    def busy(self) -> bool:
        """Whether there is a sequence to step."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def occupancy(self) -> Occupancy:
        """The sequences and pages in use; any thread may ask."""
        return self._scheduler.occupancy

    def logits(self, tokens: Ids[int], rows: int = 128) -> Iterator[Logits]:
        """Logits after every token of a text, float32[<= rows, vocab] at a time, nothing drawn.

        Raises:
            UsageError, ContextFullError: as of ``generate``.
        """
        return self._rows_of(tokens, "logits", rows)

    def hidden(self, tokens: Ids[int]) -> Iterator[Rows]:
        """Final hidden states, normed, of every token: float32[<= STEP_TOKENS, width] at a time.

        Raises:
            UsageError, ContextFullError: as of ``generate``.
        """
        return self._rows_of(tokens, "hidden", STEP_TOKENS)

    def read(self, texts: Ids[Ids[int]], output: str, most: int = STEP_TOKENS) -> Reader:
        """What computes an output for every token of some texts; to be closed.

        Args:
            texts: token ids.
            output: "logits" or "hidden".
            most: tokens in a step.

        Raises:
            UsageError, ContextFullError: as of ``generate``.
        """
        prompts = [[int(token) for token in text] for text in texts]
        for prompt in prompts:
            self._require_fitting(prompt, self.context, answer=0)
        sampler = Sampler(GenerationParams(), self.tokenizer.vocab_size)
        stream = TextStream(StreamingDetokenizer(self.tokenizer))
        sequences = [Sequence(prompt, sampler, stream, self.context) for prompt in prompts]
        compute = partial(self.compute, output=output)
        scheduler = self._scheduler
        reader = Reader(scheduler.pool, compute, sequences, lambda: min(most, scheduler.room))
        self._readers.add(reader)
        return reader

    def _rows_of(self, text: Ids[int], output: str, most: int) -> Iterator[Rows]:
        reader = self.read([text], output, most)
        try:
            while reader.waiting:
                for _, rows in reader.step():
                    yield rows
        finally:
            reader.close()

    def step(self) -> None:
        """Compute one step of all sequences under way.

        An exception that is not one sequence's own ends them all; the engine stays usable.

        Raises:
            OutOfPagesError: readers hold the pages that all sequences wait for; none was ended.
        """
        started = time.perf_counter()
        try:
            plan = self._scheduler.schedule()
            if not plan.chunks:
                raise OutOfPagesError(
                    "no sequence can go on: other readers hold all pages of the KV memory"
                )
            for source, target in plan.copies:
                self.runner.copy_page(source, target)
            rows = iter(self.compute(Batch.of(plan.chunks)))
            chunks = list(plan.chunks)
            decoding = [chunk.sequence.stats.generated_tokens > 0 for chunk in chunks]
            self._scheduler.complete(plan)
            for chunk in plan.chunks:
                found = [next(rows) for _ in range(chunk.wanted)]
                self._read_prompt(chunk, found)
                if not chunk.draws:
                    continue
                for fork in self._scheduler.fork(chunk.sequence):
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

    def run(self, sequence: Sequence) -> Iterator[Token]:
        """The tokens of a sequence that fits the context; closing it gives the pages back."""
        self.last_stats = sequence.stats
        self.add(sequence)
        try:
            while True:
                while not sequence.outbox:
                    if sequence.error is not None:
                        raise sequence.error
                    self.step()
                token = sequence.outbox.popleft()
                yield token
                if token.finish_reason is not None:
                    return
        finally:
            self.remove(sequence)

    def compute(self, batch: Batch, output: str = "logits") -> Rows:
        """An output of a batch: see ``Runner.step``.

        Raises:
            ModelFileError: the model file was cut short meanwhile.
        """
        self.file.require_unchanged()  # embeddings are read from the mapped file
        return self.runner.step(batch, output)

    def _read_prompt(self, chunk: Chunk, rows: list[Logits]) -> None:
        """Note how likely the prompt's own tokens were, where that is wanted."""
        sequence = chunk.sequence
        if not sequence.reads_prompt:
            return
        known = sequence.prompt_logprobs
        for after, row in enumerate(rows, chunk.past + 1):
            # What is computed again after it gave way is known.
            if len(known) + 1 == after < sequence.stats.prompt_tokens:
                known.append(self._logprob(sequence, row, sequence.tokens[after]))

    def _logprob(self, sequence: Sequence, row: Logits, token: int) -> Logprob:
        return logprob(row[: self.tokenizer.vocab_size], token, sequence.logprobs or 0)

    def _draw(self, chunk: Chunk, rows: list[Logits]) -> None:
        """Draw the token after a chunk, and further ones while its drafts are what is drawn."""
        for row, draft in zip(rows, [*chunk.drafts, None], strict=True):
            try:
                token = chunk.sequence.sampler.sample(row)
            except LocalLLMError as error:  # this sequence's own; the others go on
                self._end(chunk.sequence, error)
                return
            goes_on = self._append(chunk.sequence, token, row)
            if token != draft:
                return
            chunk.accepted += 1
            if not goes_on:
                return
            chunk.sequence.computed += 1

    def _append(self, sequence: Sequence, token: int, row: Logits) -> bool:
        """Add a token drawn from a row to a text, and end it where it ends; False where it has."""
        stats, params, stream = sequence.stats, sequence.sampler.params, sequence.stream
        sequence.sampler.accept(token)
        sequence.tokens.append(token)
        stats.generated_tokens += 1
        if not self.kv_cache:
            sequence.computed = 0
        text, reason, full = "", None, False
        if token in self.tokenizer.eog_ids and not params.ignore_eos:
            reason = "stop"
        else:
            text = stream.add(token)
            done = stats.generated_tokens == params.max_tokens
            if done or len(sequence.tokens) >= sequence.longest:
                reason, full = "length", not done
        if reason is not None and stream.stopped is None:
            text += stream.finish()
        if stream.stopped is not None:
            reason, full = "stop", False
        stats.finish_reason, stats.context_full = reason, full
        likely = None if sequence.logprobs is None else self._logprob(sequence, row, token)
        sequence.outbox.append(Token(token, text, reason, full, likely))
        if reason is not None:
            self._end(sequence)
        return reason is None

    def _note_time(self, chunks: list[Chunk], decoding: list[bool], elapsed: float) -> None:
        """Add a step's seconds to the statistics of its sequences."""
        prompts = sum(chunk.count for chunk, one in zip(chunks, decoding, strict=True) if not one)
        self._scheduler.pace.took(elapsed, sum(decoding), prompts)
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

    def _end(self, sequence: Sequence, error: BaseException | None = None) -> None:
        sequence.error = error
        self._scheduler.remove(sequence)

    def _abandon(self, error: BaseException) -> None:
        """End all sequences after a step that broke off; keep the pages' content if it is sound."""
        if not isinstance(error, Exception):  # an interrupt is for whoever ran the step
            error = LocalLLMError("the computation was interrupted")
        queued = [*self._scheduler.running, *self._scheduler.waiting]
        sequences = queued + [fork for sequence in queued for fork in sequence.forks]
        for sequence in sequences:
            sequence.error = error
            sequence.forks = []
        try:
            for sequence in sequences:
                self._scheduler.remove(sequence)
            self._scheduler.pool.check([t for reader in self._readers for t in reader.tables])
        except (PageLeakError, LookupError):
            for reader in self._readers:
                reader.abandon()
            self._scheduler = self._fresh_scheduler(self._scheduler.budget)

    def _fresh_scheduler(self, budget: int) -> Scheduler:
        pool = PagePool(self.runner.pages, self.runner.page_size)
        return Scheduler(pool, budget, min(64, budget), reuse=self.kv_cache)

    def _require_fitting(self, tokens: list[int], context: int, answer: int = 1) -> None:
        """A prompt that can be computed, with room for ``answer`` tokens after it."""
        if not tokens:
            raise UsageError("the prompt is empty: there is nothing to continue")
        for token in tokens:
            if not 0 <= token < self.tokenizer.vocab_size:
                vocabulary = self.tokenizer.vocab_size
                raise UsageError(f"token id {token}: must be >= 0 and < {vocabulary}")
        if len(tokens) + answer > context:
            hint = "a shorter prompt fits"
            if context < self.context:
                hint = f"up to {self.context} can be asked for"
            elif self.context < self.config.context_length:
                hint = f"--ctx takes up to {self.config.context_length} with this model"
            raise ContextFullError(
                f"the prompt is {len(tokens)} tokens long; the context holds {context}, "
                "the answer included",
                hint,
            )


def require_drafts(device: str, kv_cache: bool) -> None:
    """Raises UsageError where drafts are not made: on other devices they would change tokens."""
    if device != "cpu":
        raise UsageError(f"--draft: nothing is drafted with --device {device}, only on the cpu")
    if not kv_cache:
        raise UsageError("--draft: nothing is drafted without the KV cache")


def _notes(config: ModelConfig, asked: int | None, context: int) -> list[str]:
    trained = config.context_length
    if asked is not None and asked > trained:
        return [f"--ctx {asked} is more than the {trained} tokens the model was trained for"]
    if asked is None and context < min(trained, memory.DEFAULT_CONTEXT):
        return [f"the context is {context} tokens: memory is short"]
    return []


def _eager_runner(model: Model, pages: int, device: str) -> Runner:
    try:
        import torch

        torch.empty(0, device=device)
    except ImportError as error:
        raise LocalLLMError(
            f"--device {device}: needs torch", "pip install 'localllm[torch]'"
        ) from error
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    from localllm.engine.eager_runner import EagerRunner

    return EagerRunner(model, pages=pages, page_size=PAGE_SIZE, device=device)
