"""A loaded model that answers: sequences in, tokens out."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from localllm.decoding import GenerationParams, Sampler, TextStream
from localllm.decoding.constraint import Constraint
from localllm.decoding.drafting import Drafter, PromptLookup, Speculation
from localllm.engine import memory
from localllm.engine.adapters import Adapter, Adapters
from localllm.engine.batch import Batch
from localllm.engine.draft_model import DraftModel
from localllm.engine.machine import available_memory, default_threads, kernels, require_threads
from localllm.engine.pages import PAGE_SIZE
from localllm.engine.reading import Reader
from localllm.engine.runner import Logits, NativeRunner, Rows, Runner, eager_runner
from localllm.engine.scheduler import STEP_TOKENS, Occupancy
from localllm.engine.sequence import Sequence, Stats, Token
from localllm.engine.stepping import Stepper
from localllm.errors import ContextFullError, UsageError
from localllm.gguf import GGUFFile
from localllm.models.config import ModelConfig, require_generating
from localllm.models.registry import load_definition
from localllm.ops.packed import PackedCache
from localllm.tokenize import StreamingDetokenizer, Tokenizer, load_tokenizer


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
        threads: that compute; 0: not on this machine's processors.
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
        threads: int = 0,
    ) -> None:
        if config.causal and context > runner.pages * runner.page_size:
            raise ValueError(f"{runner.pages} pages do not hold {context} tokens")
        self.runner = runner
        self.tokenizer = tokenizer
        self.file = file
        self.config = config
        self.context = context
        self.kv_cache = kv_cache
        self.drafter = drafter
        self.device = device
        self.threads = threads
        self.last_stats = Stats()
        self.adapters = Adapters(runner)
        self.default_adapter: str | None = None  # of sequences for which none is named
        # Jinja text; the model's own unless another one is set
        self.chat_template = file.get("tokenizer.chat_template", str, None)
        self.notes: list[str] = []  # what the user should know of how the model was loaded
        self._stepper = Stepper(runner, file, budget, kv_cache, config.causal)

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
            kv_type: "f32", "f16" or "int8".
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
        threads = (threads or default_threads()) if device == "cpu" else 0
        file = GGUFFile.open(path)
        model = load_definition(file, context)
        config = model.config
        available = max(0, available_memory() - reserved)
        chosen = memory.choose_context(file, config, context, available, kv_type)
        if chosen != (context or config.context_length):
            model = load_definition(file, chosen)
        # Where nothing is cached, one page that nobody takes keeps the books.
        pages = 1
        if config.causal:
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
                    threads=threads,
                    place=packed.place if packed else None,
                )
            else:
                runner = eager_runner(model, pages, PAGE_SIZE, device)
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
            threads=threads,
        )
        engine.notes += memory.notes(config, context, chosen)
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
        self.require_generating()  # vectors are made without one
        self.file.require_unchanged()
        model = load_definition(self.file, self.context)
        name = Path(path).resolve().name.removesuffix(".gguf") if name is None else name
        return self.adapters.load(path, name, model)

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter; UsageError where sequences use it, or there is none."""
        self.adapters.drop(name)

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
            UsageError: an empty prompt, a token id outside the vocabulary, no such adapter, or a
                model that generates no text.
            ContextFullError: the prompt leaves no room in the context.
        """
        self.require_generating()
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
        sequence = Sequence(
            tokens,
            sampler,
            stream,
            longest,
            ends=frozenset() if params.ignore_eos else self.tokenizer.eog_ids,
            speculation=speculation,
            logprobs=logprobs,
            reads_prompt=reads_prompt,
        )
        adapter = adapter or self.default_adapter
        if adapter is not None:
            self.adapters.use(adapter, sequence)
        return sequence

    def require_generating(self) -> None:
        """Raises UsageError where the model makes vectors of texts and generates none."""
        require_generating(self.file, self.config)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, and with it those that fork from it; ``step`` fills their outboxes."""
        self._stepper.scheduler.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take the pages of a sequence back; one that has ended is left alone."""
        self._stepper.scheduler.remove(sequence)
        self.adapters.release(sequence)

    @property
    def busy(self) -> bool:
        """Whether there is a sequence to step."""
        return self._stepper.busy

    @property
    def occupancy(self) -> Occupancy:
        """The sequences and pages in use; any thread may ask."""
        return self._stepper.scheduler.occupancy

    def logits(self, tokens: Ids[int], rows: int = 128) -> Iterator[Logits]:
        """Logits after every token of a text, float32[<= rows, vocab] at a time, nothing drawn.

        Raises:
            UsageError, ContextFullError: as of ``generate``.
        """
        self.require_generating()
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
        return self._stepper.read(sequences, output, most)

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

        Raises:
            OutOfPagesError: see ``Stepper.step``; other exceptions end all sequences.
        """
        self._stepper.step()

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
        return self._stepper.compute(batch, output)

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
