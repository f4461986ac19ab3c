import math

import numpy as np
import pytest

from localllm.decoding import GenerationParams
from localllm.errors import UsageError

NAN, INF = math.nan, math.inf

IMPOSSIBLE = [
    ({"top_p": 2}, "--top-p 2: must be > 0 and <= 1"),
    ({"top_p": 0}, "--top-p 0: must be > 0 and <= 1"),
    ({"top_p": -0.1}, "--top-p -0.1: must be > 0 and <= 1"),
    ({"top_p": NAN}, "--top-p nan: must be > 0 and <= 1"),
    ({"top_p": "0.5"}, "--top-p 0.5: must be > 0 and <= 1"),
    ({"min_p": 1.5}, "--min-p 1.5: must be >= 0 and <= 1"),
    ({"min_p": -1}, "--min-p -1: must be >= 0 and <= 1"),
    ({"min_p": INF}, "--min-p inf: must be >= 0 and <= 1"),
    ({"temperature": -0.5}, "--temperature -0.5: must be >= 0"),
    ({"temperature": NAN}, "--temperature nan: must be >= 0"),
    ({"temperature": INF}, "--temperature inf: must be >= 0"),
    ({"temperature": True}, "--temperature True: must be >= 0"),
    ({"temperature": 10**400}, "--temperature 1"),
    ({"top_k": -1}, "--top-k -1: must be >= 0"),
    ({"top_k": 1.5}, "--top-k 1.5: must be a whole number, >= 0"),
    ({"top_k": NAN}, "--top-k nan: must be a whole number, >= 0"),
    ({"max_tokens": 0}, "--max-tokens 0: must be >= 1"),
    ({"max_tokens": -5}, "--max-tokens -5: must be >= 1"),
    ({"max_tokens": "many"}, "--max-tokens many: must be a whole number, >= 1"),
    ({"frequency_penalty": 2.5}, "--frequency-penalty 2.5: must be >= -2 and <= 2"),
    ({"frequency_penalty": None}, "--frequency-penalty None: must be >= -2 and <= 2"),
    ({"presence_penalty": -3}, "--presence-penalty -3: must be >= -2 and <= 2"),
    ({"presence_penalty": NAN}, "--presence-penalty nan: must be >= -2 and <= 2"),
    ({"repeat_penalty": 0}, "--repeat-penalty 0: must be >= 0.01 and <= 100"),
    ({"repeat_penalty": 1e-300}, "--repeat-penalty 1e-300: must be >= 0.01 and <= 100"),
    ({"repeat_penalty": 1e300}, "--repeat-penalty 1e+300: must be >= 0.01 and <= 100"),
    ({"repeat_penalty": INF}, "--repeat-penalty inf: must be >= 0.01 and <= 100"),
    ({"repeat_last_n": -2}, "--repeat-last-n -2: must be >= -1"),
    ({"seed": -1}, "--seed -1: must be >= 0 and <= 18446744073709551615"),
    ({"seed": 2**64}, "--seed 18446744073709551616: must be >= 0"),
    ({"seed": 0.5}, "--seed 0.5: must be a whole number"),
    ({"strategy": "beam"}, "--strategy beam: must be one of sample, greedy"),
    ({"strategy": None}, "--strategy None: must be one of sample, greedy"),
    ({"sampler_order": "ollama"}, "--sampler-order ollama: must be one of llamacpp, transformers"),
    ({"logit_bias": {1: 101}}, "--logit-bias 1=101: must be >= -100 and <= 100"),
    ({"logit_bias": {1: NAN}}, "--logit-bias 1=nan: must be >= -100 and <= 100"),
    ({"logit_bias": {-1: 1}}, "--logit-bias -1: the token id must be a whole number >= 0"),
    ({"logit_bias": {"a": 1}}, "--logit-bias a: the token id must be a whole number >= 0"),
    ({"logit_bias": [1]}, "--logit-bias [1]: must be a mapping"),
    ({"stop": ("",)}, "--stop '': must be a text that is not empty"),
    ({"stop": (1,)}, "--stop 1: must be a text that is not empty"),
    ({"stop": 7}, "--stop 7: must be a text or several"),
]


@pytest.mark.parametrize(("values", "message"), IMPOSSIBLE)
def test_impossible_values_name_flag_value_and_range(values, message):
    with pytest.raises(UsageError) as caught:
        GenerationParams(**values)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"temperature": 1e-300},
        {"top_p": 1},
        {"top_p": np.float32(0.5)},
        {"top_k": np.int64(3)},
        {"min_p": 0},
        {"min_p": 1.0},
        {"seed": 2**64 - 1},
        {"frequency_penalty": -2, "presence_penalty": 2},
        {"logit_bias": {5: -100}},
        {"stop": ["a", "b"]},
        {"repeat_last_n": -1},
    ],
)
def test_possible_values_pass(values):
    GenerationParams(**values)


def test_presets_fill_what_is_left_out_and_nothing_else():
    llamacpp = GenerationParams(top_k=7).resolved()
    assert (llamacpp.temperature, llamacpp.top_k, llamacpp.top_p, llamacpp.min_p) == (
        0.8,
        7,
        0.95,
        0.05,
    )
    assert llamacpp.repeat_last_n == 64
    assert GenerationParams(sampler_order="transformers").resolved().top_k == 50
    vllm = GenerationParams(sampler_order="vllm").resolved()
    assert (vllm.temperature, vllm.top_k, vllm.top_p, vllm.min_p) == (1.0, 0, 1.0, 0.0)
    assert llamacpp.max_tokens is None
    assert llamacpp.seed is None


def test_greedy_by_strategy_or_temperature():
    assert GenerationParams(strategy="greedy", temperature=1).greedy
    assert GenerationParams(temperature=0).greedy
    assert not GenerationParams().greedy


def test_one_stop_text_need_not_be_a_tuple():
    assert GenerationParams(stop="ab").stop == ("ab",)


def test_the_caller_cannot_change_the_bias_later():
    bias = {1: 2.0}
    params = GenerationParams(logit_bias=bias)
    bias[1] = math.nan
    assert params.logit_bias == {1: 2.0}
