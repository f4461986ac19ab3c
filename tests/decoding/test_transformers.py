"""The chain against the logits processors of transformers."""

import numpy as np
import pytest

from localllm.decoding import GenerationParams
from tests.decoding.test_sampler import distribution, random_logits

pytestmark = pytest.mark.peer


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": 7},
        {"top_k": 0, "top_p": 0.7},
        {"top_k": 0, "min_p": 0.1},
        {"top_k": 0, "temperature": 0.4},
        {"top_k": 0, "repeat_penalty": 1.3},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 1.7, "repeat_penalty": 1.2},
    ],
)
def test_same_distribution(values):
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    params = GenerationParams(sampler_order="transformers", **values).resolved()
    prompt, generated = [1, 5, 5, 9, 100], [7, 7, 200]
    for seed in range(20):
        logits = random_logits(seed, 400)
        ids = torch.tensor([[*prompt, *generated]])
        scores = torch.tensor(logits[None], dtype=torch.float64)
        chain = [
            processors.RepetitionPenaltyLogitsProcessor(params.repeat_penalty),
            processors.TemperatureLogitsWarper(params.temperature),
            *([processors.TopKLogitsWarper(params.top_k)] if params.top_k else []),
            *([processors.TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []),
            *([processors.MinPLogitsWarper(params.min_p)] if params.min_p else []),
        ]
        for processor in chain:
            scores = processor(ids, scores)
        expected = scores.softmax(-1)[0].numpy()
        found = distribution(params, logits, prompt, generated)
        np.testing.assert_allclose(found, expected, atol=1e-6)
