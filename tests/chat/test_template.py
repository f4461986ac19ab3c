"""Chat templates: as transformers renders them, and safe with templates that mean harm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from localllm.chat.formats import WELL_KNOWN
from localllm.chat.template import ChatTemplate, RefusedError, TemplateError, load_template
from tests.conftest import SHARED

TEMPLATES = sorted((SHARED / "data" / "templates").glob("*.jinja"))
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": 'You are <b>brief</b> & "kind".\n'},
    {"role": "user", "content": "Hi, I'm Zoë 😀"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"},
    {"role": "user", "content": " What {{ now }}?"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather at <place> & time",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "a town"},
                "days": {"type": "integer", "enum": [1, 2]},
            },
            "required": ["place"],
        },
    },
}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"place": "Tromsø", "days": 1}},
}
TOOL_TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "look it up"},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": '{"t": -3}'},
]
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "plain": (TALK[1:], {}),
    "system": (TALK, {}),
    "no prompt": (TALK[:3], {"add_generation_prompt": False}),
    "not thinking": (TALK, {"enable_thinking": False}),
    "thinking": (TALK, {"enable_thinking": True}),
    "tools": (TALK, {"tools": [TOOL]}),
    "tool result": (TOOL_TALK, {"tools": [TOOL]}),
    "two users": ([TALK[1], TALK[3]], {}),
}


@pytest.mark.peer
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_as_transformers(path: Path, case: str) -> None:
    peer = pytest.importorskip("transformers.utils.chat_template_utils")
    messages, options = CASES[case]
    options = {"add_generation_prompt": True, **options}
    source = path.read_text()
    expected: str | None
    try:
        [[expected], _] = peer.render_jinja_template(
            [messages], chat_template=source, bos_token="<s>", eos_token="</s>", **options
        )
    except Exception:
        expected = None  # the template cannot take this conversation, there or here
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    if expected is None:
        with pytest.raises(TemplateError, match="template"):
            template.render(messages, **options)
    else:
        assert template.render(messages, **options) == expected


EXTRAS = {
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}": (
        "userassistantuser"
    ),
    "{% generation %}{{ messages[0].role }}{% endgeneration %}!": "system!",
    "{{ tools | tojson }}": "null",
    "{{ {'a': '<é>'} | tojson }}|{{ [1] | tojson(indent=1) }}": '{"a": "<é>"}|[\n 1\n]',
    "  {% if true %}\nx\n  {% endif %}\ny": "x\ny",
    "{{ strftime_now('%%') }}": "%",
    "{{ messages[1:] | length }}{{ 'abc'[::-1] }}{{ 'a' ~ 1 ~ none }}": "3cbaa1None",
    "{{ 'ab' * 2 + '%s-%d' % ('x', 3) + '{:>3}'.format(1) }}": "ababx-3  1",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}": "4",
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) }}{{ ['a', 'b'] | join(',') }}": "<1>a,b",
    "{{ dict(a=1).items() | list }}{{ missing is defined }}{{ missing }}": "[('a', 1)]False",
    "{{ {'a': 1, 'b': [2]} }}": "{'a': 1, 'b': [2]}",
    "{{ ' x ' | trim | upper | indent(2) | replace('X', 'y') }}": "y",
    "{{ [3, 1] | sort | sum }}{{ bos_token }}": "4<s>",
}


@pytest.mark.parametrize("source", EXTRAS)
def test_what_templates_use(source: str) -> None:
    assert ChatTemplate(source, bos_token="<s>").render(TALK) == EXTRAS[source]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("a\nb {% if %}", "chat template, line 2: "),
        ("a\nb\n{{ x.y.z }}", "chat template, line 3: 'x' is undefined"),
        ("a\n{{ 1 // 0 }}", "chat template, line 2: integer"),
        ("{{ 'a' | nothing }}", "line 1: No filter named 'nothing'"),
        ("{% include 'x' %}", "chat template, line 1"),
    ],
)
def test_faults_name_the_line(source: str, problem: str) -> None:
    with pytest.raises(TemplateError) as error:
        ChatTemplate(source).render(TALK)
    assert problem in str(error.value)


def test_refusals_are_the_templates_own_words() -> None:
    with pytest.raises(RefusedError, match="no system here"):
        ChatTemplate("{{ raise_exception('no system here') }}").render(TALK)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{a.__globals__}'.format(a=raise_exception) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ [1] | map('attr', '__class__') | list }}",
    "{{ ['{0.__class__}'] | map('format', 1) | list }}",
    "{{ [1] | map(attribute='__class__') | list }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "{{ ''.encode('idna') }}",
    "{{ (1).to_bytes(10, 'big') }}",
    "{{ environment }}{{ context }}{{ self._TemplateReference__context.environment }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_escape(source: str) -> None:
    try:
        text = ChatTemplate(source).render(TALK)
    except TemplateError:
        return
    assert "class" not in text
    assert "function" not in text
    assert "environment" not in text.lower()


DOUBLING = (
    "{{% set ns = namespace(x={start}) %}}{{% for i in range(99) %}}{step}{{% endfor %}}{end}"
)
GREEDY = {
    "text times": "{{ 'a' * 10000000000 }}",
    "list times": "{{ [1] * 1000000000 }}",
    "number times": DOUBLING.format(start="99", step="{% set ns.x = ns.x * ns.x %}", end=""),
    "power": "{{ 10 ** 10 ** 10 }}",
    "plus": DOUBLING.format(start="'aa'", step="{% set ns.x = ns.x + ns.x %}", end="{{ ns.x }}"),
    "tilde": DOUBLING.format(start="'aa'", step="{% set ns.x = ns.x ~ ns.x %}", end="{{ ns.x }}"),
    "literal": DOUBLING.format(start="[1]", step="{% set ns.x = [ns.x, ns.x] %}", end="{{ ns.x }}"),
    "tuple": DOUBLING.format(start="1", step="{% set ns.x = ns.x, ns.x %}", end="{{ ns.x }}"),
    "dict": DOUBLING.format(
        start="1", step="{% set ns.x = {'a': ns.x, 'b': ns.x} %}", end="{{ ns.x | tojson }}"
    ),
    "dict()": DOUBLING.format(
        start="1", step="{% set ns.x = dict(a=ns.x, b=ns.x) %}", end="{{ ns.x }}"
    ),
    "arguments": "{% macro m() %}{% set ns.x = varargs %}{% endmacro %}"
    + DOUBLING.format(start="1", step="{{ m(ns.x, ns.x) }}", end="{{ ns.x }}"),
    "block": "{% set x = 'aa' %}"
    + "{% set y %}{{ x }}{{ x }}{% endset %}{% set x %}{{ y }}{{ y }}{% endset %}" * 40
    + "{{ x }}",
    "namespaces": DOUBLING.format(
        start="1", step="{% set ns.x = namespace(a=ns.x, b=ns.x) %}", end="{{ ns.x.a }}"
    ),
    "compare": "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(99) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for i in range(100000) %}{% for j in range(100000) if false %}"
    "{% endfor %}{% endfor %}",
    "loop output": "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}"
    "{% endfor %}",
    "range": "{{ range(10000000000) | list }}",
    "lists": "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}"
    "{% set ns.x = ns.x + [range(99999) | list] %}{% endfor %}",
    "slices": "{% set ns = namespace(x=[]) %}{% set s = 'a' * 3000000 %}"
    "{% for i in range(100000) %}{% set ns.x = ns.x + [s[1:]] %}{% endfor %}",
    "replace": "{% set s = 'a' * 100000 %}{{ s.replace('a', s) }}",
    "replace filter": "{% set s = 'a' * 100000 %}{{ s | replace('', s) }}",
    "join": "{% set s = 'a' * 100000 %}{{ s.join(s | list) }}",
    "join filter": "{% set s = 'a' * 100000 %}{{ s | list | join(s) }}",
    "sum": "{{ ([range(99999) | list] * 9999) | sum(start=[]) }}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (999999999, 1) }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "format nested": "{{ '{:{}}'.format(1, 999999999) }}",
    "format repeated": "{% set s = 'a' * 1000000 %}{{ ('{0}' * 100000).format(s) }}",
    "indent": "{{ ('a\n' * 10000) | indent(99999999) }}",
    "indent text": "{% set s = 'a' * 1000000 %}{{ ('a\n' * 10000) | indent(s) }}",
    "json indent": "{{ [1] | tojson(indent=999999999) }}",
    "center": "{{ 'a'.center(999999999) }}",
    "ljust": "{{ 'a'.ljust(999999999) }}",
    "expandtabs": "{{ '\t'.expandtabs(999999999) }}",
    "translate": "{{ 'aaa'.translate({97: 'a' * 3000000}) }}",
    "strftime": "{{ strftime_now('%999999999d') }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "loop recursion": "{% for m in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "nesting": "(" * 100_000,
    "expression": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "chain": "{{ " + "+".join(["x"] * 5_000) + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "source": "a" * 300_000,
    "lipsum": "{{ lipsum(n=99999) }}",
    "constant": "{{ 'aaaaaaaaaa' | center(999999999) }}",
    "caller": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 60
    + "aa" + "{% endcall %}" * 60,
}  # fmt: skip


@pytest.mark.parametrize("name", GREEDY)
def test_no_greed(name: str) -> None:
    """Refused, or rendered small: within seconds and without much memory."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        text = ChatTemplate(GREEDY[name]).render(TALK)
    except TemplateError as error:
        text = str(error)
        assert "\n" not in text
    assert len(text) < 200_000
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert kilobytes < 300_000
    assert time.monotonic() - start < 30  # the deadline is 5; a busy machine is slower elsewhere


