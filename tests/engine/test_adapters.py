"""Adapters in the engine: the merged model is the oracle, and nobody sees another's adapter."""

from threading import Thread

import numpy as np
import pytest

from localllm.decoding import GenerationParams
from localllm.engine.batch import Batch
from localllm.engine.engine import Engine
from localllm.errors import LocalLLMError, UsageError
from localllm.evaluate.synthetic import random_model
from tests.engine.fakes import check_no_leak, fake_engine, greedy, ids
from tests.engine.test_runners import eager_engine
from tests.models.adapting import merged, random_pairs, write_adapter

pytest.importorskip("torch")
pytest.importorskip("localllm._native")

PROMPT = [(37 * i + 11) % 400 for i in range(90)]
RANKS = {"one": 5, "two": 16}
ALPHA = 3.0


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma3", "phi3"])
def files(request, tmp_path_factory):
    """The base, and for each adapter its file and the model that it is merged into."""
    arch, folder = request.param, tmp_path_factory.mktemp("models")
    base = random_model(folder / "base.gguf", arch, width=64, heads=2, kv_heads=1)
    made = {}
    for seed, (name, rank) in enumerate(RANKS.items()):
        # one adapts all, the other leaves layers and weights of fused linears out
        pairs = random_pairs(base, rank, seed, only="blk.1." if name == "two" else "")
        pairs.pop("blk.1.attn_k.weight" if name == "two" else None, None)
        path = write_adapter(folder / f"{name}.gguf", pairs, arch, ALPHA)
        made[name] = path, merged(folder / f"{name}-merged.gguf", base, pairs, ALPHA / rank)
    return base, made


def load(path, **options):
    return Engine.load(path, context=160, threads=2, **options)


def logits(engine, tokens, adapter=None, rows=128):
    """[T, vocab] of a text in chunks of so many tokens, with an adapter."""
    number = -1 if adapter is None else engine.adapters[adapter].number
    pages = np.arange(engine.runner.pages, dtype=np.int32)[None]
    found = []
    for start in range(0, len(tokens), rows):
        part = np.array(tokens[start : start + rows], np.int32)
        batch = Batch(
            part,
            np.array([len(part)], np.int32),
            np.array([start], np.int32),
            pages,
            np.arange(len(part), dtype=np.int32),
            np.array([number], np.int32),
        )
        found.append(engine.compute(batch).copy())
    return np.concatenate(found)


@pytest.mark.parametrize("rows", [128, 33, 1])
@pytest.mark.parametrize("kind", ["native", "eager"])
def test_an_adapter_is_the_merged_model(files, kind, rows):
    base, made = files
    engine = load(base) if kind == "native" else eager_engine(base)
    for name, (path, _) in made.items():
        engine.load_adapter(path, name)
    plain = logits(engine, PROMPT, rows=rows)
    np.testing.assert_array_equal(plain, np.concatenate(list(engine.logits(PROMPT, rows=rows))))
    for name, (_, whole) in made.items():
        expected = np.concatenate(list(eager_engine(whole).logits(PROMPT)))
        found = logits(engine, PROMPT, name, rows)
        assert np.abs(found - plain).max() > 1, "the adapter changes nothing"
        atol = 3e-2 if kind == "native" else 1e-3  # the native cache holds float16
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_several_adapters_in_one_batch_are_each_alone(files):
    base, made = files
    engine = load(base)
    for name, (path, _) in made.items():
        engine.load_adapter(path, name)
    params = GenerationParams(temperature=0.7, seed=3, max_tokens=20, ignore_eos=True)
    wishes = [
        (PROMPT, "one"),
        (PROMPT, None),
        (PROMPT, "two"),
        (PROMPT[:70], "one"),
        (PROMPT[40:45], "two"),
    ]
    alone = []
    for prompt, adapter in wishes:
        fresh = load(base)
        if adapter:
            fresh.load_adapter(made[adapter][0], adapter)
        alone.append(ids(fresh.run(fresh.sequence(prompt, params, adapter=adapter))))
    assert alone[0] != alone[1] != alone[2] != alone[0]
    sequences = [engine.sequence(prompt, params, adapter=adapter) for prompt, adapter in wishes]
    for sequence in sequences:
        engine.add(sequence)
    while engine.busy:
        engine.step()
    assert [ids(sequence.outbox) for sequence in sequences] == alone
    check_no_leak(engine)


