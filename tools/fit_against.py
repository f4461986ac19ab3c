"""How well `localllm fit` predicts: each shape is predicted, then written whole and measured.

    python tools/fit_against.py [--quant Q4_K_M] [--rounds 3] [--enough MB] llama-3.2-3b …

Random weights stand in for the download. A machine's speed drifts by the minute, so each round
predicts and measures one after the other, and medians are compared. The correction from former
measurements is left out. `--enough` is the size of the larger part; 0 predicts every model from two
parts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from localllm.cli.fit import types_of
from localllm.evaluate import fit
from localllm.evaluate.speed import FIGURES, measure_speed
from localllm.evaluate.synthetic import catalog_model, catalog_outline
from localllm.hub.catalog import load_catalog
from localllm.ops.packed import PackedCache


def main() -> None:
    """Predict and measure, and print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--enough", type=int)
    options = parser.parse_args()
    if options.enough is not None:
        fit._ENOUGH = options.enough << 20
    types = types_of(options.quant)
    for name in options.names:
        entry = load_catalog()[name]
        with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
            path = Path(folder) / "whole.gguf"
            catalog_model(path, entry, types(catalog_outline(entry)))
            packed = PackedCache(Path(folder) / "packed", 1 << 40)
            said, found = [], []
            for _ in range(options.rounds):
                said.append(fit.predict(entry, types, None, lambda text: None))
                found.append(measure_speed(path, None, packed, lambda text: None, repetitions=5))
        layers = " and ".join(map(str, said[0].layers))
        print(f"{name} {options.quant}, from {layers} of {entry.shape.layers} layers")
        print(f"  {'':<26}{'predicted':>16} {'measured':>16}")
        for figure in FIGURES:
            predicted = median(one.figures[figure] for one in said)
            measured = median(one[figure] for one in found)
            apart = 100 * (predicted / measured - 1)
            print(f"  {figure:<26}{predicted:>16.4g} {measured:>16.4g}  {apart:+.1f} %", flush=True)


if __name__ == "__main__":
    main()
