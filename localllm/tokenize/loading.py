"""Finds the kind of tokenizer that a model file describes."""

from __future__ import annotations

from localllm.gguf import GGUFFile
from localllm.tokenize.base import Tokenizer
from localllm.tokenize.vocabulary import read_vocabulary


def load_tokenizer(file: GGUFFile) -> Tokenizer:
    """The tokenizer that a model file describes.

    Raises:
        ModelFileError: naming the metadata field that is missing, wrong or of an unknown kind.
    """
    # imported as needed: only two of the four kinds need the `regex` package
    vocabulary = read_vocabulary(file)
    if vocabulary.model == "llama":
        from localllm.tokenize.spm import SentencePieceTokenizer

        return SentencePieceTokenizer(vocabulary)
    if vocabulary.model == "t5":
        from localllm.tokenize.unigram import UnigramTokenizer

        return UnigramTokenizer(vocabulary)
    if vocabulary.model == "bert":
        from localllm.tokenize.wordpiece import WordPieceTokenizer

        return WordPieceTokenizer(vocabulary)
    from localllm.tokenize.bpe import BytePairTokenizer

    return BytePairTokenizer(vocabulary)