def test_rows_of_a_batch_have_the_bits_they_have_alone(files):
    base, made = files
    engine = load(base)
    for name, (path, _) in made.items():
        engine.load_adapter(path, name)
    numbers = np.array([engine.adapters["two"].number, -1, engine.adapters["one"].number], np.int32)
    tables = np.arange(3, dtype=np.int32)[:, None]

    def step(which, past, length):
        tokens = np.concatenate([PROMPT[7 * s + past : 7 * s + past + length] for s in which])
        counts = np.full(len(which), length, np.int32)
        rows = np.cumsum(counts, dtype=np.int32)[::-1] - 1  # selected in another order
        batch = Batch(
            tokens.astype(np.int32),
            counts,
            np.full(len(which), past, np.int32),
            np.ascontiguousarray(tables[which]),
            np.ascontiguousarray(rows),
            np.ascontiguousarray(numbers[which]),
        )
        return engine.compute(batch).copy()[::-1]

    together = [step([0, 1, 2], 0, 13), step([0, 1, 2], 13, 1)]
    for sequence in range(3):
        np.testing.assert_array_equal(step([sequence], 0, 13)[0], together[0][sequence])
        np.testing.assert_array_equal(step([sequence], 13, 1)[0], together[1][sequence])


def test_quantised_weights_with_an_adapter(tmp_path):
    base = random_model(tmp_path / "base.gguf", "llama", "Q4_0", width=64, heads=2, kv_heads=1)
    pairs = random_pairs(base, 256)
    path = write_adapter(tmp_path / "wide.gguf", pairs, "llama", 64.0, dtype=np.float16)
    whole = merged(tmp_path / "merged.gguf", base, pairs, 64.0 / 256)
    engine = load(base)
    engine.load_adapter(path)
    assert engine.adapters["wide"].rank == 256
    found = logits(engine, PROMPT, "wide")
    expected = np.concatenate(list(eager_engine(whole).logits(PROMPT)))
    # what the quantised activations of the base model leave
    error = np.abs(logits(engine, PROMPT) - np.concatenate(list(eager_engine(base).logits(PROMPT))))
    assert np.abs(found - expected).mean() < 2 * error.mean() + 1e-3


def test_pages_are_not_shared_between_adapters(files):
    base, made = files
    engine = load(base, texts=4)
    for name, (path, _) in made.items():
        engine.load_adapter(path, name)
    answers = {}
    for adapter in (None, "one", "two"):
        answers[adapter] = ids(engine.run(engine.sequence(PROMPT, greedy(8), adapter=adapter)))
        assert engine.last_stats.cached_tokens == 0
    for adapter, answer in answers.items():
        assert ids(engine.run(engine.sequence(PROMPT, greedy(8), adapter=adapter))) == answer
        assert engine.last_stats.cached_tokens == 64
    engine.drop_adapter("one")
    engine.load_adapter(made["one"][0], "one")  # as far as anybody knows, another one
    assert ids(engine.run(engine.sequence(PROMPT, greedy(8), adapter="one"))) == answers["one"]
    assert engine.last_stats.cached_tokens == 0


def test_adapters_come_and_go_while_a_text_is_written(files):
    base, made = files
    engine = load(base)
    engine.load_adapter(made["one"][0], "one")
    alone = ids(engine.run(engine.sequence(PROMPT, greedy(40), adapter="one")))
    rounds = []

    def come_and_go():
        for _ in range(20):
            engine.load_adapter(made["two"][0], "two")
            engine.drop_adapter("two")
            rounds.append(1)

    thread = Thread(target=come_and_go)
    thread.start()
    answers = []
    while thread.is_alive():
        answers.append(ids(engine.run(engine.sequence(PROMPT, greedy(40), adapter="one"))))
    thread.join()
    assert len(rounds) == 20
    assert all(answer == alone for answer in answers)
    assert list(engine.adapters) == ["one"]


