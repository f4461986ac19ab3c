"""Constrained answers: whatever the logits are, a text that ends satisfies its schema."""

import json
import subprocess
import sys
from functools import cache
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import GenerationParams, Sampler
from localllm.decoding.constraint import ConstraintCompiler
from localllm.errors import LocalLLMError, UsageError
from localllm.gguf import GGUFFile
from localllm.tokenize import load_tokenizer
from localllm.tokenize.bpe import BYTE_CHARACTERS
from localllm.tokenize.vocabulary import Attribute
from tests.tokenize.building import byte_pair, model_file, sentence_piece


@cache
def tiny_chat():
    return load_tokenizer(GGUFFile.open(files("localllm") / "assets" / "tiny-chat.gguf"))


@cache
def compiler():
    return ConstraintCompiler(tiny_chat())


def constraint(schema, made_by=None):
    made_by = made_by or compiler()
    grammar = made_by.grammar()
    return made_by.compile(grammar, grammar.json(schema))


def allowed(found, tokenizer, wider=0):
    row = np.zeros(tokenizer.vocab_size + wider, np.float32)
    found.mask(row)
    assert set(np.unique(row)) <= {0.0, -np.inf}
    return np.flatnonzero(row == 0).tolist()


def accept_text(found, tokenizer, text):
    """Walks through a text that the constraint has to allow."""
    for token in tokenizer.encode(text, add_special=False, parse_special=True):
        assert token in allowed(found, tokenizer), (text, tokenizer.token_bytes(token))
        found.accept(token)


def random_text(found, tokenizer, seed, most=400):
    """What a model without any sense says under a constraint, and whether it came to an end.

    Tokens that lead on or out of JSON are made likelier, or few texts would end.
    """
    random = np.random.default_rng(seed)
    favour = np.zeros(tokenizer.vocab_size, np.float32)
    for token in range(tokenizer.vocab_size):
        if any(mark in tokenizer.token_bytes(token) for mark in (b'"', b"}", b"]")):
            favour[token] = 3
    favour[list(tokenizer.eog_ids)] = 6
    sampler = Sampler(
        GenerationParams(temperature=1.5, top_k=0, seed=seed), tokenizer.vocab_size, (), found
    )
    tokens = []
    while len(tokens) < most:
        logits = random.standard_normal(tokenizer.vocab_size + 32).astype(np.float32)
        logits[: tokenizer.vocab_size] += favour
        token = sampler.sample(logits)
        sampler.accept(token)
        if token in tokenizer.eog_ids:
            return tokenizer.decode(tokens), True
        tokens.append(token)
    return tokenizer.decode(tokens), False


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
leaves = st.one_of(
    st.just({"type": "string"}),
    st.builds(
        lambda low: {"type": "string", "minLength": low, "maxLength": low + 3}, st.integers(0, 4)
    ),
    st.just({"type": "string", "pattern": "^[a-f]{2,4}(-x)?$"}),
    st.just({"type": "string", "format": "date"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-500, 500), st.integers(0, 500),
    ),
    st.just({"type": ["number", "null"]}),
    st.just({"type": "boolean"}),
    st.lists(names | st.integers(-(2**53), 2**53) | st.none(), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    names.map(lambda value: {"const": value}),
)  # fmt: skip


def nested(inner):
    def an_object(properties, required, more):
        needed = [name for name, wanted in zip(properties, required, strict=False) if wanted]
        return {
            "type": "object", "properties": properties, "required": needed,
            "additionalProperties": more,
        }  # fmt: skip

    return st.one_of(
        st.builds(
            an_object,
            st.dictionaries(names, inner, max_size=3),
            st.lists(st.booleans(), max_size=3),
            st.booleans(),
        ),
        st.builds(
            lambda items, low: {"type": "array", "items": items, "minItems": low, "maxItems": 3},
            inner, st.integers(0, 2),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=2)),
    )  # fmt: skip


def referred_to(schema):
    return {
        "$defs": {"item": schema}, "type": "object", "required": ["of", "to"],
        "properties": {"of": {"$ref": "#/$defs/item"}, "to": {"items": {"$ref": "#/$defs/item"}}},
    }  # fmt: skip


schemas = st.recursive(leaves, nested, max_leaves=6)


@settings(deadline=None, max_examples=150)
@given(schemas | schemas.map(referred_to), st.integers(0, 2**32))
def test_a_text_that_ends_satisfies_its_schema(schema, seed):
    text, ended = random_text(constraint(schema), tiny_chat(), seed)
    if ended:
        checker = jsonschema.FormatChecker()
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


@pytest.mark.parametrize("fixed", [{"enum": ["a", 2**53 + 1]}, {"const": -(2**53) - 1}])
def test_numbers_that_json_does_not_tell_apart(fixed):
    with pytest.raises(UsageError, match="is beyond 2\\*\\*53"):
        constraint({"type": "object", "properties": {"a": fixed}})
    constraint({"type": "integer", "maximum": 2**63 - 1})


def test_most_random_texts_end():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    first = constraint(schema)
    ends = [random_text(first.copy(), tiny_chat(), seed)[1] for seed in range(30)]
    assert sum(ends) > 15
    assert not first.finished  # copies are apart


def test_any_object_and_its_white_space():
    tokenizer = tiny_chat()
    found = constraint({"type": "object"})
    accept_text(found, tokenizer, '{"a": {\n  "b": [1,\n         2, null]\n},"é": "\\n{}"')
    assert not found.finished
    accept_text(found, tokenizer, "}")
    assert found.finished
    assert allowed(found, tokenizer) == sorted(tokenizer.eog_ids)
    assert len(tokenizer.eog_ids) > 1
    for text in ("{\n\n", "{" + " " * 2, "{\n" + " " * 40):
        with pytest.raises(AssertionError):
            accept_text(constraint({"type": "object"}), tokenizer, text)


