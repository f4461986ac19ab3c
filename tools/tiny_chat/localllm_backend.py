"""Lets evaluate.py ask a GGUF file through localllm's own engine."""

from __future__ import annotations

from pathlib import Path

from localllm.decoding import GenerationParams
from localllm.engine.engine import Engine


class LocalllmBackend:
    """Answers prompts greedily on the engine, one after the other."""

    def __init__(self, path: Path) -> None:
        self.engine = Engine.load(path)

    def answer(self, prompts: list[str], limit: int) -> list[str]:
        """The texts that follow the prompts, without the end-of-turn token."""
        return [self._one(prompt, limit) for prompt in prompts]

    def _one(self, prompt: str, limit: int) -> str:
        params = GenerationParams(max_tokens=limit, strategy="greedy")
        tokens = self.engine.tokenizer.encode(prompt, parse_special=True)
        return "".join(token.text for token in self.engine.generate(tokens, params))
