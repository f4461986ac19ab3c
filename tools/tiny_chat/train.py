"""Makes tiny-chat: generates the data, trains the tokenizer and the network, exports the GGUF.

    python tools/tiny_chat/train.py --out DIR

A long stretch from scratch, then a short one on new data that goes on from its end at a lower rate;
the model is the mean of the two ends, which is better than either. The budget is counted in tokens,
so a run that is paused and continued ends with the same model. DIR and DIR/second hold corpus.npz,
tokenizer.json, checkpoint.pt and log.jsonl of the two stretches, DIR the averaged checkpoint
mean.pt and tiny-chat.gguf.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from corpus import BATCH_TOKENS, PROSE_WEIGHT, Rows, build_corpus, document_mask
from export import load_checkpoint, write_gguf
from model import Config, TinyChat
from muon import Muon
from tokenizers import Tokenizer
from torch import Tensor

HERE = Path(__file__).resolve().parent
BOOKS = HERE.parents[2] / "shared" / "data" / "books"
MATRIX_RATE = 0.01  # Muon's learning rate at the start
OTHER_RATE = 0.0015  # AdamW's, for the embedding and the gains
WARMUP = 0.02  # share of a stretch
SECOND_TOKENS, SECOND_RATE = 1 / 14, 0.3  # of those of the first stretch
SAVE_SECONDS = 240


def rate_at(progress: float) -> float:
    """The learning rates' factor: short warm-up, level, then linear to zero from half on."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.01)
    return min(1.0, max(0.0, (1 - progress) / 0.5))


@dataclass(frozen=True)
class Stretch:
    """One training run: its folder, how many tokens it reads, and where it begins."""

    folder: Path
    tokens: int
    seed: int
    rate: float = 1.0  # factor of the learning rates
    begin: Path | None = None  # checkpoint whose weights it goes on from


def train(stretch: Stretch, threads: int, resume: bool) -> None:
    """Train until all tokens have been read; checkpoints hold all that a resume needs."""
    torch.manual_seed(stretch.seed)
    model = TinyChat(Config()) if stretch.begin is None else load_checkpoint(stretch.begin)
    corpus = Rows(stretch.folder / "corpus.npz", stretch.seed)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n != "embed"]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or n == "embed"]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
    step, seconds = 0, 0.0
    checkpoint = stretch.folder / "checkpoint.pt"
    if resume and checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.momenta = state["muon"]
        step, seconds = state["step"], state["seconds"]

    def save() -> None:
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momenta}
        state |= {"step": step, "seconds": seconds, "config": vars(model.config)}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    gradients = Gradients(model, threads)
    total = math.ceil(stretch.tokens / BATCH_TOKENS)
    saved, losses = time.monotonic(), []
    stopping: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    for tokens, weights, numbers in corpus.batches(skip=step):
        if step >= total:
            break
        begun = time.monotonic()
        factor = rate_at(step / total) * stretch.rate
        losses.append(gradients.add(tokens, weights, numbers))
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step(MATRIX_RATE * factor)
        for group in adam.param_groups:
            group["lr"] = OTHER_RATE * factor
        adam.step()
        step += 1
        seconds += time.monotonic() - begun
        if step % 20 == 0 or step == total:
            chat, prose = np.nanmean([x[0] for x in losses]), np.nanmean([x[1] for x in losses])
            line = {"step": step, "of": total, "tokens": step * BATCH_TOKENS,
                    "chat_loss": round(float(chat), 4), "prose_loss": round(float(prose), 4),
                    "seconds": round(seconds), "rate": round(factor, 4),
                    "tokens_per_second": round(step * BATCH_TOKENS / seconds)}  # fmt: skip
            print(json.dumps(line), flush=True)
            with open(stretch.folder / "log.jsonl", "a", encoding="utf-8") as log:
                print(json.dumps(line), file=log)
            losses = []
        if stopping or time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
        if stopping:
            raise SystemExit("stopped; go on with --resume")
    signal.signal(signal.SIGTERM, before)
    save()


class Gradients:
    """Computes a batch's gradients in parts, one per thread.

    Each thread works alone on its rows, so that a busy core delays its own part only.
    """

    def __init__(self, model: TinyChat, threads: int) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def add(self, tokens: Tensor, weights: Tensor, numbers: Tensor) -> tuple[float, float]:
        """Set the gradients of a batch [B, T]; returns the mean losses of answers and prose, nats.

        weights[b, t] belongs to predicting tokens[b, t]; documents are numbered within a row.
        """
        total = weights[:, 1:].sum()
        split = zip(
            *(x.tensor_split(self.threads) for x in (tokens, weights, numbers)), strict=True
        )
        parts = list(self.pool.map(lambda part: self._part(*part, total), split))
        for index, parameter in enumerate(self.parameters):
            parameter.grad = sum(gradients[index] for gradients, _, _ in parts)
        loss, weight = (torch.cat([part[i] for part in parts]) for i in (1, 2))
        return loss[weight == 1.0].mean().item(), loss[weight == PROSE_WEIGHT].mean().item()

    def _part(
        self, tokens: Tensor, weights: Tensor, numbers: Tensor, total: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Gradients of some rows' share of the loss; losses and weights of their targets."""
        mask = document_mask(numbers)
        predicts = weights[:, 1:] > 0  # position t predicts token t + 1
        target, weight = tokens[:, 1:][predicts], weights[:, 1:][predicts]
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            hidden = self.model.hidden(tokens, mask)[:, :-1][predicts]
            logits = F.linear(hidden, self.model.embed)
        loss = F.cross_entropy(logits.float(), target, reduction="none")
        gradients = torch.autograd.grad((loss * weight).sum() / total, self.parameters)
        return gradients, loss.detach(), weight


def mean_checkpoint(first: Path, second: Path, out: Path) -> None:
    """Write the mean of two checkpoints' weights."""
    states = [torch.load(path, map_location="cpu") for path in (first, second)]
    weights = {
        name: torch.stack([state["model"][name] for state in states]).mean(0)
        for name in states[0]["model"]
    }
    torch.save({"model": weights, "config": states[0]["config"]}, out)


def main() -> None:
    """Parse the options and make everything in the folder OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything made")
    parser.add_argument("--books", type=Path, default=BOOKS, help="folder of the novels' .txt")
    parser.add_argument("--tokens", type=float, default=17.5e6, help="of the first stretch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from OUT's checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(1)  # Gradients has threads of its own
    tokens, second = int(args.tokens), args.out / "second"
    first_end, second_end = args.out / "checkpoint.pt", second / "checkpoint.pt"
    stretches = [
        Stretch(args.out, tokens, args.seed),
        Stretch(second, int(tokens * SECOND_TOKENS), args.seed + 1, SECOND_RATE, first_end),
    ]
    for stretch in stretches:
        stretch.folder.mkdir(parents=True, exist_ok=True)
        if stretch.begin is not None:
            shutil.copy(args.out / "tokenizer.json", stretch.folder)
        if not (stretch.folder / "corpus.npz").exists():
            begun = time.monotonic()
            build_corpus(args.books, stretch.folder, stretch.tokens, stretch.seed)
            print(f"data made in {time.monotonic() - begun:.0f} s", flush=True)
        train(stretch, args.threads, args.resume)
    mean_checkpoint(first_end, second_end, args.out / "mean.pt")
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    write_gguf(load_checkpoint(args.out / "mean.pt"), tokenizer, args.out / "tiny-chat.gguf")


if __name__ == "__main__":
    main()