def test_drafts_change_nothing(files):
    base, made = files
    prompt = (PROMPT[:12] * 8)[:90]
    answers = []
    for options in ({}, {"drafter": None}):
        engine = load(base, **options)
        engine.load_adapter(made["one"][0], "one")
        engine.default_adapter = "one"
        answers.append(ids(engine.generate(prompt, greedy(40))))
    assert answers[0] == answers[1]


class Spy:
    """A fake runner's adapters."""

    def __init__(self, engine):
        self.live = set()
        self.made = 0
        engine.runner.add_adapter = self.add
        engine.runner.drop_adapter = self.live.remove

    def add(self, terms):
        self.made += 1
        self.live.add(self.made)
        return self.made


@pytest.fixture
def loaded(monkeypatch):
    """A fake engine with the adapter "one", and what its runner holds."""
    engine = fake_engine()
    spy = Spy(engine)

    class File:
        path, rank, nbytes = "one.gguf", 4, 100

        def read(self):
            return {}

    monkeypatch.setattr("localllm.engine.adapters.open_adapter", lambda path, model: File())
    monkeypatch.setattr("localllm.engine.engine.load_definition", lambda file, context: None)
    engine.load_adapter("some/one.gguf")
    return engine, spy


def test_an_adapter_in_use_stays(loaded):
    engine, spy = loaded
    waiting = engine.sequence([1, 2], greedy(3), adapter="one")  # not even queued
    with pytest.raises(UsageError, match="adapter 'one': in use by 1 texts under way"):
        engine.drop_adapter("one")
    answer = engine.run(waiting)
    next(answer)
    with pytest.raises(UsageError, match="in use"):
        engine.drop_adapter("one")
    list(answer)
    engine.drop_adapter("one")
    assert not spy.live
    assert not engine.adapters
    with pytest.raises(UsageError, match="adapter 'one': none of that name is loaded"):
        engine.sequence([1, 2], greedy(3), adapter="one")
    with pytest.raises(UsageError, match="none of that name"):
        engine.drop_adapter("one")


def test_sequences_that_were_given_up_hold_no_adapter(loaded):
    engine, spy = loaded
    cancelled = engine.sequence([1, 2], greedy(3), adapter="one")
    engine.add(cancelled)
    engine.step()
    engine.remove(cancelled)
    failed = engine.sequence([1, 2], greedy(3), adapter="one")
    engine.add(failed)
    engine.runner.fail = LocalLLMError("no")
    with pytest.raises(LocalLLMError, match="no"):
        engine.step()
    engine.sequence([1, 2], greedy(3), adapter="one")  # forgotten before it was queued
    engine.drop_adapter("one")
    assert not spy.live


def test_names_and_memory(loaded, monkeypatch):
    engine, spy = loaded
    with pytest.raises(UsageError, match="adapter 'one': the name is taken"):
        engine.load_adapter("one.gguf")
    with pytest.raises(UsageError, match="a name is needed"):
        engine.load_adapter("one.gguf", "")
    monkeypatch.setattr("localllm.engine.adapters.available_memory", lambda: 100)
    with pytest.raises(LocalLLMError, match="not enough memory: the adapter needs"):
        engine.load_adapter("two.gguf")
    assert spy.made == 1
    assert list(engine.adapters) == ["one"]


def test_a_batch_names_the_adapters_of_its_sequences(loaded):
    engine, _ = loaded
    number = engine.adapters["one"].number
    for adapter in (None, "one"):
        engine.add(engine.sequence([1, 2], greedy(2), adapter=adapter))
    engine.step()
    assert engine.runner.batches[-1].adapters.tolist() == [-1, number]
    assert engine.runner.batches[-1].adapters.dtype == np.int32
