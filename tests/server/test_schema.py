"""The server against its own description, with whatever requests that allows and forbids."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.server.conftest import Running

schemathesis = pytest.importorskip("schemathesis", minversion="4")

OPERATIONS = [
    "GET /health",
    "GET /metrics",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /apply-template",
    "POST /detokenize",
    "POST /tokenize",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/responses",
]
# What takes nothing cannot be asked wrongly.
KINDS = [(label, "positive") for label in OPERATIONS]
KINDS += [(label, "negative") for label in OPERATIONS if label.startswith("POST")]


@pytest.fixture(scope="module")
def small():
    """Answers are short here: requests ask for any number of tokens."""
    running = Running(most_tokens=24)
    yield running
    running.require_idle()
    running.close()


@pytest.fixture(scope="module")
def described(small):
    """The operations, by method and path."""
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.label: operation for operation in found}


def check(operation, kind, count, derandomize):
    """Ask so many times; every answer has a status, a type and a form that are described.

    What is forbidden has to be refused. What is allowed may be refused too: that a text does not
    fit the context, no description can say.
    """
    from schemathesis.checks import CHECKS, load_all_checks
    from schemathesis.errors import InvalidSchema

    load_all_checks()
    mode = schemathesis.GenerationMode(kind)
    undecidable = [CHECKS.get_one("positive_data_acceptance")]

    cases = operation.as_strategy(generation_mode=mode)

    @given(st.data())
    @settings(
        max_examples=count,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(data):
        try:
            case = data.draw(cases)
        except InvalidSchema:  # of one that it made itself, and then cannot fill
            reject()
        case.call_and_validate(excluded_checks=undecidable, timeout=30)

    ask()


def test_all_operations_are_described(described):
    assert sorted(described) == OPERATIONS


@pytest.mark.parametrize(("label", "kind"), KINDS)
def test_some_requests(described, label, kind):
    check(described[label], kind, 6, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "kind"), KINDS)
def test_many_requests(described, label, kind):
    check(described[label], kind, 300, derandomize=False)
