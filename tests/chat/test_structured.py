"""Answers that are JSON, after reasoning or at once, by the bundled model."""

import json
from importlib.resources import files

import jsonschema
import pytest

from localllm.chat.reasoning import ReasoningParser
from localllm.chat.structured import ANY_OBJECT, json_constraint
from localllm.decoding import GenerationParams, Sampler
from localllm.decoding.constraint import ConstraintCompiler
from localllm.decoding.drafting import Speculation
from localllm.engine.engine import Engine
from tests.decoding.test_constraint import accept_text, compiler, tiny_chat

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ANSWER = '{"name": "Zoë", "age": 3, "tags": []}'


@pytest.mark.parametrize(
    ("prompt", "thinking", "text"),
    [
        ("", False, ANSWER),
        ("", False, "\n\n" + ANSWER),
        ("", True, ANSWER),
        ("", True, "<think>\nhm {\n</thin>k> x</think>\n\n" + ANSWER),
        ("", True, "<think></think>" + ANSWER),
        ("", True, "\n[THINK]hm[/THINK] " + ANSWER),
        ("<|assistant|><think>\n", False, "hm <think></think>" + ANSWER),
        ("<|assistant|><think>\n", True, "</think>\n\n" + ANSWER),
        ("[THINK]", False, "a</think>[/THINK]" + ANSWER),
        ("<think>\n\n</think>\n\n", False, ANSWER),
    ],
)
def test_what_is_allowed(prompt, thinking, text):
    found = json_constraint(compiler(), SCHEMA, prompt, thinking)
    accept_text(found, tiny_chat(), text)
    assert found.finished
    assert ReasoningParser(prompt).add(text, done=True)[1].strip() == ANSWER


@pytest.mark.parametrize(
    ("prompt", "thinking", "text"),
    [
        ("", False, "<think>"),
        ("", False, "Sure"),
        ("", True, "hm</think>"),
        ("", True, "<think>a</think>so"),
        ("", True, "<think>a</think>" + "\n" * 9),
        ("<think>", False, "a</think><think>"),
        ("<think>\n\n</think>\n\n", False, "<think>"),
        ("", False, ANSWER + "\n"),
    ],
)
def test_what_is_not(prompt, thinking, text):
    found = json_constraint(compiler(), SCHEMA, prompt, thinking)
    with pytest.raises(AssertionError):
        accept_text(found, tiny_chat(), text)


@pytest.fixture(scope="module")
def engine():
    return Engine.load(str(files("localllm") / "assets" / "tiny-chat.gguf"), context=512, threads=1)


def answer(engine, seed, prompt, drafted, schema=SCHEMA):
    """Tokens of a very random answer, and its text."""
    ids = engine.tokenizer.encode(prompt, parse_special=True)
    params = GenerationParams(temperature=2.0, top_k=0, top_p=1.0, seed=seed, max_tokens=300)
    sequence = engine.sequence(ids, params)
    found = json_constraint(ConstraintCompiler(engine.tokenizer), schema, prompt, thinking=True)
    sequence.sampler = Sampler(params, engine.tokenizer.vocab_size, ids, found)
    if not drafted:
        sequence.speculation = None
    tokens = list(engine.run(sequence))
    return tokens, "".join(token.text for token in tokens)


def test_hot_answers_of_a_real_model_are_valid(engine, monkeypatch):
    monkeypatch.setattr(
        Speculation, "propose", lambda self, tokens, most: self.drafter.propose(tokens, most)
    )
    prompt = (
        "<|im_start|>user\nSay this: {\"name\": \"Ann\", \"age\": 9, \"tags\": [\"a\", \"a\"]}"
        "<|im_end|>\n<|im_start|>assistant\n"
    )  # fmt: skip
    ended = 0
    for seed in range(12):
        tokens, text = answer(engine, seed, prompt, drafted=True)
        plain, _ = answer(engine, seed, prompt, drafted=False)
        assert [token.id for token in tokens] == [token.id for token in plain]
        if tokens[-1].finish_reason == "stop":
            ended += 1
            content = ReasoningParser(prompt).add(text, done=True)[1]
            jsonschema.validate(json.loads(content), SCHEMA)
    assert ended >= 6


def test_any_object(engine):
    tokens, text = answer(
        engine, 3, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False, ANY_OBJECT
    )
    if tokens[-1].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
    assert text.lstrip().startswith("{")
