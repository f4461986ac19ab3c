"""Hidden states and what is made of them, beside sequences that are stepped meanwhile."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from localllm.engine.embedding import Embedding, default_pooling, shortened
from localllm.engine.engine import Engine
from localllm.engine.memory import choose_context, estimate
from localllm.engine.pages import OutOfPagesError
from localllm.errors import ContextFullError, LocalLLMError, UsageError
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from tests.engine.fakes import (
    PROMPT,
    WIDTH,
    check_no_leak,
    expected_tokens,
    fake_engine,
    fake_logits,
    greedy,
    ids,
)
from tests.models.encoders import CONTEXT, random_bert


def hidden_of(tokens):
    """What the fake model says: [tokens, WIDTH]."""
    return np.array([fake_logits(tokens[: at + 1])[:WIDTH] for at in range(len(tokens))])


def embedded(engine, texts, pooling="mean"):
    embedding = Embedding(engine, texts, pooling)
    while embedding.waiting:
        embedding.step()
    return embedding.vectors


def texts_of(*lengths):
    random = np.random.default_rng(len(lengths))
    return [random.integers(0, 60, length).tolist() for length in lengths]


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen3moe"])
def path(request, tmp_path_factory):
    pytest.importorskip("localllm._native")
    folder = tmp_path_factory.mktemp("models")
    return random_model(
        folder / f"{request.param}.gguf", request.param, width=64, heads=2, kv_heads=1, experts=4
    )


def test_hidden_states_of_a_text():
    engine = fake_engine(1024, page_size=4)
    (text,) = texts_of(700)
    parts = list(engine.hidden(text))
    assert [part.shape for part in parts] == [(512, WIDTH), (188, WIDTH)]
    np.testing.assert_array_equal(np.concatenate(parts), hidden_of(text))
    with closing(engine.hidden(text)) as unfinished:
        next(unfinished)
    check_no_leak(engine)


def test_the_core_is_the_reference(path):
    torch = pytest.importorskip("torch")
    from localllm.models.registry import load_definition
    from localllm.ops import eager

    tokens = [(37 * i + 11) % 400 for i in range(530)]
    with torch.no_grad():
        model = load_definition(GGUFFile.open(path), 640)
        expected = eager.run(model, torch.tensor(tokens))["hidden"].numpy()
    for device, atol in (("cpu", 1e-2), ("cpu:0", 1e-4)):
        engine = Engine.load(path, context=640, device=device)
        found = np.concatenate([part.copy() for part in engine.hidden(tokens)])
        error = np.abs(found - expected).max()
        print(device, "max error", error)
        assert error <= atol
        check_no_leak(engine)


def test_texts_together_are_texts_alone_wherever_they_are_cut(path):
    texts = texts_of(3, 40, 1, 513, 90, *[17] * 20)
    engine = Engine.load(path, context=1024)
    together = embedded(engine, texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(embedded(engine, [text])[0], vector)
    engine._stepper.scheduler.budget = 23
    np.testing.assert_array_equal(embedded(engine, texts), together)
    check_no_leak(engine)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_pooling(pooling):
    texts = texts_of(5, 600, 1)
    vectors = embedded(fake_engine(1024), texts, pooling)
    assert vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        rows = hidden_of(text)
        expected = {"mean": rows.mean(0), "last": rows[-1], "cls": rows[0]}[pooling]
        np.testing.assert_allclose(vector, expected, rtol=1e-5)


def test_many_short_texts_take_few_steps():
    engine = fake_engine(1024, page_size=4)
    texts = texts_of(*[10] * 200)
    vectors = embedded(engine, texts)
    assert [len(batch.tokens) for batch in engine.runner.batches] == [512, 512, 512, 464]
    np.testing.assert_allclose(vectors[7], hidden_of(texts[7]).mean(0), rtol=1e-5)


def test_fewer_pages_take_more_steps():
    engine = fake_engine(32, pages=8, page_size=4)
    texts = texts_of(*[10] * 9)  # 3 pages each
    vectors = embedded(engine, texts)
    assert [len(batch.lengths) for batch in engine.runner.batches] == [2, 2, 2, 2, 1]
    np.testing.assert_allclose(vectors[8], hidden_of(texts[8]).mean(0), rtol=1e-5)
    check_no_leak(engine)


def test_a_text_and_an_answer_wait_for_each_others_pages():
    engine = fake_engine(1024, pages=256, page_size=4)
    long, short = texts_of(1000, 900)
    answer = engine.generate(PROMPT, greedy(120))
    found = [next(answer).id]
    first, second = Embedding(engine, [long], "last"), Embedding(engine, [short], "last")
    first.step()  # all pages but six, which the answer soon has
    with pytest.raises(OutOfPagesError):
        second.step()
    sequence = engine._stepper.scheduler.running[0]
    for _ in range(6 * 4 - len(PROMPT)):
        engine.step()
    with pytest.raises(OutOfPagesError):
        engine.step()
    while first.waiting:
        first.step()
    found += [token.id for token in answer]
    assert found == expected_tokens(PROMPT, 120)
    assert sequence.error is None
    while second.waiting:
        second.step()
    np.testing.assert_array_equal(first.vectors[0], hidden_of(long)[-1])
    np.testing.assert_array_equal(second.vectors[0], hidden_of(short)[-1])
    check_no_leak(engine)


def test_a_text_leaves_answers_their_pace():
    engine = fake_engine(2048, pages=600)
    engine._stepper.scheduler.pace.took(1.0, 1, 0)
    engine._stepper.scheduler.pace.took(1.0, 0, 50)
    answer = engine.generate(PROMPT, greedy(5))
    next(answer)
    (text,) = texts_of(700)
    embedding = Embedding(engine, [text], "last")
    embedding.step()
    assert 1 < len(engine.runner.batches[-1].tokens) < 100
    list(answer)
    embedding.step()
    assert len(engine.runner.batches[-1].tokens) > 500


def test_a_failed_step_of_others_leaves_a_text_alone():
    engine = fake_engine(1024)
    (text,) = texts_of(700)
    embedding = Embedding(engine, [text], "last")
    embedding.step()
    engine.runner.fail = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        list(engine.generate(PROMPT, greedy(5)))
    assert ids(engine.generate(PROMPT, greedy(5))) == expected_tokens(PROMPT, 5)
    embedding.step()
    np.testing.assert_array_equal(embedding.vectors[0], hidden_of(text)[-1])
    engine._stepper.scheduler.pool.check([])


def test_a_text_whose_pages_were_lost_says_so():
    engine = fake_engine(1024)
    embedding = Embedding(engine, texts_of(700), "last")
    embedding.step()
    # The books are wrong, so all pages are made anew.
    engine._stepper.scheduler.pool._references[-1] += 1
    engine.runner.fail = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        list(engine.generate(PROMPT, greedy(5)))
    with pytest.raises(LocalLLMError, match="interrupted"):
        embedding.step()
    embedding.close()
    check_no_leak(engine)


def test_closing_gives_the_pages_back():
    engine = fake_engine(1024)
    embedding = Embedding(engine, texts_of(5, 700), "mean")
    embedding.step()
    embedding.step()
    embedding.close()
    assert not embedding.waiting
    check_no_leak(engine)


@pytest.mark.parametrize(
    ("text", "error"), [([], UsageError), ([64], UsageError), ([1] * 33, ContextFullError)]
)
def test_what_cannot_be_embedded(text, error):
    with pytest.raises(error):
        Embedding(fake_engine(32), [[1], text], "mean")
    assert embedded(fake_engine(32), [[1] * 32]).shape == (1, WIDTH)


def test_shortened():
    vectors = np.array([[3, 4, 12], [0, 0, 5], [0, 0, 0], [3e30, 4e30, 1]], np.float32)
    assert shortened(vectors, None, False) is not None
    np.testing.assert_array_equal(shortened(vectors, 2, False), vectors[:, :2])
    expected = np.array([[0.6, 0.8], [0, 0], [0, 0], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(shortened(vectors, 2, True), expected, rtol=1e-6)
    assert shortened(vectors, None, True).dtype == np.float32
    with pytest.raises(LocalLLMError, match="not finite"):
        shortened(np.array([[np.nan, 1]], np.float32), 1, True)


@pytest.mark.parametrize(("number", "pooling"), [(1, "mean"), (2, "cls"), (3, "last"), (4, "mean")])
def test_the_files_own_pooling(number, pooling):
    values = {"general.architecture": "qwen3", "qwen3.pooling_type": number}
    assert default_pooling(GGUFFile("x.gguf", 3, values, {})) == pooling
    del values["qwen3.pooling_type"]
    assert default_pooling(GGUFFile("x.gguf", 3, values, {})) == "mean"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pytest.importorskip("localllm._native")
    return random_bert(tmp_path_factory.mktemp("models") / "bert.gguf")


def test_texts_that_see_themselves_whole_are_never_cut(encoder):
    engine = Engine.load(encoder)
    assert engine.context == CONTEXT
    engine._stepper.scheduler.budget = 50
    batches = []
    compute = engine.runner.step
    engine.runner.step = lambda batch, output: batches.append(batch) or compute(batch, output)
    texts = texts_of(CONTEXT, 3, 40, 7, *[10] * 7, 1)
    together = embedded(engine, texts)
    assert [len(batch.lengths) for batch in batches] == [1, 3, 5, 3]
    assert all((batch.past == 0).all() for batch in batches)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(embedded(engine, [text])[0], vector)
    assert engine.occupancy.held == 0
    with pytest.raises(ContextFullError):
        embedded(engine, texts_of(CONTEXT + 1))


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_an_encoder_on_torch_is_the_same(encoder, pooling):
    pytest.importorskip("torch")
    texts = texts_of(5, 33, 1)
    expected = embedded(Engine.load(encoder, device="cpu:0"), texts, pooling)
    np.testing.assert_allclose(
        embedded(Engine.load(encoder), texts, pooling), expected, rtol=0, atol=1e-5
    )


def test_an_encoder_generates_nothing(encoder, tmp_path):
    engine = Engine.load(encoder)
    for ask in (
        lambda: engine.sequence([2, 5, 3], greedy(3)),
        lambda: engine.logits([2, 5, 3]),
        lambda: engine.load_adapter(tmp_path),
    ):
        with pytest.raises(UsageError, match=r"bert.gguf: an embedding model \(bert\): it gener"):
            ask()
    with pytest.raises(UsageError, match=f"--ctx 97: this model has {CONTEXT} positions"):
        Engine.load(encoder, context=CONTEXT + 1)


def test_an_encoder_keeps_no_keys_and_values(encoder):
    file = GGUFFile.open(encoder)
    config = load_definition(file).config
    need = estimate(file, config, CONTEXT)
    assert need.kv == 0
    assert choose_context(file, config, None, need.total) == CONTEXT
    with pytest.raises(LocalLLMError, match="not enough memory"):
        choose_context(file, config, None, need.total - 1)
    longer = replace(config, context_length=4096)  # a step that holds a text of that length
    assert estimate(file, longer, 4096).working > 7 * estimate(file, longer, 512).working
