"""Text to token ids and back, from the vocabulary of a GGUF file."""

from localllm.tokenize.base import Tokenizer
from localllm.tokenize.loading import load_tokenizer
from localllm.tokenize.streaming import StreamingDetokenizer

__all__ = ["StreamingDetokenizer", "Tokenizer", "load_tokenizer"]
