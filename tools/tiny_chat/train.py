"""Makes tiny-chat: generates the data, trains the tokenizer and the network, exports the GGUF.

    python tools/tiny_chat/train.py --out DIR

The budget is counted in tokens, so a run that is paused and continued ends with the same model.
DIR holds corpus.npz, tokenizer.json, checkpoint.pt, log.jsonl and, at the end, tiny-chat.gguf.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import books as novels
import data
import numpy as np
import tokenizer as tokens_of
import torch
import torch.nn.functional as F
from export import write_gguf
from model import Config, TinyChat
from source import Chat, Source
from template import render
from tokenizers import Tokenizer
from torch import Tensor

HERE = Path(__file__).resolve().parent
BOOKS = HERE.parents[2] / "shared" / "data" / "books"
BATCH_TOKENS = 4096
ROW_LENGTHS = (
    128,
    256,
    512,
    1024,
)  # tokens in a row; a document goes to the shortest that holds it
PROSE_WEIGHT = 0.5  # of a token of plain book text in the loss; what the model says counts 1
PROMPT_WEIGHT = 0.1  # of a token of the user or of the list of tools, which repeats itself much
MATRIX_RATE = 0.01  # Muon's learning rate at the start
OTHER_RATE = 0.0015  # AdamW's, for the embedding and the gains
WARMUP = 0.02  # share of the run
SAVE_SECONDS = 240


# --- data ---------------------------------------------------------------------------------------


def build_corpus(books: Path, folder: Path, token_count: int, seed: int) -> None:
    """Write tokenizer.json and corpus.npz (about token_count tokens, in shuffled documents).

    corpus.npz: tokens uint16 [N], weights float16 [N] (how much predicting that token counts in
    the loss), starts int64 [documents + 1].
    """
    train_books, _ = novels.read_books(books)
    source = Source(random.Random(seed), book_words=novels.distinct_words(train_books))
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        tokenizer = _make_tokenizer(source, train_books)
        tokenizer.save(str(folder / "tokenizer.json"))
    documents: list[tuple[np.ndarray, np.ndarray]] = []
    used = 0.0
    for name, (make, share) in data.SKILLS.items():
        wanted = int(share * token_count)
        made = _encode_chats(tokenizer, lambda make=make: data.with_system(source, make(source)),
                             wanted)  # fmt: skip
        print(f"{name:12s} {len(made):7d} chats", flush=True)
        documents += made
        used += share
    wanted = int(data.STORY_SHARE * token_count)
    documents += _encode_chats(tokenizer, lambda: novels.story(source, train_books), wanted)
    prose_share = 1.0 - used - data.STORY_SHARE
    documents += _book_pieces(tokenizer, train_books, int(prose_share * token_count), source.rng)
    source.rng.shuffle(documents)
    np.savez(
        folder / "corpus.npz",
        tokens=np.concatenate([t for t, _ in documents]),
        weights=np.concatenate([w for _, w in documents]),
        starts=np.cumsum([0] + [len(t) for t, _ in documents]),
    )


def _make_tokenizer(source: Source, books: list[str]) -> Tokenizer:
    """Train on the books and about as much text of conversations."""
    chats = []
    for make, share in data.SKILLS.values():
        for _ in range(int(share * 20000)):
            chat = make(source)
            chats.append("".join(text for text, _ in render(chat.messages, chat.tools)))
    paragraphs = [p for book in books for p in book.split("\n\n")]
    return tokens_of.train_tokenizer(tokens_of.plain_text(t) for t in chats + paragraphs)


def _encode_chats(tokenizer: Tokenizer, make: Callable[[], Chat], wanted: int) -> list:
    """Documents (tokens, weights) of chats from make() until they hold `wanted` tokens."""
    documents, total = [], 0
    while total < wanted:
        pieces = []
        for _ in range(500):
            chat = make()
            pieces.append(render(chat.messages, chat.tools))
        encoded = iter(tokenizer.encode_batch_fast([text for p in pieces for text, _ in p],
                                                   add_special_tokens=False))  # fmt: skip
        for chat_pieces in pieces:
            ids, weights = [], []
            for _, speaks in chat_pieces:
                piece = next(encoded).ids
                ids += piece
                weights += [1.0 if speaks else PROMPT_WEIGHT] * len(piece)
            if len(ids) > ROW_LENGTHS[-1]:
                continue
            documents.append((np.array(ids, np.uint16), np.array(weights, np.float16)))
            total += len(ids)
    return documents


def _book_pieces(tokenizer: Tokenizer, books: list[str], wanted: int, rng: random.Random) -> list:
    """Cut the books into rows, anew for each pass, until they hold `wanted` tokens."""
    end = tokenizer.token_to_id(tokens_of.END_OF_TEXT)
    encoded = [np.array([*e.ids, end], np.uint16)
               for e in tokenizer.encode_batch_fast(books, add_special_tokens=False)]  # fmt: skip
    print(f"books: {sum(map(len, encoded))} tokens, {wanted} wanted", flush=True)
    documents, total = [], 0
    while True:
        for book in encoded:
            at = rng.randrange(256)
            while at + 64 < len(book):
                length = rng.choices(ROW_LENGTHS[1:], (10, 2, 1))[0]
                piece = book[at : at + length]
                weights = np.full(len(piece), PROSE_WEIGHT, np.float16)
                documents.append((piece, weights))
                at += length
                total += len(piece)
        if total >= wanted:
            rng.shuffle(documents)
            return documents[: int(len(documents) * wanted / total)]


class Rows:
    """Packs the corpus into batches of BATCH_TOKENS; every epoch packs in another order."""

    def __init__(self, path: Path, seed: int) -> None:
        corpus = np.load(path)
        self.tokens, self.weights = corpus["tokens"], corpus["weights"]
        self.starts = corpus["starts"]
        self.seed = seed

    def batches(self, skip: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Endless batches from number `skip` on: tokens, weights and document numbers, [B, T].

        weights[b, t] belongs to predicting tokens[b, t]; number 0 marks padding.
        """
        epoch = 0
        while True:
            rng = random.Random(self.seed + epoch)
            plan = self._plan(rng)
            for batch in plan[min(skip, len(plan)) :]:
                yield self._load(batch)
            skip = max(0, skip - len(plan))
            epoch += 1

    def _plan(self, rng: random.Random) -> list[tuple[int, list[list[int]]]]:
        """Batches as (row length, documents of each row), shuffled."""
        order = list(range(len(self.starts) - 1))
        rng.shuffle(order)
        rows: dict[int, list[list[int]]] = {length: [] for length in ROW_LENGTHS}
        open_rows: dict[int, list[tuple[int, list[int]]]] = {length: [] for length in ROW_LENGTHS}
        for document in order:
            size = int(self.starts[document + 1] - self.starts[document])
            length = next(n for n in ROW_LENGTHS if size <= n)
            shelf = open_rows[length]
            for index, (room, row) in enumerate(shelf):
                if size <= room:
                    row.append(document)
                    shelf[index] = (room - size, row)
                    break
            else:
                shelf.append((length - size, [document]))
                if len(shelf) > 40:
                    fullest = min(range(len(shelf)), key=lambda i: shelf[i][0])
                    rows[length].append(shelf.pop(fullest)[1])
        plan = []
        for length, complete in rows.items():
            complete += [row for _, row in open_rows[length]]
            rng.shuffle(complete)
            height = BATCH_TOKENS // length
            usable = len(complete) // height * height
            plan += [(length, complete[i : i + height]) for i in range(0, usable, height)]
        rng.shuffle(plan)
        return plan

    def _load(self, batch: tuple[int, list[list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        length, rows = batch
        tokens = np.zeros((len(rows), length), np.int64)
        weights = np.zeros((len(rows), length), np.float32)
        numbers = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            at = 0
            for number, document in enumerate(row, 1):
                part = slice(int(self.starts[document]), int(self.starts[document + 1]))
                end = at + part.stop - part.start
                tokens[index, at:end] = self.tokens[part]
                weights[index, at:end] = self.weights[part]
                weights[index, at] = 0.0  # nothing precedes a document's first token
                numbers[index, at:end] = number
                at = end
        return torch.from_numpy(tokens), torch.from_numpy(weights), torch.from_numpy(numbers)


def document_mask(numbers: Tensor) -> Tensor:
    """Scores' mask [B, 1, T, T] in bfloat16: causal, and only within a document."""
    length = numbers.shape[1]
    allowed = (numbers[:, :, None] == numbers[:, None, :]).tril_()
    mask = torch.zeros(numbers.shape[0], length, length, dtype=torch.bfloat16)
    return mask.masked_fill_(~allowed, float("-inf"))[:, None]


# --- optimiser ----------------------------------------------------------------------------------


class Muon:
    """Momentum whose update is replaced by the nearest (semi-)orthogonal matrix.

    Matrices of one shape are orthogonalised together, by five Newton-Schulz steps in bfloat16.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float = 0.01) -> None:
        self.decay = decay
        by_shape: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = list(by_shape.values())
        self.momenta = [torch.zeros(len(g), *g[0].shape) for g in self.groups]

    @torch.no_grad()
    def step(self, rate: float, momentum: float = 0.95) -> None:
        """Change the parameters by one step of the given learning rate."""
        for group, state in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([p.grad for p in group])
            state.lerp_(gradient, 1 - momentum)
            update = self._orthogonal(gradient.lerp(state, momentum))
            rows, columns = group[0].shape
            scale = rate * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update.float(), strict=True):
                parameter.mul_(1 - rate * self.decay).add_(change, alpha=-scale)

    @staticmethod
    def _orthogonal(x: Tensor) -> Tensor:
        """x [n, rows, columns] with its singular values brought near one."""
        a, b, c = 3.4445, -4.7750, 2.0315
        turned = x.shape[1] > x.shape[2]
        x = x.transpose(1, 2) if turned else x
        x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
        for _ in range(5):
            square = x @ x.transpose(1, 2)
            x = a * x + (b * square + c * square @ square) @ x
        return x.transpose(1, 2) if turned else x


def rate_at(progress: float) -> float:
    """The learning rates' factor: short warm-up, level, then linear to zero from half on."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.01)
    return min(1.0, max(0.0, (1 - progress) / 0.5))


# --- training -----------------------------------------------------------------------------------


def train(args: argparse.Namespace, corpus: Rows) -> TinyChat:
    """Train until args.tokens tokens have been read; checkpoints hold all that a resume needs."""
    torch.manual_seed(args.seed)
    model = TinyChat(Config(layers=args.layers))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n != "embed"]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or n == "embed"]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
    step, seconds, first = 0, 0.0, 0
    checkpoint = args.out / "checkpoint.pt"
    if args.init:
        model.load_state_dict(torch.load(args.init)["model"])
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.momenta = state["muon"]
        step, seconds, first = state["step"], state["seconds"], state["step"]

    def save() -> None:
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momenta}
        state |= {"step": step, "seconds": seconds, "config": vars(model.config)}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    gradients = Gradients(model, args.threads)
    total = math.ceil(args.tokens / BATCH_TOKENS)
    saved, losses = time.monotonic(), []
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    for tokens, weights, numbers in corpus.batches(skip=first):
        if step >= total:
            break
        begun = time.monotonic()
        factor = rate_at(step / total) * args.rate
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
            with open(args.out / "log.jsonl", "a", encoding="utf-8") as log:
                print(json.dumps(line), file=log)
            losses = []
        if stopping or time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
        if stopping:
            raise SystemExit("stopped; go on with --resume")
    save()
    return model


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


def main() -> None:
    """Parse the options and make everything in the folder OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything made")
    parser.add_argument("--books", type=Path, default=BOOKS, help="folder of the novels' .txt")
    parser.add_argument("--tokens", type=float, default=14e6, help="tokens to train on")
    parser.add_argument("--corpus-tokens", type=float, default=0, help="default: --tokens")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--init", type=Path, help="checkpoint whose weights a new run begins with")
    args = parser.parse_args()
    torch.set_num_threads(1)  # Gradients has threads of its own
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "corpus.npz").exists():
        begun = time.monotonic()
        count = int(args.corpus_tokens or args.tokens)
        build_corpus(args.books, args.out, count, args.seed)
        print(f"data made in {time.monotonic() - begun:.0f} s", flush=True)
    model = train(args, Rows(args.out / "corpus.npz", args.seed))
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    write_gguf(model, tokenizer, args.out / "tiny-chat.gguf")


if __name__ == "__main__":
    main()
