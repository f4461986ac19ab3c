"""Tokens, seconds and likelihoods of a request, in the words of its API."""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Any, Protocol

from localllm.decoding.logprobs import Logprob
from localllm.engine.sequence import Sequence
from localllm.tokenize.base import Tokenizer


class Counted(Protocol):
    """The answers to one request: `service.Answers`, or what a `Record` keeps of them."""

    @property
    def leaders(self) -> List[Sequence]:
        """The first answer to each prompt."""

    @property
    def sequences(self) -> List[Sequence]:
        """All answers."""


def prompt_tokens(answers: Counted) -> int:
    """Tokens of all prompts."""
    return sum(first.stats.prompt_tokens for first in answers.leaders)


def cached_tokens(answers: Counted) -> int:
    """Those of them that had been computed before."""
    return sum(first.stats.cached_tokens for first in answers.leaders)


def completion_tokens(answers: Counted) -> int:
    """Tokens of all answers so far."""
    return sum(one.stats.generated_tokens for one in answers.sequences)


def usage(answers: Counted) -> dict[str, Any]:
    """As OpenAI counts."""
    prompt, written = prompt_tokens(answers), completion_tokens(answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached_tokens(answers)},
    }


def timings(answers: Counted) -> dict[str, float]:
    """As llama-server: milliseconds of the first answer, and how many drafts came true."""
    first = answers.sequences[0].stats
    return {
        "cache_n": first.cached_tokens,
        "prompt_n": first.prompt_tokens - first.cached_tokens,
        "prompt_ms": 1000 * first.prefill_seconds,
        "prompt_per_second": first.prefill_tokens_per_second,
        "predicted_n": first.generated_tokens,
        "predicted_ms": 1000 * first.decode_seconds,
        "predicted_per_second": first.decode_tokens_per_second,
        "draft_n": first.drafted_tokens,
        "draft_n_accepted": first.accepted_tokens,
    }


def likelihood(tokenizer: Tokenizer, likely: Logprob) -> dict[str, Any]:
    """How likely a token was, as OpenAI tells it."""

    def entry(token: int, value: float) -> dict[str, Any]:
        spelt = tokenizer.token_bytes(token)
        return {"token": spelt.decode("utf-8", "replace"), "logprob": value, "bytes": list(spelt)}

    top = [entry(token, value) for token, value in likely.top]
    return entry(likely.token, likely.logprob) | {"top_logprobs": top}
