"""Measures each skill of tiny-chat on cases that were never in its training data.

    python tools/tiny_chat/evaluate.py --checkpoint DIR/mean.pt
    python tools/tiny_chat/evaluate.py --model localllm/assets/tiny-chat.gguf

Names, cities, made-up words, pairs of numbers and questions come from the held-out side of the
split in source.py. Decoding is greedy. A case counts when the whole answer is exactly right, but
how-to answers must name the right command in backticks, thinking must come in a closed <think>
block before the exact answer, and prose must go on for 20 words, 95 % of them words of the books,
without falling into a loop.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import books as novels
import calls
import fields
import names
import sums
import talk
from data import THINK_REQUESTS
from source import Chat, Source, user
from template import render_text

HERE = Path(__file__).resolve().parent
BOOKS = HERE.parents[2] / "shared" / "data" / "books"
ANSWER_TOKENS = 160
PROSE_TOKENS = 64
STOPS = ("<|im_end|>", "<|endoftext|>")


@dataclass
class Case:
    """A chat that waits for an answer, and the test of the answer."""

    chat: Chat
    passes: Callable[[str], bool]
    wanted: str


class Backend(Protocol):
    """Something that answers prompts greedily."""

    def answer(self, prompts: list[str], limit: int) -> list[str]:
        """The texts that follow the prompts, without the end-of-turn token."""
        ...


# --- cases --------------------------------------------------------------------------------------


def exact(messages: list[dict], wanted: str, tools: list[dict] | None = None) -> Case:
    """A case whose answer must equal `wanted`."""
    return Case(Chat(messages, tools or []), lambda said: said.strip() == wanted, wanted)


def greet_case(source: Source) -> Case:
    """Small talk: one of the answers that fit."""
    question, answers = talk.greeting_problem(source)
    return Case(Chat([user(question)]), lambda said: said in answers, answers[0])


def name_case(source: Source) -> Case:
    """A name given some turns ago."""
    chat = names.name_chat(source)
    return exact(chat.messages[:-1], chat.messages[-1]["content"])


def arithmetic_case(source: Source) -> Case:
    """A sum or a difference."""
    question, answer = sums.sum_problem(source)
    return exact([user(question)], answer)


def howto_case(source: Source) -> Case:
    """A question about a command."""
    question, _, command = talk.howto_problem(source)
    return Case(Chat([user(question)]), lambda said: f"`{command}`" in said, command)


def json_case(source: Source) -> Case:
    """Two fields as JSON."""
    request, answer, _, _ = fields.json_problem(source)
    return exact([user(request)], answer)


def tool_case(source: Source) -> Case:
    """A question that one of the listed tools answers."""
    chat, call = calls.tool_problem(source)
    return exact(chat.messages, call, chat.tools)


def tool_result_case(source: Source) -> Case:
    """The answer in words after a tool has replied."""
    case = calls.tool_case(source)
    messages = [user(case.need.question), calls.call_message(case)]
    messages.append({"role": "tool", "content": case.need.result})
    tools = calls.tool_list(source, [case], source.choice((0, 1, 2)))
    return exact(messages, case.need.answer, tools)


def no_tool_case(source: Source) -> Case:
    """Tools are listed, but the question is one of small talk or about localllm."""
    case = greet_case(source) if source.chance(0.5) else howto_case(source)
    case.chat.tools = calls.tool_list(source, [calls.tool_case(source)], source.choice((0, 1, 2)))
    return case


def think_case(source: Source) -> Case:
    """A sum with a request to think."""
    a, b, sign, question = sums.draw_sum(source)
    answer = f"{a} {sign} {b} = {sums.signed(a, sign, b)}"
    request = source.choice(THINK_REQUESTS).format(q=question)

    def passes(said: str) -> bool:
        found = re.fullmatch(r"<think>\n.+\n</think>\n\n(.+)", said, re.DOTALL)
        return bool(found) and found[1] == answer

    return Case(Chat([user(request)]), passes, answer)


SKILLS: dict[str, Callable[[Source], Case]] = {
    "greet": greet_case,
    "name": name_case,
    "arithmetic": arithmetic_case,
    "howto": howto_case,
    "json": json_case,
    "tool": tool_case,
    "tool result": tool_result_case,
    "no tool": no_tool_case,
    "think": think_case,
}


def prose_cases(source: Source, books: Path, count: int) -> list[Case]:
    """Requests to continue a passage of the held-out end of a book."""
    train, held_out = novels.read_books(books)
    known = set(re.findall(r"[a-z']+", " ".join(train).lower()))

    def passes(said: str) -> bool:
        words = re.findall(r"[a-z']+", said.lower())
        runs = Counter(tuple(words[i : i + 4]) for i in range(len(words) - 3))
        looping = bool(runs) and max(runs.values()) > 2
        known_share = sum(word in known for word in words[:-1]) / max(1, len(words) - 1)
        return len(words) >= 20 and known_share >= 0.95 and not looping

    cases = []
    for _ in range(count):
        chat = novels.story(source, held_out)
        cases.append(Case(Chat(chat.messages[:1]), passes, chat.messages[1]["content"]))
    return cases


# --- backends -----------------------------------------------------------------------------------


class TorchBackend:
    """A checkpoint of train.py, decoded in batches with left padding and a key/value cache."""

    def __init__(self, checkpoint: Path, tokenizer: Path, batch: int = 50) -> None:
        import torch
        from export import load_checkpoint
        from tokenizers import Tokenizer

        self.torch = torch
        self.model = load_checkpoint(checkpoint)
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.stops = [self.tokenizer.token_to_id(stop) for stop in STOPS]
        self.batch = batch

    def answer(self, prompts: list[str], limit: int) -> list[str]:
        """The texts that follow the prompts, without the end-of-turn token."""
        ids = [self.tokenizer.encode(p, add_special_tokens=False).ids for p in prompts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        answers = [""] * len(ids)
        for at in range(0, len(order), self.batch):
            part = order[at : at + self.batch]
            for index, said in zip(part, self._decode([ids[i] for i in part], limit), strict=True):
                answers[index] = self.tokenizer.decode(said)
        return answers

    def _decode(self, prompts: list[list[int]], limit: int) -> list[list[int]]:
        torch = self.torch
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        padding = torch.tensor([[i < width - len(p) for i in range(width)] for p in prompts])
        hidden = torch.zeros(padding.shape).masked_fill_(padding, -1e9)[:, None, None, :]
        causal = torch.full((width, width), -1e9).triu_(1)
        caches: list[list] = [[] for _ in self.model.blocks]
        said: list[list[int]] = [[] for _ in prompts]
        running = set(range(len(prompts)))
        mask, start = hidden + causal, 0
        with torch.no_grad():
            for _ in range(limit):
                state = self.model.hidden(tokens, mask, caches, start)[:, -1]
                tokens = (state @ self.model.embed.T).argmax(-1, keepdim=True)
                start = caches[0][0].shape[2]
                hidden = torch.cat((hidden, torch.zeros(len(prompts), 1, 1, 1)), dim=-1)
                mask = hidden
                for index in list(running):
                    token = int(tokens[index])
                    if token in self.stops:
                        running.discard(index)
                    else:
                        said[index].append(token)
                if not running:
                    break
        return said

    def prose_loss(self, text: str, rows: int = 64, length: int = 512) -> tuple[float, float]:
        """Mean loss in nats per token, and in bits per byte, over `rows` stretches of text."""
        torch = self.torch
        ids = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids)
        step = max(length, (len(ids) - length) // rows)
        nats, count, size = 0.0, 0, 0
        for at in range(0, len(ids) - length, step):
            row = ids[at : at + length]
            with torch.no_grad():
                logits = self.model(row[None])[0, :-1]
            nats += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
            count += length - 1
            size += len(self.tokenizer.decode(row[1:].tolist()).encode())
        return nats / count, nats / size / 0.6931472


# --- running ------------------------------------------------------------------------------------


def prompt_text(chat: Chat) -> str:
    """The prompt of a case."""
    return render_text(chat.messages, chat.tools, add_generation_prompt=True)


def measure(backend: Backend, name: str, cases: list[Case], limit: int, show: int) -> dict:
    """Answer the cases and print the row of the table; returns it."""
    answers = backend.answer([prompt_text(case.chat) for case in cases], limit)
    passed = [case.passes(said) for case, said in zip(cases, answers, strict=True)]
    percent = 100 * sum(passed) / len(cases)
    print(f"{name:12s} {len(cases):6d} {percent:8.1f}", flush=True)
    wrong = [i for i, good in enumerate(passed) if not good]
    for index in wrong[:show]:
        question = cases[index].chat.messages[-1]["content"]
        print(f"    asked  {question!r}\n    wanted {cases[index].wanted!r}")
        print(f"    said   {answers[index]!r}")
    return {"skill": name, "cases": len(cases), "percent": round(percent, 1)}


def main() -> None:
    """Parse the options, measure every skill and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="checkpoint.pt of train.py")
    parser.add_argument("--tokenizer", type=Path, help="default: beside the checkpoint")
    parser.add_argument("--model", type=Path, help="a GGUF file, run by localllm")
    parser.add_argument("--books", type=Path, default=BOOKS)
    parser.add_argument("--cases", type=int, default=200, help="cases per skill")
    parser.add_argument("--skills", default="", help="only these, separated by commas")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per skill")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    backend: Backend
    if args.checkpoint:
        tokenizer = args.tokenizer or args.checkpoint.with_name("tokenizer.json")
        backend = TorchBackend(args.checkpoint, tokenizer)
    elif args.model:
        from localllm_backend import LocalllmBackend

        backend = LocalllmBackend(args.model)
    else:
        parser.error("give --checkpoint or --model")
    print(f"{'skill':12s} {'cases':>6s} {'exact %':>8s}")
    chosen = [s for s in args.skills.split(",") if s] or [*SKILLS, "prose"]
    rows = []
    for name in chosen:
        source = Source(random.Random(f"{args.seed} {name}"), held_out=True)
        if name == "prose":
            cases, limit = prose_cases(source, args.books, args.cases), PROSE_TOKENS
        else:
            cases, limit = [SKILLS[name](source) for _ in range(args.cases)], ANSWER_TOKENS
        rows.append(measure(backend, name, cases, limit, args.show))
        if name == "prose" and isinstance(backend, TorchBackend):
            text = "\n\n".join(novels.read_books(args.books)[1])
            nats, bits = backend.prose_loss(text)
            print(f"held-out books: {nats:.3f} nats per token, {bits:.3f} bits per byte")
            rows[-1] |= {"nats_per_token": round(nats, 3), "bits_per_byte": round(bits, 3)}
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
