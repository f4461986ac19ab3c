"""How well `localllm fit` predicts: each shape is predicted, then written whole and measured.

    python tools/fit_against.py [--quant Q4_K_M] [--rounds 7] [--enough MB] llama-3.2-3b …

Random weights stand in for the download. A machine's speed drifts by the minute, so each round
predicts and measures one right after the other, in turns which comes first, and the median of the
rounds' ratios counts; the range beside it is that of all rounds. The correction from former
measurements is left out. `--enough` is the size of the larger part; 0 predicts every model from two
parts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from localllm.compress.mixes import Mix, mix_named, plan_types
from localllm.evaluate.fit import Prediction, predict
from localllm.evaluate.speed import FIGURES, Figures, measure_speed
from localllm.evaluate.synthetic import catalog_model, catalog_outline
from localllm.hub.catalog import CatalogModel, load_catalog
from localllm.ops.packed import PackedCache


def main() -> None:
    """Predict and measure, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--enough", type=int, metavar="MB", default=1024)
    options = parser.parse_args()
    mix = mix_named(options.quant)
    for name in options.names:
        entry = load_catalog()[name]
        pairs = rounds(entry, mix, options.rounds, options.enough << 20)
        layers = " and ".join(map(str, pairs[0][0].layers))
        print(f"{name} {mix.name}, from {layers} of {entry.shape.layers} layers")
        print(f"  {'':<26}{'predicted':>16} {'measured':>16}")
        for figure in FIGURES:
            predicted = [said.figures[figure] for said, _ in pairs]
            measured = [found[figure] for _, found in pairs]
            apart = sorted(100 * (p / m - 1) for p, m in zip(predicted, measured, strict=True))
            print(
                f"  {figure:<26}{median(predicted):>16.4g} {median(measured):>16.4g}"
                f"  {median(apart):+.1f} % ({apart[0]:+.1f} to {apart[-1]:+.1f})",
                flush=True,
            )


def rounds(
    entry: CatalogModel, mix: Mix, count: int, enough: int
) -> list[tuple[Prediction, Figures]]:
    """What was said and what was found of a model, so many times."""
    with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
        path = Path(folder) / "whole.gguf"
        types = plan_types(catalog_outline(entry), mix).types
        catalog_model(path, entry, {name: type.name for name, type in types.items()})
        packed = PackedCache(Path(folder) / "packed", 1 << 40)

        def say() -> Prediction:
            return predict(entry, mix, None, lambda text: None, enough)

        def find() -> Figures:
            return measure_speed(path, None, packed, lambda text: None, repetitions=5)

        pairs = []
        for round in range(count):
            if round % 2:
                found, said = find(), say()
            else:
                said, found = say(), find()
            pairs.append((said, found))
        return pairs


if __name__ == "__main__":
    main()
