"""From messages to the ids of a prompt."""

from __future__ import annotations

from localllm.chat.session import ChatSession
from localllm.decoding.params import GenerationParams
from tests.chat.fakes import FakeEngine


def session(template: str | None, add_bos: bool = False) -> ChatSession:
    engine = FakeEngine(["a<think>b"])
    engine.chat_template = template
    engine.tokenizer.add_bos = add_bos
    return ChatSession(engine)


def test_one_bos() -> None:
    with_bos = session("{{ bos_token }}{{ messages[0].content }}", add_bos=True)
    without = session("{{ messages[0].content }}", add_bos=True)
    neither = session("{{ messages[0].content }}")
    messages = [{"role": "user", "content": "x"}]
    assert with_bos.encode(with_bos.prompt(messages)) == [1, ord("x")]
    assert without.encode(without.prompt(messages)) == [1, ord("x")]
    assert neither.encode(neither.prompt(messages)) == [ord("x")]


def test_a_refused_system_prompt_goes_into_the_first_question() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.role }}:{{ m.content }};{% endfor %}"
    )
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
    ]
    assert session(template).prompt(messages) == "user:S\n\nU;assistant:A;"


def test_plain_text_without_a_template() -> None:
    plain = session(None)
    assert plain.template is None
    assert plain.prompt([{"role": "user", "content": "Once"}]) == "Once"
    assert "continues the plain text" in plain.note


def test_raw_text_is_not_taken_apart() -> None:
    raw = session("{{ messages[0].content }}", add_bos=True)
    answer = raw.complete("<think>", GenerationParams())
    assert list(answer) == [("", "a<think>b")]
    assert answer.content == "a<think>b"
    assert raw.engine.prompts == ["\1<think>"]  # type: ignore[attr-defined]


def test_an_answer_adds_up() -> None:
    engine = FakeEngine(["<think>h", "m</thi", "nk>\n\nYes", "."])
    answer = ChatSession(engine).answer([{"role": "user", "content": "x"}], GenerationParams())
    pieces = list(answer)
    assert (answer.reasoning, answer.content) == ("hm", "Yes.")
    assert "".join(content for _, content in pieces) == "Yes."
    assert answer.finish_reason == "stop"
    assert answer.token_ids == [0, 1, 2, 3]


def test_an_answer_cut_short_gives_back_what_it_held() -> None:
    engine = FakeEngine(["<thi", "never"])
    answer = ChatSession(engine).answer([{"role": "user", "content": "x"}], GenerationParams())
    next(iter(answer))
    answer.close()
    assert answer.content == "<thi"
    assert engine.closed == 1
