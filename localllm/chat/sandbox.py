"""A Jinja environment for templates nobody vouches for: they cannot escape, run on, or eat memory.

Jinja's own sandbox stops a template from reaching Python's internals, but not from building
`'a' * 10**10` or looping for hours. Two rules are enforced on top of it, at every place where a
template can make a value:

- no value is larger than `Budget.largest` when written out in full (so printing, comparing or
  serialising any value is cheap), and
- everything made or looped over is paid for from one budget, within a deadline.

The extras are those of Hugging Face transformers (`transformers/utils/chat_template_utils.py`).
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_FILTERS = """
    abs capitalize count d default dictsort e escape first float groupby indent int items join last
    length list lower map max min reject rejectattr replace reverse round safe select selectattr
    sort string sum title trim unique upper wordcount
"""
_TEXT_METHODS = """
    capitalize count endswith find format index isalnum isalpha isascii isdecimal isdigit islower
    isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace
    rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
"""
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset({"bit_length"}),
    float: frozenset({"is_integer"}),
}
_CONTAINERS = (list, tuple, set, frozenset, deque, Mapping, KeysView, ValuesView, ItemsView)
_LARGEST_INT_BITS = 4096
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)")
_WIDE_FIELD = re.compile(r":[^}]*\d{4}")


class TemplateLimitError(jinja2.TemplateError):
    """The template asked for more time or memory than a chat template needs."""


class TemplateRefusal(jinja2.TemplateError):
    """The template called `raise_exception`: the conversation is not one it accepts."""


class Budget:
    """What one rendering may use.

    Args:
        given: characters in the conversation and the tools; the limits grow with it.
        seconds: deadline.
    """

    def __init__(self, given: int = 0, seconds: float = 5.0) -> None:
        self.largest = 1_000_000 + 8 * given
        self.left = 4_000_000 + 64 * given
        self._deadline = time.monotonic() + seconds

    def spend(self, units: int) -> None:
        """Pay for a step or a value.

        Raises:
            TemplateLimitError: the budget or the time is used up.
        """
        self.left -= units
        if self.left < 0:
            raise TemplateLimitError("the template does too much work")
        if time.monotonic() > self._deadline:
            raise TemplateLimitError("the template takes too long")

    def check(self, size: int) -> None:
        """Refuse a value of this size."""
        if size > self.largest:
            raise TemplateLimitError("the template builds too large a value")

    def admit(self, value: Any) -> Any:
        """Check and pay for a new value; returns it."""
        self.measure(value)
        self.spend(1 + (len(value) if isinstance(value, (str, bytes, *_CONTAINERS)) else 0))
        return value

    def measure(self, value: Any) -> int:
        """Size of a value written out in full, in characters and elements."""
        if isinstance(value, (str, bytes)):
            self.check(len(value))
            return len(value)
        total, stack = 0, [value]
        while stack:
            item = stack.pop()
            total += 1
            if isinstance(item, (str, bytes)):
                total += len(item)
            elif isinstance(item, _CONTAINERS):
                total += len(item)
                self.check(total)
                stack.extend(item.items() if isinstance(item, Mapping) else item)
            elif isinstance(item, int) and item.bit_length() > _LARGEST_INT_BITS:
                raise TemplateLimitError("the template builds too large a number")
            self.check(total)
        return total


budget: ContextVar[Budget] = ContextVar("budget")


def _budget() -> Budget:
    found = budget.get(None)
    return found if found is not None else Budget()


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what the model wrote; renders as its content."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's namespace, without underscore names, and with a text of its own that stays short."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _Namespace._check(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


class _Dict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _guard(node: nodes.Node) -> None:
    """Rewrite a template so that loops, slices, joins and literals go through the environment."""
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _guard(value)
            setattr(node, field, _guarded(value))
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, nodes.Node):
                    _guard(item)
            value[:] = [_guarded(v) if isinstance(v, nodes.Node) else v for v in value]
    if isinstance(node, nodes.For):
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        step = _call("step", [nodes.Const(text)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))


def _guarded(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Concat):
        return _call("concatenate", node.nodes, node.lineno)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        cut = node.arg
        bounds = [part or nodes.Const(None) for part in (cut.start, cut.stop, cut.step)]
        return _call("cut", [node.node, *bounds], node.lineno)
    if isinstance(node, (nodes.List, nodes.Dict)) or (
        isinstance(node, nodes.Tuple) and node.ctx == "load"
    ):
        return _call("literal", [node], node.lineno)
    return node


def _call(method: str, arguments: list[Any], line: int) -> nodes.Call:
    function = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Renders under the `Budget` in the context variable `budget`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            finalize=_output,
        )
        self.filters = {
            name: _bounded_filter(function)
            for name, function in self.filters.items()
            if name in _FILTERS.split()
        }
        self.filters.update(
            tojson=_bounded_filter(_to_json),
            join=_bounded_filter(_join),
            sum=_bounded_filter(_sum),
            replace=_bounded_filter(_replace),
            indent=_bounded_filter(_indent),
        )
        self.globals.pop("lipsum", None)
        self.globals.update(
            raise_exception=_raise,
            strftime_now=_now,
            dict=_Dict(),
            namespace=_Namespace,
        )

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _guard(template)
        return template

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, within the budget."""
        limit = _budget()
        limit.spend(1)
        size = limit.measure((args, kwargs))
        owner = getattr(function, "__self__", None)
        for kind, allowed in _METHODS.items():
            if isinstance(owner, kind) and type(owner) is not bool:
                name = function.__name__
                if name not in allowed:
                    raise jinja2.exceptions.SecurityError(f"no {kind.__name__}.{name} in templates")
                if isinstance(owner, str):
                    _check_text_method(limit, owner, name, args, kwargs, size)
        return limit.admit(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Bound `str.format`, which Jinja replaces by its own before it is called."""
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None
        text = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            limit = _budget()
            _check_format(limit, text, (*args, *kwargs.values()), limit.measure((args, kwargs)))
            return formatted(*args, **kwargs)

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply + * ** %, after checking the size of what they make."""
        limit = _budget()
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**" and not (numbers and abs(right) <= 64 and abs(left) < 2**64):
            raise TemplateLimitError("the template builds too large a number")
        if operator == "%" and isinstance(left, str):
            if _WIDE_PERCENT.search(left):
                raise TemplateLimitError("the template formats too wide a field")
            limit.check(len(left) + left.count("%") * limit.measure(right))
        elif operator in "+*" and not numbers:
            sizes = limit.measure(left), limit.measure(right)
            if operator == "+":
                limit.check(sum(sizes))
            else:
                times = [value for value in (left, right) if isinstance(value, int)]
                limit.check(max(sizes) * max(0, *times, 1))
        return limit.admit(super().call_binop(context, operator, left, right))

    def step(self, text: int) -> None:
        """One turn of a loop; `text` is the plain text that stands in it."""
        _budget().spend(1 + text)

    def concatenate(self, *values: Any) -> str:
        """The `~` operator."""
        _budget().measure(values)
        return "".join(map(str, values))

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """A slice; `call` pays for it."""
        return value[start:stop:step]

    def literal(self, value: Any) -> Any:
        """A list, tuple or dict as written in the template; `call` checks and pays for it."""
        return value


def _output(value: Any) -> Any:
    """Pay for what a template prints."""
    limit = _budget()
    limit.spend(1 + limit.measure(value))
    return value


def _bounded_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        limit = _budget()
        limit.spend(1)
        return limit.admit(function(*args, **kwargs))

    return bounded


def _check_text_method(
    limit: Budget, text: str, name: str, args: Any, kwargs: Any, size: int
) -> None:
    """Refuse the call of a string method that would make a large result out of small parts."""
    if name == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
        limit.check(len(text) + text.count(args[0]) * len(args[1]))
    elif name == "join" and len(args) == 1 and isinstance(args[0], _CONTAINERS):
        limit.check(size + len(args[0]) * len(text))


def _check_format(limit: Budget, text: str, values: Iterable[Any], size: int) -> None:
    """Refuse a format string that would make a large text: by its widths, or by repetition."""
    nested = "{" in re.sub(r"\{[^{}]*\}", "", text.replace("{{", ""))
    wide = nested and any(isinstance(value, int) and abs(value) > 999 for value in values)
    if wide or _WIDE_FIELD.search(text):
        raise TemplateLimitError("the template formats too wide a field")
    limit.check(len(text) + text.count("{") * size)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and (not isinstance(indent, int) or indent > 16):
        raise TemplateLimitError("tojson indents by at most 16")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _join(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    limit = _budget()
    items = list(value)
    if attribute is not None:
        items = [item[attribute] for item in items]
    limit.check(limit.measure(items) + len(items) * len(str(d)))
    return str(d).join(map(str, items))


def _sum(value: Any, attribute: str | int | None = None, start: float = 0) -> Any:
    items = [item[attribute] for item in value] if attribute is not None else list(value)
    if not all(isinstance(item, (int, float)) for item in (*items, start)):
        raise TemplateLimitError("sum adds numbers only")
    return sum(items, start)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(value), str(old), str(new)
    _budget().check(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = width if isinstance(width, str) else " " * min(width, 1000)
    text = str(value)
    _budget().check(len(text) + (text.count("\n") + 1) * len(margin))
    lines = text.splitlines() or [""]
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return "\n".join([(margin if first else "") + lines[0], *rest])


def _raise(message: Any) -> None:
    raise TemplateRefusal(str(message))


def _now(pattern: str) -> str:
    if _WIDE_PERCENT.search(pattern) or len(pattern) > 1000:
        raise TemplateLimitError("the template formats too wide a field")
    return datetime.now().strftime(pattern)
