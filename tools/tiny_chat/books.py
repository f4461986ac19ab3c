"""The novels: plain text for training, and requests to continue a passage."""

from __future__ import annotations

import re
from pathlib import Path

from source import Chat, Source, assistant, user

HELD_OUT = 0.04  # share of each book, at its end, that is kept for evaluation


def read_books(folder: Path) -> tuple[list[str], list[str]]:
    """The books' texts for training and the held-out end of each, with lines of a paragraph joined.

    The frame that Project Gutenberg puts around a book is left out.
    """
    train, held_out = [], []
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
        start = re.search(r"\*\*\* ?START OF.*\n", text)
        end = re.search(r"\*\*\* ?END OF", text)
        text = text[start.end() if start else 0 : end.start() if end else len(text)]
        text = text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")).replace("_", "")
        paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text)]
        text = "\n\n".join(p for p in paragraphs if p)
        cut = int(len(text) * (1 - HELD_OUT))
        cut = text.find("\n\n", cut)
        train.append(text[:cut])
        held_out.append(text[cut + 2 :])
    if not train:
        raise FileNotFoundError(f"no .txt books in {folder}")
    return train, held_out


def distinct_words(books: list[str]) -> list[str]:
    """The words of 3 to 10 letters in the books, each once, sorted, in lower case."""
    return sorted({word for book in books for word in re.findall(r"\b[a-z]{3,10}\b", book.lower())})


STORY_REQUESTS = [
    "Continue this story: {t}", "Continue this text: {t}", "Continue the story.\n\n{t}",
    "Please continue: {t}", "Write the next part of this story: {t}", "How does it go on? {t}",
    "Go on with this text:\n{t}", "Continue: {t}", "Carry on with this story: {t}",
]  # fmt: skip


def story(source: Source, books: list[str]) -> Chat:
    """A request to continue a passage; the answer is what the book says next."""
    book = source.rng.choices(books, [len(b) for b in books])[0]
    while True:
        at = source.rng.randrange(max(1, len(book) - 1500))
        sentences = re.split(r"(?<=[.!?]) ", book[at : at + 1200].replace("\n\n", " "))[1:-1]
        if len(sentences) >= 3:
            break
    given = source.rng.randint(1, min(3, len(sentences) - 2))
    told = sentences[given : given + source.rng.randint(2, 6)]
    request = source.choice(STORY_REQUESTS).format(t=" ".join(sentences[:given]))
    return Chat([user(request), assistant(" ".join(told))])
