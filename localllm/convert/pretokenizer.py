r"""The name in `tokenizer.ggml.pre` of the pre-tokenizer that a tokenizer.json describes.

It is found by what the description says, not by what becomes of a text: the steps are written down
in one line each and looked up. Of several names for one way to cut, the one is taken that
llama.cpp's converter gives the models that run here. Expressions are compared as
`localllm.tokenize.pretokenizers` spells them.
"""

from __future__ import annotations

from localllm.convert.fields import Fields
from localllm.errors import ModelFileError
from localllm.tokenize.pretokenizers import BLANKS, CONTRACTION, DEEPSEEK3, LLAMA3, QWEN2, QWEN35

_CAPITALS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SMALL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}"

_TEKKEN = rf"{_LEAD}{_CAPITALS}*{_SMALL}+|{_LEAD}{_CAPITALS}+{_SMALL}*|\p{{N}}|{_REST}"
_GPT4O = (
    rf"{_LEAD}{_CAPITALS}*{_SMALL}+{CONTRACTION}?|{_LEAD}{_CAPITALS}+{_SMALL}*{CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{_REST}"
)
_CJK = "[一-龥ࠀ-一가-퟿]+"

# the steps of a description -> names: where a word that is a token stays whole, and where not
_NAMES: dict[tuple[str, ...], tuple[str | None, str | None]] = {
    ("gpt-2",): (None, "gpt-2"),
    ("each digit", "gpt-2"): (None, "smollm"),
    (LLAMA3,): ("llama-bpe", "dbrx"),
    ("NFC", QWEN2): (None, "qwen2"),
    (QWEN2,): (None, "deepseek-r1-qwen"),
    ("NFC", QWEN35): (None, "qwen35"),
    (_TEKKEN,): ("tekken", None),
    (_GPT4O,): (None, "gpt-4o"),
    (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3): (None, "deepseek-v3"),
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, "each digit"): (None, "deepseek-coder"),
}
_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    (r"\p{N}{1}", r"\p{N}"),
    ("?+", "?"),
    ("++", "+"),
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", CONTRACTION),
)


def pretokenizer_name(tokenizer: Fields, *, nfc: bool) -> str:
    """The name of the way that a byte-level tokenizer cuts a text into words.

    Args:
        tokenizer: tokenizer.json.
        nfc: whether a text is brought into the form NFC before; some names say so.

    Raises:
        ModelFileError: no model file can say it.
    """
    steps = tuple(_steps(tokenizer.object("pre_tokenizer")))
    whole = tokenizer.object("model").flag("ignore_merges", False)
    of_whole, of_merged = _NAMES.get(steps, (None, None))
    if nfc:
        of_whole, of_merged = _NAMES.get(("NFC", *steps), (of_whole, of_merged))
    name = of_whole if whole else of_merged
    # of words that are tokens all but a few are what their merges make
    name = name or of_whole or of_merged
    if name is None:
        raise ModelFileError(
            f"{tokenizer.where}: pre_tokenizer: cuts texts in a way that is not known: "
            f"{'; '.join(steps)[:200] or 'not at all'}"
        )
    return name


def _steps(fields: Fields) -> list[str]:
    """One line for each step that cuts."""
    kind = fields.text("type", "none")
    if kind == "Sequence":
        return [step for inner in fields.objects("pretokenizers") for step in _steps(inner)]
    if kind == "ByteLevel":
        return ["gpt-2"] if fields.flag("use_regex", True) else []
    if kind == "Digits":
        return ["each digit" if fields.flag("individual_digits", False) else "digits"]
    if kind == "Split":
        pattern = fields.object("pattern")
        expression = pattern.text("Regex", pattern.text("String", ""))
        for spelling, usual in _SPELLINGS:
            expression = expression.replace(spelling, usual)
        if fields.text("behavior", "") == "Isolated" and not fields.flag("invert", False):
            return [expression]
        # what is removed is all that does not match: the same, where everything matches
        if fields.text("behavior", "") == "Removed" and fields.flag("invert", False):
            return [expression]
    return [kind]
