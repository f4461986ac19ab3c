"""Templates of well-known chat formats, for model files that bring none."""

from __future__ import annotations

_LLAMA2 = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' -%}
{%- elif message.role == 'assistant' -%}
{{- ' ' + message.content | trim + ' ' + eos_token -}}
{%- else -%}
{{- bos_token + '[INST] ' + ns.system + message.content | trim + ' [/INST]' -}}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
"""


_BOS = "{{- bos_token -}}"
_NO_SYSTEM = (
    "{%- if messages[0].role == 'system' -%}{{- raise_exception('no system role') -}}{%- endif -%}"
)


def _turns(before: str, after: str, answer: str, *, start: str = "", roles: str = "{}") -> str:
    """A template of the common kind: every message between two markers.

    The arguments are Jinja expressions; `before` may use `role`, which `roles` may rename. Only
    `start` is a piece of template.
    """
    return (
        f"{start}{{%- for message in messages -%}}"
        f"{{%- set role = {roles}.get(message.role, message.role) -%}}"
        f"{{{{- {before} + message.content | trim + {after} -}}}}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{{{{- {answer} -}}}}{{%- endif -%}}"
    )


# Name -> (tokens that tell such a vocabulary, template), in the order in which they are tried.
WELL_KNOWN: dict[str, tuple[tuple[str, ...], str]] = {
    "chatml": (
        ("<|im_start|>", "<|im_end|>"),
        _turns("'<|im_start|>' + role + '\\n'", "'<|im_end|>\\n'", "'<|im_start|>assistant\\n'"),
    ),
    "llama3": (
        ("<|start_header_id|>", "<|eot_id|>"),
        _turns(
            "'<|start_header_id|>' + role + '<|end_header_id|>\\n\\n'",
            "'<|eot_id|>'",
            "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
            start=_BOS,
        ),
    ),
    "gemma": (
        ("<start_of_turn>", "<end_of_turn>"),
        _turns(
            "'<start_of_turn>' + role + '\\n'",
            "'<end_of_turn>\\n'",
            "'<start_of_turn>model\\n'",
            start=_BOS + _NO_SYSTEM,
            roles="{'assistant': 'model'}",
        ),
    ),
    "phi3": (
        ("<|user|>", "<|end|>"),
        _turns("'<|' + role + '|>\\n'", "'<|end|>\\n'", "'<|assistant|>\\n'"),
    ),
    "zephyr": (
        (),
        _turns("'<|' + role + '|>\\n'", "eos_token + '\\n'", "'<|assistant|>\\n'"),
    ),
    "llama2": ((), _LLAMA2),
}