def test_long_conversations_are_no_greed() -> None:
    path = SHARED / "data" / "templates" / "Qwen-Qwen3-0.6B.jinja"
    source = path.read_text() if path.exists() else WELL_KNOWN["chatml"][1]
    long = [TALK[1], {"role": "assistant", "content": "word " * 2000}] * 200
    assert len(ChatTemplate(source).render([*long, TALK[3]])) > 2_000_000


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": "x", "reasoning": "y"}]
    template = "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}"
    assert ChatTemplate(template).render(messages) == "yy"
    assert messages == [{"role": "user", "content": "x", "reasoning": "y"}]


def test_objects_do_not_reach_a_template(tmp_path: Path) -> None:
    assert ChatTemplate("{{ x }}").render([], x=tmp_path) == f"<{type(tmp_path).__name__}>"


def has(*tokens: str) -> Any:
    return lambda text: text in tokens


def test_the_models_own_template_comes_first() -> None:
    template, note = load_template("{{ messages[0].content }}", has("<|im_start|>", "<|im_end|>"))
    assert template is not None
    assert template.render([{"role": "user", "content": "x"}]) == "x"
    assert note == ""


@pytest.mark.parametrize(
    ("tokens", "format_name"),
    [
        (("<|im_start|>", "<|im_end|>"), "chatml"),
        (("<start_of_turn>", "<end_of_turn>"), "gemma"),
        (("<|start_header_id|>", "<|eot_id|>"), "llama3"),
        (("<|user|>", "<|end|>"), "phi3"),
    ],
)
def test_a_format_is_told_by_its_tokens(tokens: tuple[str, ...], format_name: str) -> None:
    template, note = load_template(None, has(*tokens))
    assert template is not None
    assert template.source == WELL_KNOWN[format_name][1]
    assert format_name in note


def test_a_format_by_name() -> None:
    template, note = load_template("zephyr", has(), eos_token="</s>")
    assert template is not None
    assert template.render(TALK[1:2]) == "<|user|>\nHi, I'm Zoë 😀</s>\n<|assistant|>\n"
    assert "zephyr" in note


def test_without_any_the_text_is_plain() -> None:
    template, note = load_template(None, has("<|im_start|>"))
    assert template is None
    assert "continues the plain text" in note


KNOWN = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "phi3": "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n"
    "<|user|>\nV<|end|>\n<|assistant|>\n",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n"
    "<|user|>\nV</s>\n<|assistant|>\n",
    "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]",
}


@pytest.mark.parametrize("format_name", KNOWN)
def test_well_known_formats(format_name: str) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V"},
    ]
    template = ChatTemplate(WELL_KNOWN[format_name][1], bos_token="<s>", eos_token="</s>")
    assert template.render(messages) == KNOWN[format_name]


def test_gemma_has_no_system_role() -> None:
    template = ChatTemplate(WELL_KNOWN["gemma"][1], bos_token="<bos>")
    assert template.render(
        [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    ) == (
        "<bos><start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    with pytest.raises(RefusedError):
        template.render([{"role": "system", "content": "S"}])
