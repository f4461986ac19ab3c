"""The training data as tokens: documents, their weights in the loss, and batches of rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import books as novels
import data
import numpy as np
import torch
from source import Chat, Source
from template import render
from tokenizer import END_OF_TEXT, plain_text, train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor

BATCH_TOKENS = 4096
# Tokens in a row; a document goes to the shortest that holds it.
ROW_LENGTHS = (128, 256, 512, 1024)
PROSE_WEIGHT = 0.5  # of a token of plain book text in the loss; what the model says counts 1
PROMPT_WEIGHT = 0.1  # of a token of the user or of the list of tools, which repeats itself much


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
    unfinished = folder / "corpus.new.npz"
    np.savez(
        unfinished,
        tokens=np.concatenate([t for t, _ in documents]),
        weights=np.concatenate([w for _, w in documents]),
        starts=np.cumsum([0] + [len(t) for t, _ in documents]),
    )
    unfinished.replace(folder / "corpus.npz")


def _make_tokenizer(source: Source, books: list[str]) -> Tokenizer:
    """Train on the books and about as much text of conversations."""
    chats = []
    for make, share in data.SKILLS.values():
        for _ in range(int(share * 20000)):
            chat = make(source)
            chats.append("".join(text for text, _ in render(chat.messages, chat.tools)))
    paragraphs = [p for book in books for p in book.split("\n\n")]
    return train_tokenizer(plain_text(t) for t in chats + paragraphs)


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
    end = tokenizer.token_to_id(END_OF_TEXT)
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
