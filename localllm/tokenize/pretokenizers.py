r"""How byte-pair vocabularies cut a text into words, by the name in ``tokenizer.ggml.pre``.

The expressions are those of llama.cpp (`llm_tokenizer_bpe` in src/llama-vocab.cpp), rewritten for
the `regex` package where llama.cpp means something else than it writes. Its engine maps every
letter beyond ASCII to one symbol, so ``\p{Lu}`` there is any letter, and ``(?=\p{L})([^a-z])`` is
any letter but a to z; and its hand-written splitters stand for the expressions they are named by.
Where that differs from the model's original tokenizer, llama.cpp is followed: GGUF files are made
for and checked with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import regex  # type: ignore[import-untyped]

from localllm.tokenize.unicode import pinned

Splitter = Callable[[str], list[str]]

_SHORT = 48  # characters; pieces up to this length come again, and are remembered

CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHER = r" ?[^\s\p{L}\p{N}]+"

_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_OTHER}|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3 = rf"{CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}[\r\n]*|{BLANKS}"
QWEN2 = rf"{CONTRACTION}|{_WORD}|\p{{N}}|{_OTHER}[\r\n]*|{BLANKS}"
QWEN35 = (
    rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{BLANKS}"
)
_JAIS2 = (
    rf"{CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}[\r\n]*|\s*[\r\n]+|"
    + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"|\s{1,2}(?!\S)|\s"
)
_SEED_CODER = rf"{CONTRACTION}|{_WORD}|\p{{N}}|{_OTHER[:-2]}\r\n]+|{BLANKS}"
_UFAKZEKA = rf"{_WORD}|\p{{N}}|{_OTHER}[\r\n]*|{BLANKS}"
_MINICPM5 = rf"{CONTRACTION}|{_WORD}|\p{{N}}+|{_OTHER}[\r\n]*|{BLANKS}"
_BAILING = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
    rf"|{_WORD}|\p{{N}}|{_OTHER}[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_EXAONE_MOE = (
    rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    rf"|{_OTHER}[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)


def _cased(letter: str, contraction: str, digits: str) -> str:
    """The o200k family: capitals, then small letters; beyond ASCII a letter is both."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    capital, small = rf"[{letter}--[a-z]]", rf"[{letter}--[A-Z]]"
    return (
        rf"(?V1){lead}{capital}*{small}+{contraction}|{lead}{capital}+{small}*{contraction}"
        rf"|{digits}|{_OTHER}[\r\n/]*|{BLANKS}"
    )


_TEKKEN = _cased(r"\p{L}", "", r"\p{N}")
_GPT4O = _cased(r"\p{L}", f"{CONTRACTION}?", r"\p{N}{1,3}")
_GRANITE = _cased(r"[\p{L}\p{M}]", f"{CONTRACTION}?", r"\p{N}{1,3}")
# with \p{Lu} and its like read as \p{L} both alternatives of the original become this one
_UNCASED_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+{CONTRACTION}?"
_TINY_AYA = rf"{_UNCASED_WORD}|\p{{N}}{{1,3}}|{_OTHER}[\r\n/]*|{BLANKS}"
_YOUTU = rf"{_UNCASED_WORD}|\p{{N}}|{_OTHER}[\r\n/]*|{BLANKS}"
_HAN = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    r"\U0002b820-\U0002ceaf\U0002ceb0-\U0002ebef\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
_KIMI = (
    rf"{_HAN}+|[^\r\n\p{{L}}\p{{N}}]?(?:(?!{_HAN})\p{{L}})+{CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{_OTHER}[\r\n]*|{BLANKS}"
)

