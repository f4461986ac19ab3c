"""KV memory as pages: block tables, reference counts, copy-on-write, reuse of known prefixes.

A page holds the keys and values of ``page_size`` tokens in every layer; this module only keeps the
books, the memory itself belongs to the runner. A page is in one of three states: *held* by one or
more tables, *kept* (held by none, but its content has a hash and may be wanted again), or *free*.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import takewhile

import numpy as np

from localllm.errors import LocalLLMError

PAGE_SIZE = 32  # tokens; the attention kernels know no other


class OutOfPagesError(LocalLLMError):
    """More pages are wanted than are free or kept; nothing was changed."""


class PageLeakError(Exception):
    """The books of a pool contradict themselves or the tables in use."""


@dataclass
class Table:
    """The pages of one sequence in order, and how many of the first have been named."""

    pages: list[int] = field(default_factory=list)
    named: int = 0


class PageNames:
    """The names of the full pages of one growing text: hashes of their tokens and all before.

    Cryptographic ones, because a collision would show one prompt's content to another.
    """

    def __init__(self) -> None:
        self._names: list[bytes] = []

    def first(
        self, count: int, tokens: Sequence[int], page_size: int, adapter: int | None = None
    ) -> list[bytes]:
        """The names of the first `count` pages of the text, which only grew since the last call.

        With another adapter other keys and values are computed, so the pages have other names.
        """
        root = b"" if adapter is None else adapter.to_bytes(8, "little")
        for at in range(len(self._names), count):
            before = self._names[-1] if self._names else root
            page = np.asarray(tokens[at * page_size : (at + 1) * page_size], np.int64)
            self._names.append(blake2b(before + page.tobytes(), digest_size=16).digest())
        return self._names[:count]


class PagePool:
    """A fixed number of pages, handed out and taken back.

    Args:
        pages: how many there are.
        page_size: tokens a page holds.
    """

    def __init__(self, pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.pages = pages
        self._free = list(range(pages - 1, -1, -1))
        self._references = [0] * pages
        self._kept: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Pages that can be had now, kept ones included."""
        return len(self._free) + len(self._kept)

    @property
    def kept(self) -> int:
        """Pages that no table holds, but whose content is known."""
        return len(self._kept)

    def pages_for(self, tokens: int) -> int:
        """Pages that so many tokens fill or begin."""
        return -(-tokens // self.page_size)

    def known(self, names: Sequence[bytes]) -> int:
        """How many of these pages, from the first on, ``match`` would find."""
        return sum(1 for _ in takewhile(self._page_of.__contains__, names))

    def match(self, names: Sequence[bytes]) -> Table:
        """A table that holds the longest known prefix of a text with these full pages."""
        pages = [self._page_of[name] for name in names[: self.known(names)]]
        for page in pages:
            self._hold(page)
        return Table(pages, len(pages))

    def register(self, table: Table, names: Sequence[bytes]) -> None:
        """Make the first pages of a table, which are full, known to ``match`` by these names."""
        start, table.named = table.named, len(names)
        for page, name in zip(table.pages[start : len(names)], names[start:], strict=True):
            if name not in self._page_of and page not in self._hash_of:
                self._page_of[name] = page
                self._hash_of[page] = name

    def fork(self, table: Table) -> Table:
        """A second table on the same pages."""
        for page in table.pages:
            self._references[page] += 1
        return Table(list(table.pages), table.named)

    def needed(self, table: Table, start: int, stop: int) -> int:
        """How many pages ``writable`` would take."""
        touched = table.pages[start // self.page_size : self.pages_for(stop)]
        shared = sum(self._references[page] > 1 for page in touched)
        return shared + max(0, self.pages_for(stop) - len(table.pages))

    def writable(self, table: Table, start: int, stop: int) -> list[tuple[int, int]]:
        """Make positions start..stop-1 the table's own to write.

        Pages are added at the end as needed, shared ones are replaced.

        Returns:
            pages to copy before the write, (from, to), in order.

        Raises:
            OutOfPagesError: there are not enough pages; nothing was changed.
        """
        needed = self.needed(table, start, stop)
        if needed > self.available:
            raise OutOfPagesError(f"{needed} pages are needed, {self.available} are available")
        copies = []
        for at in range(start // self.page_size, min(len(table.pages), self.pages_for(stop))):
            page = table.pages[at]
            if self._references[page] > 1:
                table.pages[at] = self._take()
                self._references[page] -= 1
                copies.append((page, table.pages[at]))
            elif page in self._hash_of:
                self._forget(page)  # its content is about to change
        while len(table.pages) < self.pages_for(stop):
            table.pages.append(self._take())
        return copies

    def truncate(self, table: Table, tokens: int) -> None:
        """Give back the pages beyond the first ``tokens`` positions."""
        keep = self.pages_for(tokens)
        # Last page first: the beginning of a text is the part that others may share, so it stays
        # longest among the kept.
        while len(table.pages) > keep:
            self._release(table.pages.pop())
        table.named = min(table.named, tokens // self.page_size)

    def release(self, table: Table) -> None:
        """Give back all pages of a table."""
        self.truncate(table, 0)

    def check(self, tables: Iterable[Table]) -> None:
        """Check that the books agree with these tables, which must be all there are.

        Raises:
            PageLeakError: they do not.
        """
        held = Counter(page for table in tables for page in table.pages)
        hashed = set(self._hash_of)
        states = sorted([*self._free, *self._kept, *held])
        problems = {
            "reference counts differ": [held[page] for page in range(self.pages)]
            != self._references,
            "a page is lost or in two states": states != list(range(self.pages)),
            "hashes differ": {key: page for page, key in self._hash_of.items()} != self._page_of,
            "a page is kept for no hash": not hashed.issuperset(self._kept),
            "a free page has a hash": not hashed.isdisjoint(self._free),
        }
        if any(problems.values()):
            raise PageLeakError(", ".join(name for name, found in problems.items() if found))

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._kept.popitem(last=False)
            self._forget(page)
        self._references[page] = 1
        return page

    def _hold(self, page: int) -> None:
        self._kept.pop(page, None)
        self._references[page] += 1

    def _release(self, page: int) -> None:
        self._references[page] -= 1
        if self._references[page]:
            return
        if page in self._hash_of:
            self._kept[page] = None
        else:
            self._free.append(page)

    def _forget(self, page: int) -> None:
        del self._page_of[self._hash_of.pop(page)]
