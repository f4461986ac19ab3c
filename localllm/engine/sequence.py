"""One text in the making: its tokens, its pages, its sampler, and the tokens not yet fetched."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from localllm.decoding import Sampler, TextStream
from localllm.decoding.drafting import Speculation
from localllm.decoding.logprobs import Logprob
from localllm.engine.pages import PageNames, Table


@dataclass
class Token:
    """One step of an answer.

    ``text`` is what became safe to show: whole characters, no part of a stop sequence; it may be
    empty. ``finish_reason`` is set on the last token: "stop" (the model ended or a stop sequence
    came) or "length" (``max_tokens`` reached, or, where ``context_full``, the context).
    """

    id: int
    text: str
    finish_reason: str | None = None
    context_full: bool = False
    logprob: Logprob | None = None  # where they are asked for


@dataclass
class Stats:
    """What one generation took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in pages kept from before
    generated_tokens: int = 0
    prefill_seconds: float = 0.0  # until the first token
    decode_seconds: float = 0.0  # from the first token to the last
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of the drafted ones
    finish_reason: str | None = None
    context_full: bool = False

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed of reading the prompt, cached tokens not counted; 0 before there is one."""
        read = self.prompt_tokens - self.cached_tokens
        return read / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of writing: tokens after the first over the time after it."""
        written = max(0, self.generated_tokens - 1)
        return written / self.decode_seconds if self.decode_seconds else 0.0


class Sequence:
    """State of one generation.

    Args:
        prompt: token ids, at least one.
        sampler: draws this sequence's tokens, and knows what was asked for.
        stream: turns them into text.
        longest: tokens of prompt and answer at most.
        speculation: drafts tokens for it, if anything does.
        logprobs: how many of the likeliest tokens are told with each; None: not even its own.
        reads_prompt: whether `prompt_logprobs` are wanted; its prompt is computed whole then.

    Attributes:
        forks: further answers to the same prompt, which begin where it is computed.
        prompt_logprobs: of the prompt's tokens but the first, as far as they are computed.
        adapter: the runner's number of the one it is computed with; None: with the model alone.
    """

    def __init__(
        self,
        prompt: list[int],
        sampler: Sampler,
        stream: TextStream,
        longest: int,
        speculation: Speculation | None = None,
        logprobs: int | None = None,
        reads_prompt: bool = False,
    ) -> None:
        self.tokens = list(prompt)
        self.sampler = sampler
        self.stream = stream
        self.longest = longest
        self.speculation = speculation
        self.logprobs = logprobs
        self.reads_prompt = reads_prompt
        self.prompt_logprobs: list[Logprob] = []
        self.forks: list[Sequence] = []
        self.adapter: int | None = None
        self.computed = 0  # leading tokens whose keys and values lie in the pages
        self.table = Table()
        self.names = PageNames()
        self.outbox: deque[Token] = deque()
        self.error: BaseException | None = None
        self.stats = Stats(prompt_tokens=len(prompt))

    @property
    def ended(self) -> bool:
        """Whether its last token was drawn, or an error ended it."""
        return self.error is not None or self.stats.finish_reason is not None

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be drawn."""
        return len(self.tokens) - self.computed
