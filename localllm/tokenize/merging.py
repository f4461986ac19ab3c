"""Merges of neighbouring symbols, best first: the heart of both kinds of byte-pair encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import chain, pairwise
from math import inf

_SHORT = 40  # symbols; above, a heap is faster than looking for the least rank each time


def merge(parts: list[bytes], ranks: Mapping[bytes, float], separator: bytes) -> list[bytes]:
    """Merges the pair of neighbours of the least rank, the leftmost of equals, as long as any.

    Args:
        parts: the symbols; changed.
        ranks: rank by ``left + separator + right``; a pair without one is never merged.
        separator: what stands between the two in a key of `ranks`.

    Returns:
        The symbols that are left. Takes n log n steps for n symbols, also where all are equal.
    """
    if len(parts) > _SHORT:
        return _merge_long(parts, ranks, separator)
    get = ranks.get
    found = [get(left + separator + right, inf) for left, right in pairwise(parts)]
    while found:
        best = min(found)
        if best == inf:
            break
        index = found.index(best)
        parts[index : index + 2] = [merged := parts[index] + parts[index + 1]]
        del found[index]
        if index < len(found):
            found[index] = get(merged + separator + parts[index + 1], inf)
        if index:
            found[index - 1] = get(parts[index - 1] + separator + merged, inf)
    return parts


def _merge_long(parts: list[bytes], ranks: Mapping[bytes, float], separator: bytes) -> list[bytes]:
    get = ranks.get
    following = [*range(1, len(parts)), -1]
    previous = list(range(-1, len(parts) - 1))
    # the left symbols of the pairs of one rank, as a heap, by rank; and a heap of the ranks
    waiting: dict[float, list[int]] = {}
    order: list[float] = []

    def add(rank: float, index: int) -> None:
        if rank in waiting:
            heappush(waiting[rank], index)
        else:
            waiting[rank] = [index]
            heappush(order, rank)

    for index, (left, right) in enumerate(pairwise(parts)):
        rank = get(left + separator + right)
        if rank is not None:
            add(rank, index)
    while order:
        best = order[0]
        indices = waiting[best]
        while indices and order[0] == best:
            index = heappop(indices)
            after = following[index]
            if after < 0 or get((symbol := parts[index]) + separator + parts[after]) != best:
                continue  # merged with another one meanwhile
            merged = parts[index] = symbol + parts[after]
            parts[after] = b""
            following[index], following[after] = following[after], -1
            after = following[index]
            if after >= 0:
                previous[after] = index
                rank = get(merged + separator + parts[after])
                if rank is not None:
                    add(rank, index)
            before = previous[index]
            if before >= 0:
                rank = get(parts[before] + separator + merged)
                if rank is not None:
                    add(rank, before)
        if not indices and order[0] == best:
            heappop(order)
            del waiting[best]
    return [part for part in parts if part]


class WordCache(dict[str, tuple[int, ...]]):
    """Ids by word, found on the first request; text repeats its words."""

    _LIMIT = 1 << 16
    _LONGEST = 64

    def __init__(self, encode: Callable[[str], Iterable[int]]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._encode(word))
        if len(word) <= self._LONGEST:
            if len(self) >= self._LIMIT:
                self.clear()
            self[word] = ids
        return ids

    def encode_all(self, words: Iterable[str]) -> list[int]:
        """The ids of all `words`, one after the other."""
        return list(chain.from_iterable(map(self.__getitem__, words)))
