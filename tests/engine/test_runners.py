"""The two runners on real model files: one meaning, through the same pages."""

import os
from contextlib import closing

import numpy as np
import pytest

from localllm.decoding import GenerationParams
from localllm.engine.batch import Batch
from localllm.engine.engine import Engine
from localllm.engine.pages import PagePool, Table
from localllm.errors import ModelFileError, UsageError
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile
from localllm.models.registry import load_definition
from localllm.tokenize import load_tokenizer
from tests.engine.fakes import check_no_leak, greedy, ids

torch = pytest.importorskip("torch")
native = pytest.importorskip("localllm._native")

PROMPT = [(37 * i + 11) % 400 for i in range(90)]  # over more than one window of gemma3
FAR = {"eager": 2e-4, "f32": 2e-4, "f16": 2e-2, "int8": 0.5}  # what logits may differ, by KV type


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen3moe"])
def path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return random_model(
        folder / f"{request.param}.gguf", request.param, width=64, heads=2, kv_heads=1, experts=4
    )


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread():
    """Small products: the threads of torch would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def eager_engine(path, *, context=160, page_size=32, budget=512, kv_cache=True):
    from localllm.engine.eager_runner import EagerRunner

    file = GGUFFile.open(path)
    model = load_definition(file, context)
    runner = EagerRunner(model, pages=-(-context // page_size), page_size=page_size)
    return Engine(
        runner,
        load_tokenizer(file),
        file,
        model.config,
        context=context,
        budget=budget,
        kv_cache=kv_cache,
    )


def whole_text_logits(path, tokens):
    """[T, vocab] without pages or chunks."""
    from localllm.ops import eager

    model = load_definition(GGUFFile.open(path), 160)
    with torch.no_grad():
        return eager.run(model, torch.tensor(tokens))["logits"].numpy()


@pytest.mark.parametrize(("page_size", "rows"), [(32, 128), (8, 7), (1, 30)])
def test_eager_pages_change_nothing(path, page_size, rows):
    engine = eager_engine(path, page_size=page_size)
    found = np.concatenate(list(engine.logits(PROMPT, rows=rows)))
    np.testing.assert_allclose(found, whole_text_logits(path, PROMPT), rtol=0, atol=2e-4)
    check_no_leak(engine)


def test_a_file_cut_short_while_in_use_is_an_error(tmp_path):
    path = random_model(tmp_path / "model.gguf", "qwen2")
    engine = Engine.load(path, context=160, threads=2)
    answer = engine.generate(PROMPT, greedy(8))
    next(answer)
    os.truncate(path, 4096)
    with pytest.raises(ModelFileError, match=r"model\.gguf: the file was truncated while in use"):
        list(answer)
    check_no_leak(engine)
    with pytest.raises(ModelFileError, match="truncated"):
        next(engine.logits(PROMPT))
    # the tokenizer has all it needs: merges are looked up only now
    assert engine.tokenizer.decode(engine.tokenizer.encode("the quick fox")) == "the quick fox"


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
@pytest.mark.parametrize("rows", [128, 33, 5])
def test_native_is_eager(path, rows, kv_type):
    engine = Engine.load(path, context=160, threads=2, kv_type=kv_type)
    found = np.concatenate([part.copy() for part in engine.logits(PROMPT, rows=rows)])
    expected = whole_text_logits(path, PROMPT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=FAR[kv_type])
    check_no_leak(engine)


def test_greedy_answers_agree_with_chunks_and_without_a_cache(path):
    params = greedy(40)
    expected = ids(eager_engine(path).generate(PROMPT, params))
    assert ids(eager_engine(path, budget=7, page_size=4).generate(PROMPT, params)) == expected
    assert ids(eager_engine(path, kv_cache=False).generate(PROMPT, params)) == expected


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_native_answers_alone_together_and_from_known_pages(path, kv_type):
    prompts = [PROMPT, PROMPT[:64] + PROMPT[:10], PROMPT[5:20]]
    params = GenerationParams(temperature=0.7, seed=3, max_tokens=30, ignore_eos=True)

    def load():
        return Engine.load(path, context=160, kv_type=kv_type)

    alone = [ids(load().generate(prompt, params)) for prompt in prompts]
    engine = load()
    answers = [engine.generate(prompt, params) for prompt in prompts]
    first = [next(answer).id for answer in answers]
    found = [[one, *ids(answer)] for one, answer in zip(first, answers, strict=True)]
    assert found == alone
    assert ids(engine.generate(prompts[0], params)) == alone[0]
    assert engine.last_stats.cached_tokens == 64
    check_no_leak(engine)


@pytest.mark.parametrize("kind", ["eager", "f32", "f16", "int8"])
def test_forked_pages_are_copied_before_they_are_written(path, kind):
    if kind == "eager":
        engine = eager_engine(path)
    else:
        engine = Engine.load(path, context=160, threads=2, kv_type=kind)
    pool, runner = PagePool(5, 32), engine.runner
    parent = Table()
    pool.writable(parent, 0, 40)
    step(runner, [(parent, 0, PROMPT[:40])])
    twin = pool.fork(parent)
    for table in (parent, twin):
        for source, target in pool.writable(table, 40, 41):
            runner.copy_page(source, target)
    found = step(runner, [(parent, 40, [7]), (twin, 40, [9])])
    expected = [whole_text_logits(path, [*PROMPT[:40], token])[-1] for token in (7, 9)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=FAR[kind])


def step(runner, rows):
    """Logits of the last row of each (table, past, tokens)."""
    tables = np.zeros((len(rows), max(len(table.pages) for table, _, _ in rows)), np.int32)
    for line, (table, _, _) in zip(tables, rows, strict=True):
        line[: len(table.pages)] = table.pages
    lengths = np.array([len(tokens) for _, _, tokens in rows], np.int32)
    batch = Batch(
        tokens=np.concatenate([tokens for _, _, tokens in rows]).astype(np.int32),
        lengths=lengths,
        past=np.array([past for _, past, _ in rows], np.int32),
        tables=tables,
        rows=np.cumsum(lengths, dtype=np.int32) - 1,
    )
    return runner.step(batch).copy()


def test_native_without_a_cache_says_the_same(path):
    params = greedy(12)
    expected = ids(Engine.load(path, context=160).generate(PROMPT, params))
    assert ids(Engine.load(path, context=160, kv_cache=False).generate(PROMPT, params)) == expected


def test_a_long_prompt_in_chunks(path):
    """More than one step's tokens: the first steps ask for no logits."""
    prompt = [(13 * i) % 400 for i in range(700)]
    engine = Engine.load(path, context=1000)
    expected = np.argmax(whole_text_logits(path, prompt)[-1])
    with closing(engine.generate(prompt, greedy(5))) as answer:
        assert next(answer).id == expected
    check_no_leak(engine)


def test_load_refuses_what_cannot_be(path):
    for values, message in [
        ({"kv_type": "q4"}, "--kv-type q4: must be one of f32, f16, int8"),
        ({"threads": 0}, "--threads 0: must be >= 1"),
        ({"context": 0}, "--ctx 0: must be >= 1"),
        ({"context": -5}, "--ctx -5: must be >= 1"),
        ({"device": "nowhere"}, "--device nowhere: "),
    ]:
        with pytest.raises(UsageError, match=message):
            Engine.load(path, **values)


def test_load_on_a_device_of_torch(path):
    engine = Engine.load(path, context=160, device="cpu:0")
    assert type(engine.runner).__name__ == "EagerRunner"
    assert ids(engine.generate(PROMPT, greedy(5))) == ids(
        eager_engine(path).generate(PROMPT, greedy(5))
    )


def test_loading_says_what_the_context_is(path):
    engine = Engine.load(path)
    assert engine.context == 1024
    assert engine.notes == []
    (note,) = Engine.load(path, context=2000).notes
    assert note == "--ctx 2000 is more than the 1024 tokens the model was trained for"
    assert engine.chat_template is None or "<|im_start|>" in engine.chat_template
