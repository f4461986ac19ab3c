import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from localllm.engine.pages import OutOfPagesError, PageLeakError, PageNames, PagePool, Table

SIZE = 4


def names(tokens):
    return PageNames().first(len(tokens) // SIZE, tokens, SIZE)


def filled(pool, tokens):
    """A table with these tokens computed and known."""
    table = pool.match(names(tokens))
    pool.writable(table, len(table.pages) * pool.page_size, len(tokens))
    pool.register(table, names(tokens))
    return table


def test_pages_grow_with_the_tokens():
    pool = PagePool(4, SIZE)
    table = Table()
    assert pool.writable(table, 0, 1) == []
    assert pool.writable(table, 1, SIZE) == []
    assert len(table.pages) == 1
    pool.writable(table, SIZE, SIZE + 1)
    assert len(table.pages) == 2
    assert pool.available == 2
    pool.check([table])


def test_too_few_pages_is_an_error_and_changes_nothing():
    pool = PagePool(2, SIZE)
    table = Table()
    pool.writable(table, 0, 5)
    with pytest.raises(OutOfPagesError, match="1 pages are needed, 0 are available"):
        pool.writable(table, 5, 12)
    assert len(table.pages) == 2
    pool.check([table])


def test_a_fork_shares_until_it_writes():
    pool = PagePool(4, SIZE)
    one = Table()
    pool.writable(one, 0, 6)
    two = pool.fork(one)
    assert two.pages == one.pages
    assert pool.available == 2
    pool.check([one, two])
    last = one.pages[1]
    assert pool.writable(two, 6, 7) == [(last, two.pages[1])]
    assert two.pages[0] == one.pages[0]
    assert one.pages[1] == last
    assert pool.writable(one, 6, 7) == []  # alone again: no copy
    pool.check([one, two])


def test_known_prefixes_are_found_in_full_pages():
    pool = PagePool(8, SIZE)
    one = filled(pool, list(range(10)))
    two = pool.match(names([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert two.pages == one.pages[:2]
    assert pool.known(names(list(range(10)))) == 2
    assert pool.match(names([0, 1, 2, 3, 4, 5, 6, 9])).pages == one.pages[:1]
    assert pool.match(names([4, 5, 6, 7])).pages == []  # the same tokens after others
    assert pool.match(names([0, 1, 2])).pages == []


def test_names_grow_with_the_text():
    text = list(range(40))
    growing = PageNames()
    for length in (3, 8, 9, 40, 20):
        assert growing.first(length // SIZE, text[:length], SIZE) == names(text[:length])


def test_known_pages_outlive_their_table_and_the_oldest_go_first():
    pool = PagePool(4, SIZE)
    old, new = list(range(8)), list(range(50, 58))
    pool.release(filled(pool, old))
    pool.release(filled(pool, new))
    assert pool.available == 4
    table = Table()
    pool.writable(table, 0, SIZE)  # takes the end of the oldest text, not its beginning
    found = [pool.match(names(old)), pool.match(names(new))]
    assert [len(one.pages) for one in found] == [1, 2]
    pool.check([table, *found])


def test_a_known_page_that_is_written_again_is_forgotten():
    pool = PagePool(4, SIZE)
    table = filled(pool, list(range(8)))
    pool.truncate(table, 6)
    pool.writable(table, 6, 8)
    assert len(pool.match(names(list(range(8)))).pages) == 1
    pool.register(table, names([0, 1, 2, 3, 4, 5, 60, 61]))
    assert len(pool.match(names([0, 1, 2, 3, 4, 5, 60, 61])).pages) == 2


def test_the_same_text_computed_twice_is_known_once():
    pool = PagePool(4, SIZE)
    one, two = Table(), Table()
    for table in (one, two):
        pool.writable(table, 0, SIZE)
    for table in (one, two):
        pool.register(table, names([1, 2, 3, 4]))
    assert pool.match(names([1, 2, 3, 4])).pages == one.pages
    pool.release(two)
    assert pool.match(names([1, 2, 3, 4])).pages == one.pages


def test_check_sees_a_leak_a_double_release_and_a_false_table():
    pool = PagePool(4, SIZE)
    table = Table()
    pool.writable(table, 0, 8)
    for tables in ([], [table, table], [Table(table.pages[:1])]):
        with pytest.raises(PageLeakError):
            pool.check(tables)
    twice = Table(list(table.pages))
    pool.release(table)
    pool.release(twice)
    with pytest.raises(PageLeakError):
        pool.check([])


class Pool(RuleBasedStateMachine):
    """Any series of calls, against the tokens that each position must hold."""

    tables = Bundle("tables")

    def __init__(self):
        super().__init__()
        self.pool = PagePool(9, SIZE)
        self.memory = {}
        self.live = []

    @rule(target=tables, tokens=st.lists(st.integers(0, 1), max_size=30))
    def begin(self, tokens):
        table = self.pool.match(names(tokens))
        known = len(table.pages) * SIZE
        state = {"table": table, "tokens": tokens[:known]}
        self.live.append(state)
        self._write(state, tokens[known:])
        return state

    @rule(state=tables, tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9))
    def extend(self, state, tokens):
        self._write(state, tokens)

    @rule(state=tables)
    def register(self, state):
        self.pool.register(state["table"], names(state["tokens"]))

    @rule(target=tables, state=tables)
    def fork(self, state):
        twin = {"table": self.pool.fork(state["table"]), "tokens": list(state["tokens"])}
        self.live.append(twin)
        return twin

    @rule(state=tables, part=st.floats(0, 1))
    def truncate(self, state, part):
        keep = int(len(state["tokens"]) * part)
        self.pool.truncate(state["table"], keep)
        del state["tokens"][keep:]

    @rule(target=tables, state=consumes(tables))
    def release(self, state):
        self.pool.release(state["table"])
        self.live = [one for one in self.live if one is not state]
        return multiple()

    def _write(self, state, tokens):
        start = len(state["tokens"])
        table = state["table"]
        before = (list(table.pages), self.pool.available)
        try:
            copies = self.pool.writable(table, start, start + len(tokens))
        except OutOfPagesError:
            assert (table.pages, self.pool.available) == before
            assert self.pool.needed(table, start, start + len(tokens)) > self.pool.available
            return
        for source, target in copies:
            for at in range(SIZE):
                self.memory[target, at] = self.memory.get((source, at))
        for position, token in enumerate(tokens, start):
            self.memory[table.pages[position // SIZE], position % SIZE] = token
        state["tokens"] = [*state["tokens"], *tokens]

    @invariant()
    def the_books_are_right(self):
        self.pool.check([state["table"] for state in self.live])

    @invariant()
    def every_table_reads_its_own_tokens(self):
        for state in self.live:
            pages = state["table"].pages
            assert len(pages) == self.pool.pages_for(len(state["tokens"]))
            for position, token in enumerate(state["tokens"]):
                assert self.memory[pages[position // SIZE], position % SIZE] == token


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
