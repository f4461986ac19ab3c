"""Answers that follow a grammar: before each draw, what may not come next is ruled out.

The grammar is run by llguidance, which is imported where the first constraint is asked for.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from localllm.decoding.grammar import Grammar
from localllm.errors import UsageError
from localllm.tokenize.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_SPECIAL = b"\xff"  # before a token's bytes: no text of a grammar can hold it
_NOISE = re.compile(r"^\s*(\d+ \|.*|\^+)$|^at \d+\(\d+\): |failed to compile JSON schema: ", re.M)
_LONGEST_REASON = 300  # characters


class Constraint(Protocol):
    """What the tokens of one text have to follow; it knows those accepted so far."""

    @property
    def finished(self) -> bool:
        """Whether only the end may follow."""

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of the tokens that may not come next to -inf, in place.

        Args:
            logits: float32[vocab], or wider as models pad it.

        Raises:
            UsageError: no token may come, or following the grammar takes too much work.
        """

    def accept(self, token: int) -> None:
        """Take note of the token that was chosen; after a wrong one every `mask` fails."""


class ConstraintCompiler:
    """Makes constraints for the vocabulary of one model.

    Control tokens and tokens that end a text never are part of a constrained text, whatever they
    spell; only a grammar that asks for one by name has it. The first constraint takes a moment: all
    tokens are put into a tree, 1 s for 150,000 of them.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        ends = sorted(self._tokenizer.eog_ids)
        wrapper: Any = _Wrapper(self._tokenizer)
        return LLTokenizer(wrapper, eos_token=ends, slices=LLTokenizer.json_slices())

    def grammar(self) -> Grammar:
        """An empty grammar in which this model's control tokens can be named."""
        return Grammar(self._tokenizer.control_id)

    def compile(self, grammar: Grammar, start: str) -> GrammarConstraint:
        """The constraint to what `start`, an expression of the grammar, describes.

        Milliseconds for ordinary schemas, seconds for hostile ones; other threads run meanwhile.

        Raises:
            UsageError: a JSON schema in it is wrong, is not satisfiable or uses what is not
                supported, which the message names; or the model has no token that ends a text.
        """
        from llguidance import LLMatcher, LLParserLimits

        if not self._tokenizer.eog_ids:
            raise UsageError("the model has no token that ends a text: no output can be enforced")
        limits = LLParserLimits(verbose_errors=False)
        source = grammar.source(start)
        matcher = LLMatcher(self._vocabulary, source, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds out whether there is anything to begin with
            if not matcher.is_error():
                return GrammarConstraint(matcher, self._tokenizer.vocab_size)
        raise UsageError(f"the JSON schema cannot be enforced: {_reason(matcher)}")


class GrammarConstraint:
    """A `Constraint` to a grammar; see there."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._size = vocab_size
        self._bits = np.zeros((vocab_size + 31) // 32, np.uint32)

    def copy(self) -> GrammarConstraint:
        """Another one in the same state: a second text costs no second compilation."""
        return GrammarConstraint(self._matcher.deep_copy(), self._size)

    @property
    def finished(self) -> bool:
        """See `Constraint.finished`."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """See `Constraint.mask`; nothing beyond the vocabulary may come."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            reason = _reason(self._matcher)
            raise UsageError(f"the answer cannot go on as its format demands: {reason}")
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._size, bitorder="little")
        np.copyto(logits[: self._size], np.float32(-np.inf), where=bits == 0)
        logits[self._size :] = -np.inf

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""
        self._matcher.consume_token(token)


class _Wrapper:
    """A vocabulary as llguidance reads it."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids = ()  # told by `_SPECIAL`

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = min(tokenizer.eog_ids)
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        for token, text in enumerate(self.tokens):
            if tokenizer.is_control(token) or token in tokenizer.eog_ids:
                self.tokens[token] = _SPECIAL + text

    def __call__(self, text: str | bytes) -> list[int]:
        raise AssertionError("asked for only where tokens are forced, which no grammar here does")


def _reason(matcher: LLMatcher) -> str:
    error = matcher.get_error().replace("<non-verbose/>", "")
    if "NoExtension" in error:
        return "nothing satisfies it"
    return " ".join(_NOISE.sub("", error).split())[:_LONGEST_REASON]
