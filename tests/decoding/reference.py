"""The sampler chain as its definitions read: float64, the whole vocabulary, no short cuts."""

import numpy as np


def largest(logits, k):
    """Places of the k largest, descending, ties in order; NaN as infinity."""
    return np.argsort(-np.where(np.isnan(logits), np.inf, logits), kind="stable")[:k]


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def top_k(logits, k):
    if k <= 0:
        return logits
    return masked(logits, largest(logits, k))


def top_p(logits, p):
    if p >= 1:
        return logits
    order = np.argsort(-logits, kind="stable")
    cumulative = np.cumsum(softmax(logits)[order])
    return masked(logits, order[: int((cumulative < p).sum()) + 1])


def min_p(logits, fraction):
    p = softmax(logits)
    return masked(logits, np.flatnonzero(p >= fraction * p.max()))


def temperature(logits, value):
    return logits / value


def masked(logits, keep):
    result = np.full_like(logits, -np.inf)
    result[keep] = logits[keep]
    return result


ORDERS = {
    "llamacpp": [top_k, top_p, min_p, temperature],
    "transformers": [temperature, top_k, top_p, min_p],
    "vllm": [temperature, min_p, top_k, top_p],
}


def penalised(logits, params, prompt, generated):
    result = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        result[token] += bias
    text = [*prompt, *generated]
    recent = text if params.repeat_last_n < 0 else text[max(0, len(text) - params.repeat_last_n) :]
    for token in set(recent):
        scale = params.repeat_penalty
        result[token] = result[token] / scale if result[token] > 0 else result[token] * scale
    for token in set(generated):
        count = generated.count(token)
        result[token] -= count * params.frequency_penalty + params.presence_penalty
    return result


def probabilities(logits, params, prompt=(), generated=()):
    """What the sampler must draw from, over the whole vocabulary; params resolved."""
    result = penalised(np.asarray(logits), params, list(prompt), list(generated))
    for step in ORDERS[params.sampler_order]:
        result = step(result, getattr(params, step.__name__))
    return softmax(result)