def test_control_tokens_are_in_no_string():
    tokenizer = tiny_chat()
    found = constraint({"type": "object"})
    accept_text(found, tokenizer, '{"a": "')
    inside = allowed(found, tokenizer)
    assert len(inside) > 2000
    assert not any(tokenizer.is_control(token) or token in tokenizer.eog_ids for token in inside)
    accept_text(found, tokenizer, "x")
    # spelled out in ordinary characters it is text like any other
    for token in tokenizer.encode('<|im_end|>"}', add_special=False):
        assert token in allowed(found, tokenizer)
        found.accept(token)
    assert found.finished


def test_an_ending_token_that_is_no_control_token_is_in_no_string():
    fields = byte_pair(eos_token_id=BYTE_CHARACTERS.index("x"))
    tokenizer = load_tokenizer(model_file(fields))
    (ordinary,) = [token for token in tokenizer.eog_ids if not tokenizer.is_control(token)]
    assert tokenizer.token_bytes(ordinary) == b"x"
    found = constraint({"type": "string"}, ConstraintCompiler(tokenizer))
    accept_text(found, tokenizer, '"y')
    assert ordinary not in allowed(found, tokenizer)
    accept_text(found, tokenizer, '"')
    assert allowed(found, tokenizer) == sorted(tokenizer.eog_ids)


def test_logits_beyond_the_vocabulary_never_come():
    found = constraint({"type": "object"})
    tokenizer = tiny_chat()
    assert allowed(found, tokenizer, wider=64) == allowed(found, tokenizer)


def test_tokens_of_the_same_bytes_come_together():
    tokenizer = load_tokenizer(model_file(sentence_piece()))
    found = constraint({"type": "object"}, ConstraintCompiler(tokenizer))
    braces = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"{"]
    assert braces
    assert set(braces) <= set(allowed(found, tokenizer))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"properties": {"a": {"type": "string", "format": "iban"}}}, "iban"),
        ({"type": "text"}, "text"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "nothing satisfies"),
        ({"oneOf": [{"type": "object"}, {"minProperties": 1}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": "\ud800"}, "hex"),
        ({"type": "number", "minimum": float("nan")}, "JSON"),
        ({"enum": []}, "Unsatisfiable"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"enum": ["x" * 70_000]}, "65,536"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema, named):
    with pytest.raises(UsageError) as raised:
        constraint(schema)
    message = str(raised.value)
    assert named in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_schema_that_nests_without_end():
    schema = {"type": "string"}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(UsageError, match="nests deeper than"):
        constraint(schema)


def test_a_model_that_never_ends():
    tokenizer = load_tokenizer(model_file(byte_pair()))
    tokenizer.eog_ids = frozenset()
    with pytest.raises(UsageError, match="no token that ends"):
        constraint({"type": "object"}, ConstraintCompiler(tokenizer))


def test_it_fails_closed():
    tokenizer = tiny_chat()
    found = constraint({"type": "object"})
    found.accept(tokenizer.encode("no", add_special=False)[0])
    for _ in range(2):
        with pytest.raises(LocalLLMError, match="cannot go on as its format demands"):
            found.mask(np.zeros(tokenizer.vocab_size, np.float32))
    assert not found.finished
    done = constraint({"const": 1})
    accept_text(done, tokenizer, "1")
    done.accept(min(tokenizer.eog_ids))
    assert allowed(done, tokenizer) == sorted(tokenizer.eog_ids)


def test_the_sampler_fails_where_the_model_rules_out_all_that_may_come():
    tokenizer = tiny_chat()
    sampler = Sampler(GenerationParams(), tokenizer.vocab_size, (), constraint({"type": "object"}))
    logits = np.zeros(tokenizer.vocab_size, np.float32)
    logits[allowed(constraint({"type": "object"}), tokenizer)] = -np.inf
    before = logits.copy()
    with pytest.raises(LocalLLMError, match="not usable"):
        sampler.sample(logits)
    assert (logits == before).all()


@pytest.mark.parametrize("control", [False, True])
def test_tags_are_control_tokens_where_the_vocabulary_has_them(control):
    fields = byte_pair()
    tokens = [*fields["tokens"], "<think>", "</think>"]
    kind = Attribute.CONTROL if control else Attribute.USER_DEFINED
    number = {Attribute.CONTROL: 3, Attribute.USER_DEFINED: 4}[kind]
    kinds = np.concatenate([fields["token_type"], [number, number]]).astype(np.int32)
    tokenizer = load_tokenizer(model_file({**fields, "tokens": tokens, "token_type": kinds}))
    made_by = ConstraintCompiler(tokenizer)
    grammar = made_by.grammar()
    start = f"{grammar.tag('<think>')} {grammar.until('</think>')} {grammar.json({'const': 1})}"
    found = made_by.compile(grammar, start)
    opening = tokens.index("<think>")
    assert opening in allowed(found, tokenizer)
    assert (len(allowed(found, tokenizer)) == 1) == control
    accept_text(found, tokenizer, "<think>a </thin <note> </think>1")
    assert found.finished


def test_help_does_not_import_the_grammar_engine():
    code = """
import sys
from localllm.cli.app import run
import localllm.decoding, localllm.engine.engine, localllm.chat.session
assert run(["--help"]) == 0
assert not {"llguidance", "jsonschema"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