_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
DEEPSEEK3 = (
    rf"{_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{BLANKS}"
)
_SPARK = (
    rf"{_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
)
_CJK_KANA = r"[\u4e00-\u9fa5\u3040-\u30ff]+"
# the ranges hold white space, which llama.cpp does not see there
_CJK_HANGUL = r"(?:(?!\s)[\u0800-\u9fa5\uac00-\ud7ff])+"
# capitals and small letters, as Unicode 10 had them
_CASED_LETTERS = (
    r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    r"\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    r"\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    r"\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    r"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    r"\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    r"\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    r"\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    r"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    r"\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    r"\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    r"\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    r"\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_WIDE_PUNCTUATION = (
    r"\s?(?:(?!\u3000)[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002])+"
)
_YOUTU_SCRIPTS = (
    r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b"
    r"\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f"
    r"\u30a0-\u30ff]+"
)
_AFMOE_SCRIPTS = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
    r"\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f"
    r"\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"


@dataclass(frozen=True)
class PreTokenizer:
    """How one family of byte-pair vocabularies treats a text.

    Attributes:
        steps: expressions, or functions from a text to its pieces. Each is applied to the pieces
            of the one before; what an expression matches is a piece, and so is what lies between.
        ignore_merges: a word that is a token is that token, whatever the merges say.
        add_bos: whether a sequence begins with bos where the metadata do not say.
        byte_level: the vocabulary writes bytes as the 256 characters of GPT-2; otherwise it is
            UTF-8 with a token <0xXX> for each byte, and U+2581 for a space.
        newline_tokens: as ignore_merges, for runs of newlines alone.
        nfc: a text is brought into the form NFC first, as the models were trained; llama.cpp
            leaves that out.
    """

    steps: tuple[str | Splitter, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    byte_level: bool = True
    newline_tokens: bool = False
    nfc: bool = False

    def splitter(self) -> Splitter:
        """A function that cuts a text into words; joined they are the text."""
        first, *others = [
            _expression(step) if isinstance(step, str) else step for step in self.steps
        ]
        if not others:
            return first
        remembered = [(step, lru_cache(maxsize=1 << 14)(step)) for step in others]

        def split(text: str) -> list[str]:
            pieces = first(text)
            for step, remember in remembered:
                pieces = [
                    word
                    for piece in pieces
                    for word in (remember if len(piece) <= _SHORT else step)(piece)
                ]
            return pieces

        return split


@lru_cache(maxsize=64)
def _expression(pattern: str) -> Splitter:
    flags, body = ("(?V1)", pattern[5:]) if pattern.startswith("(?V1)") else ("", pattern)
    whole = regex.compile(flags + body).findall
    cut = regex.compile(f"{flags}({body})").split

    def split(text: str) -> list[str]:
        words: list[str] = whole(text)
        if not words:
            return [text]
        if sum(map(len, words)) == len(text):
            return words
        return [word for word in cut(text) if word]

    if r"\p" not in pattern:
        return split

    def split_pinned(text: str) -> list[str]:
        plain = pinned(text)
        words = split(plain)
        if plain is text:
            return words
        end = 0
        return [text[(start := end) : (end := start + len(word))] for word in words]

    return split_pinned


def _by_threes(runs: regex.Pattern[str]) -> Splitter:
    """Cuts each run of digits after every third digit from its end; the text before it stays with
    the first group.
    """

    def split(text: str) -> list[str]:
        pieces, start = [], 0
        for match in runs.finditer(pinned(text)):
            low, high = match.span()
            for end in range(low + ((high - low) % 3 or 3), high + 1, 3):
                pieces.append(text[start:end])
                start = end
        if start < len(text):
            pieces.append(text[start:])
        return pieces

    return split


def _before_threes(text: str) -> list[str]:
    """Cuts before every third digit from the end of each run of digits."""
    pieces, start = [], 0
    for match in re.finditer("[0-9]+", text):
        low, high = match.span()
        for end in range(low + (high - low) % 3, high, 3):
            if end > start:
                pieces.append(text[start:end])
                start = end
    if start < len(text):
        pieces.append(text[start:])
    return pieces


_DIGITS_BY_THREES = _by_threes(regex.compile(r"\p{N}+"))
_LINES = r"[^\n]+|\n+"

_PRETOKENIZERS: dict[str, PreTokenizer] = {}


def _add(names: str, *steps: str | Splitter, **settings: bool) -> None:
    pretokenizer = PreTokenizer(steps, **settings)
    for name in names.split():
        _PRETOKENIZERS[name] = pretokenizer


_add(
    "default",
    r"[\p{P}\$\+<=>\^~\|]+",
    _GPT2,
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)
_add(
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    LLAMA3,
    ignore_merges=True,
    add_bos=True,
)
_add("dbrx smaug-bpe chatglm-bpe", LLAMA3)
_add("glm4 glm5", LLAMA3, ignore_merges=True)
_add("jais-2", _JAIS2)
_add("qwen2", QWEN2, nfc=True)
_add("deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", QWEN2)
_add("laguna", _LINES, QWEN2)
_add("qwen35", QWEN35, nfc=True)
_add("ufakzeka", _UFAKZEKA)
_add("seed-coder", _SEED_CODER)
_add("minicpm5", r"\p{N}{1,3}", _MINICPM5, ignore_merges=True)
_add("bailingmoe bailingmoe2 llada-moe", _BAILING)
_add("exaone-moe", _EXAONE_MOE)
_add(
    "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe "
    "gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais trillion granite-docling",
    _GPT2,
)
_add(
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
    r"\p{N}",
    _GPT2,
)
_add("falcon", r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")
_add("poro-chat bloom gpt3-finnish", _BLOOM)
_add("viking", _BLOOM, r"\p{N}")
_add("tekken", _TEKKEN, ignore_merges=True, add_bos=True)
_add("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O)
_add("granite-embed-multi-97m", _GRANITE, ignore_merges=True)
_add("tiny_aya cohere2moe", _DIGITS_BY_THREES, _TINY_AYA)
_add("youtu", _YOUTU_SCRIPTS, _YOUTU, ignore_merges=True)
_add("kimi-k2", _KIMI)
_add("superbpe", r"\p{N}+", _before_threes)
_add("deepseek-v3 hunyuan-dense joyai-llm hy_v4", r"\p{N}{1,3}", _CJK_KANA, DEEPSEEK3)
_add("spark2_5", r"\p{N}{1,3}", _CJK_KANA, _SPARK, r"\p{N}")
_add("afmoe", _DIGITS_BY_THREES, _AFMOE_SCRIPTS, DEEPSEEK3)
_add(
    "deepseek-llm",
    r"[\r\n]",
    _CASED_LETTERS,
    _WIDE_PUNCTUATION,
    r"\s+\Z",
    _CJK_HANGUL,
    r"\p{N}+",
)
_add("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}")
_add(
    "chameleon",
    r"<sentinel:[0-9]+>",
    r"IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    _GPT2,
    add_bos=True,
)
_add("gemma4 granite-embed-multi-311m", _LINES, byte_level=False, newline_tokens=True)
_add("sarvam-moe", _LINES, byte_level=False)


def find_pretokenizer(name: str) -> PreTokenizer | None:
    """The pre-tokenizer called `name` in ``tokenizer.ggml.pre``; None for an unknown name."""
    return _PRETOKENIZERS.get(name)


def pretokenizer_names() -> list[str]:
    """Every known name."""
    return sorted(_PRETOKENIZERS)
