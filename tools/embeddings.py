"""localllm's embeddings beside those of sentence-transformers: how near, and how fast.

    python tools/embeddings.py MODEL.gguf... --checkpoint FOLDER --texts FILE [--threads N]
        [--rounds N] [--json]

FOLDER is the checkpoint that the model files were made of; each line of FILE is a text. Every
contestant has one turn in a round, in this process; medians of all rounds are shown. Nearness is
that of vectors of length 1 from the same token ids: the least and the mean cosine to those of
transformers; and how the similarities of neighbouring lines keep their order (Spearman).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.engine.embedding import Embedding, default_pooling, shortened
from localllm.engine.engine import Engine
from localllm.engine.machine import default_threads
from localllm.evaluate.tables import aligned

Vectors = npt.NDArray[np.float32]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--texts", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    texts = [line for line in asked.texts.read_text(encoding="utf-8").splitlines() if line.strip()]

    peer = _peer(asked.checkpoint, asked.threads)
    engines = {path.name: Engine.load(path, threads=asked.threads) for path in asked.models}
    contestants: dict[str, Callable[[], Vectors]] = {
        "sentence-transformers": lambda: np.asarray(
            peer.encode(texts, normalize_embeddings=True, show_progress_bar=False), np.float32
        )
    }
    for name, engine in engines.items():
        contestants[name] = lambda engine=engine: embedded(engine, texts)
    tokens = sum(len(next(iter(engines.values())).tokenizer.encode(text)) for text in texts)

    vectors = {name: run() for name, run in contestants.items()}  # the first turn warms up
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(asked.rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    expected = vectors["sentence-transformers"]
    fastest = median(seconds["sentence-transformers"])
    report = []
    for name in contestants:
        cosines = (vectors[name].astype(np.float64) * expected).sum(1)
        report.append(
            {
                "name": name,
                "texts_per_second": len(texts) / median(seconds[name]),
                "tokens_per_second": tokens / median(seconds[name]),
                "times": fastest / median(seconds[name]),
                "least_cosine": float(cosines.min()),
                "mean_cosine": float(cosines.mean()),
                "spearman": spearman(similarities(vectors[name]), similarities(expected)),
            }
        )
    if asked.json:
        document = {"texts": len(texts), "tokens": tokens, "seconds": seconds, "results": report}
        print(json.dumps(document))
    else:
        print(f"{len(texts)} texts, {tokens} tokens, {asked.threads} threads")
        print(_table(report))


def embedded(engine: Engine, texts: list[str]) -> Vectors:
    """The vectors of some texts, of length 1."""
    ids = [engine.tokenizer.encode(text) for text in texts]
    embedding = Embedding(engine, ids, default_pooling(engine.file))
    while embedding.waiting:
        embedding.step()
    return shortened(embedding.vectors, None, True)


def similarities(vectors: Vectors) -> Vectors:
    """The cosine of each text and the next."""
    found: Vectors = (vectors[:-1] * vectors[1:]).sum(1)
    return found


def spearman(one: Vectors, other: Vectors) -> float:
    """The correlation of the ranks of two lists without ties."""
    first, second = (np.argsort(np.argsort(values)) for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def _peer(checkpoint: Path, threads: int) -> Any:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(checkpoint), device="cpu")
    model.max_seq_length = 512  # as many as the model has positions; its own default is less
    return model


def _table(report: list[dict[str, Any]]) -> str:
    head = ["", "texts/s", "tokens/s", "times", "least cosine", "mean cosine", "Spearman"]
    rows = [
        [
            row["name"],
            f"{row['texts_per_second']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['times']:.2f}",
            f"{row['least_cosine']:.6f}",
            f"{row['mean_cosine']:.6f}",
            f"{row['spearman']:.4f}",
        ]
        for row in report
    ]
    return aligned([head, *rows])


if __name__ == "__main__":
    main()
