"""An answer that copies its prompt: what prompt lookup is worth where it can be worth much.

The task is to write a file again with one method renamed. The answer's tokens are given: the
sampler looks at every row of logits as a greedy one does, notes what it would have taken, and takes
the token of the edited file. So every model copies faultlessly, one of random weights too, and what
is measured is the runtime's part alone: the most that a model which follows the task can gain. What
the model would have said must be the same with drafts and without, token for token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from localllm.decoding import GenerationParams, Sampler, TextStream
from localllm.decoding.drafting import PromptLookup, Speculation
from localllm.engine.engine import Engine
from localllm.engine.runner import Logits
from localllm.engine.sequence import Sequence, Stats
from localllm.errors import LocalLLMError
from localllm.evaluate.summary import summary
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.ops.packed import PackedCache
from localllm.tokenize import StreamingDetokenizer, load_tokenizer

_FILE = '''\
class Shelf:
    """Books by title, and who has borrowed them."""

    def __init__(self):
        self.books = {}
        self.readers = {}

    def add(self, title, author):
        if title in self.books:
            raise KeyError(title)
        self.books[title] = author

    def lend(self, title, reader):
        if title not in self.books:
            raise KeyError(title)
        self.readers[title] = reader

    def give_back(self, title):
        return self.readers.pop(title, None)

    def report(self):
        for title, author in sorted(self.books.items()):
            reader = self.readers.get(title, "nobody")
            print(title, author, reader)
'''
_REQUEST = (
    f"Rename the method `lend` to `borrow`:\n\n{_FILE}\nThe whole file with the new name:\n\n"
)
_ANSWER = _FILE.replace("def lend", "def borrow")
_LONGEST = 256  # tokens of the answer; the change comes within them
_WARM_UP = 16


@dataclass(frozen=True)
class Task:
    """The prompt's tokens and the answer's."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        """Tokens of both together."""
        return len(self.prompt) + len(self.answer)


def copying_task(file: GGUFFile) -> Task:
    """The task in a model's own tokens.

    Raises:
        LocalLLMError: it is longer than the model's context.
    """
    tokenizer = load_tokenizer(file)
    answer = tokenizer.encode(_ANSWER, add_special=False)[:_LONGEST]
    task = Task(tokenizer.encode(_REQUEST), answer)
    context = load_definition(file).config.context_length
    if task.length > context:
        raise LocalLLMError(
            f"--copy: the task takes {task.length} tokens, "
            f"the context of {file.path.name} holds {context}"
        )
    return task


def measure_copying(
    path: Path,
    task: Task,
    threads: int,
    kv_type: str,
    repetitions: int,
    packed: PackedCache | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Speed of a model's `copying_task` with drafts and without, in turns.

    Returns:
        `prompt_tokens`, `tokens` (of the answer), tokens per second `with_drafts` and
        `without_drafts` (see `summary`), their `ratio`, `drafted_tokens`, `accepted_tokens`, and
        whether the model's own choices were the `same_tokens`.

    Raises:
        LocalLLMError: the model does not fit.
    """
    engine = Engine.load(path, context=task.length, threads=threads, kv_type=kv_type, packed=packed)
    rates: dict[bool, list[float]] = {True: [], False: []}
    choices: set[tuple[int, ...]] = set()
    drafting = Stats()
    _copy(engine, Task(task.prompt, task.answer[:_WARM_UP]), drafts=False)
    for repetition in range(repetitions):
        say(f"copying: {repetition + 1} of {repetitions}")
        for drafts in (True, False):
            chosen, stats = _copy(engine, task, drafts=drafts)
            choices.add(tuple(chosen))
            drafting = stats if drafts else drafting
            rates[drafts].append(stats.decode_tokens_per_second)
    return {
        "prompt_tokens": len(task.prompt),
        "tokens": len(task.answer),
        "with_drafts": summary(rates[True]),
        "without_drafts": summary(rates[False]),
        "ratio": median(rates[True]) / median(rates[False]),
        "drafted_tokens": drafting.drafted_tokens,
        "accepted_tokens": drafting.accepted_tokens,
        "same_tokens": len(choices) == 1,
    }


class _Led(Sampler):
    """Takes the tokens of a given answer, and notes those that the model is for."""

    def __init__(self, answer: list[int], vocab_size: int) -> None:
        params = GenerationParams(temperature=0, max_tokens=len(answer), ignore_eos=True)
        super().__init__(params, vocab_size)
        self._answer = iter(answer)
        self.chosen: list[int] = []

    def sample(self, logits: Logits) -> int:
        """See Sampler."""
        self.chosen.append(super().sample(logits))
        return next(self._answer)


def _copy(engine: Engine, task: Task, *, drafts: bool) -> tuple[list[int], Stats]:
    """The model's own choices, and what the answer took."""
    sampler = _Led(task.answer, engine.tokenizer.vocab_size)
    sequence = Sequence(
        task.prompt,
        sampler,
        TextStream(StreamingDetokenizer(engine.tokenizer)),
        task.length,
        speculation=Speculation(PromptLookup()) if drafts else None,
    )
    for _ in engine.run(sequence):
        pass
    return sampler.chosen, sequence.stats
