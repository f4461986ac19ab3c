"""A model without arithmetic: its logits are a hash of all tokens before them.

It reads that history through the block tables, as attention does, so that any mistake in the paging
(a wrong page, a stale one, one shared that should have been copied) changes the answer.
"""

from hashlib import blake2b

import numpy as np

from localllm.decoding import GenerationParams
from localllm.engine.engine import Engine
from localllm.gguf import GGUFFile

VOCABULARY = 64
WIDTH = 8
EOG = 63
PROMPT = [5, 9, 2, 33, 41, 7, 7, 8, 12, 50, 3]


def fake_logits(history):
    """float32[VOCABULARY]: what the model says after these tokens."""
    data = np.asarray(history, np.int64).tobytes()
    parts = [blake2b(data, digest_size=64, salt=bytes([i])).digest() for i in range(2)]
    return np.frombuffer(b"".join(parts), np.uint16).astype(np.float32) / 8192


class FakeRunner:
    def __init__(self, pages, page_size):
        self.pages = pages
        self.page_size = page_size
        self.memory = np.full((pages, page_size), -1, np.int64)
        self.batches = []
        self.fail = None  # an exception to raise in the next step

    def step(self, batch, output="logits"):
        self.batches.append(batch)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        assert batch.lengths.sum() == len(batch.tokens)
        assert all(
            array.dtype == np.int32
            for array in (batch.tokens, batch.lengths, batch.past, batch.tables, batch.rows)
        )
        assert batch.lengths.min() > 0
        ends = np.cumsum(batch.lengths)
        written = set()
        for end, length, past, table in zip(
            ends, batch.lengths, batch.past, batch.tables, strict=True
        ):
            positions = past + np.arange(length)
            slots = table[positions // self.page_size], positions % self.page_size
            places = set(zip(*map(np.ndarray.tolist, slots), strict=True))
            assert written.isdisjoint(places), "two rows write to one place"
            written |= places
            self.memory[slots] = batch.tokens[end - length : end]
        logits = [self._history(batch, ends, row) for row in batch.rows]
        rows = np.array(logits, np.float32).reshape(len(batch.rows), VOCABULARY)
        return rows[:, :WIDTH] if output == "hidden" else rows

    def _history(self, batch, ends, row):
        sequence = int(np.searchsorted(ends, row, "right"))
        position = batch.past[sequence] + row - (ends[sequence] - batch.lengths[sequence])
        positions = np.arange(position + 1)
        pages = batch.tables[sequence][positions // self.page_size]
        history = self.memory[pages, positions % self.page_size]
        assert (history >= 0).all(), "attention reads what was never written"
        return fake_logits(history)

    def copy_page(self, source, target):
        self.memory[target] = self.memory[source]


class FakeTokenizer:
    vocab_size = VOCABULARY
    eog_ids = frozenset({EOG})
    strips_space = False

    def token_bytes(self, token):
        return "é".encode()[token % 2 : token % 2 + 1] if token < 2 else bytes([48 + token])

    def is_control(self, token):
        return token == EOG


class FakeConfig:
    causal = True
    context_length = 1024
    width = WIDTH


def fake_engine(context=256, *, pages=None, page_size=4, budget=512, kv_cache=True, drafter=None):
    runner = FakeRunner(pages or -(-context // page_size), page_size)
    return Engine(
        runner,
        FakeTokenizer(),
        GGUFFile("fake.gguf", 3, {}, {}),
        FakeConfig(),
        context=context,
        budget=budget,
        kv_cache=kv_cache,
        drafter=drafter,
    )


def greedy(count, **values):
    return GenerationParams(temperature=0, max_tokens=count, ignore_eos=True, **values)


def expected_tokens(prompt, count):
    """The greedy answer by definition."""
    history = list(prompt)
    for _ in range(count):
        history.append(int(fake_logits(history).argmax()))
    return history[len(prompt) :]


def ids(tokens):
    return [token.id for token in tokens]


def check_no_leak(engine):
    """Nothing is under way, so every page must be free or kept."""
    assert not engine._stepper.scheduler.running
    assert not engine._stepper.scheduler.waiting
    engine._stepper.scheduler.pool.check([])
    assert engine._stepper.scheduler.pool.available == engine.runner.pages
