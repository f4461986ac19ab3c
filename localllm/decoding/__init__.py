"""From logits to text: parameters, the sampler chain, stop sequences. Knows no model."""

from localllm.decoding.params import GenerationParams
from localllm.decoding.sampler import Sampler
from localllm.decoding.stopping import StopSequences, TextStream

__all__ = ["GenerationParams", "Sampler", "StopSequences", "TextStream"]
