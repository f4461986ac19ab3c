"""What every tokenizer does alike: special tokens, the ends of a sequence, bytes back into text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from localllm.tokenize.special import SpecialSplitter
from localllm.tokenize.vocabulary import Attribute, Vocabulary

SPACE = "\u2581"  # how SentencePiece and WordPiece vocabularies write a space
_SPACE_BYTES = SPACE.encode()


class Tokenizer(ABC):
    """Turns text into token ids and back.

    Attributes:
        vocab_size: number of tokens; ids run from 0 to vocab_size - 1.
        bos_id, eos_id: begin- and end-of-sequence token, None where the vocabulary has none.
        eog_ids: every token after which generation ends (eos, end of turn, ...).
        add_bos, add_eos: whether `encode` puts them around a text.
        strips_space: whether `encode` puts a space before a text, which `decode` takes away.
    """

    strips_space = False

    def __init__(self, vocabulary: Vocabulary, *, add_bos: bool, add_eos: bool) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.special.get("bos")
        self.eos_id = vocabulary.special.get("eos")
        self.eog_ids = vocabulary.eog
        self.add_bos = vocabulary.flag("add_bos_token", add_bos)
        self.add_eos = vocabulary.flag("add_eos_token", add_eos)
        self._splitter = SpecialSplitter(vocabulary)
        self._pieces: dict[int, bytes] = {}

    def encode(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = False,
        stand_ins: Mapping[str, str] | None = None,
    ) -> list[int]:
        """The ids of `text`.

        Args:
            text: any text; lone surrogates count as U+FFFD.
            add_special: put bos before and eos after it where the vocabulary asks for that.
            parse_special: let control tokens written in `text`, such as ``<|im_end|>``, become
                those tokens. Never for text that users or documents bring in.
            stand_ins: what stands in `text` for other text, in which nothing is parsed: a way to
                parse the special tokens of a template and not those of what it is filled with.
        """
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        if add_special:
            ids += self._prefix()
        after_special = True
        for piece in self._splitter.split(text, parse_special):
            if isinstance(piece, int):
                ids.append(piece)
                after_special = True
            else:
                for stand_in, meant in (stand_ins or {}).items():
                    piece = piece.replace(stand_in, meant)
                ids += self._encode_text(piece, after_special)
                after_special = False
        if add_special:
            ids += self._suffix()
        return ids

    def control_texts(self, text: str) -> set[str]:
        """The texts of the control tokens that `parse_special` finds in `text`."""
        found = {piece for piece in self._splitter.split(text, True) if isinstance(piece, int)}
        return {self.token_bytes(token).decode() for token in found if self.is_control(token)}

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave out control tokens.

        Raises:
            IndexError: an id is outside the vocabulary.
        """
        pieces = []
        strip = self.strips_space
        for token in ids:
            piece = self.token_bytes(token)
            if self.is_control(token):
                if not skip_special:
                    pieces.append(piece)
            elif piece:
                pieces.append(piece[1:] if strip and piece[:1] == b" " else piece)
                strip = False
        return b"".join(pieces).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to a text, not always whole characters; a special token's own text.

        Raises:
            IndexError: the id is outside the vocabulary.
        """
        piece = self._pieces.get(token)
        if piece is None:
            if not 0 <= token < self.vocab_size:
                raise IndexError(f"token {token} is outside the vocabulary of {self.vocab_size}")
            piece = self._pieces[token] = self._decode_token(token)
        return piece

    def control_id(self, text: str) -> int | None:
        """The control token that is written like this; None: there is none."""
        token = self.vocabulary.ids.get(text.encode())
        return None if token is None or not self.is_control(token) else token

    def control_ids(self, texts: Iterable[str]) -> frozenset[int]:
        """The control tokens that are written like one of these."""
        ids = map(self.control_id, texts)
        return frozenset(id for id in ids if id is not None)

    def is_control(self, token: int) -> bool:
        """Whether the token steers (or is the unknown token) and stands for no text.

        Raises:
            IndexError: the id is outside the vocabulary.
        """
        if not 0 <= token < self.vocab_size:
            raise IndexError(f"token {token} is outside the vocabulary of {self.vocab_size}")
        attributes = int(self.vocabulary.attributes[token])
        return bool(attributes & (Attribute.CONTROL | Attribute.UNKNOWN))

    @abstractmethod
    def _encode_text(self, text: str, after_special: bool) -> Iterable[int]:
        """Ids of a text without special tokens; `after_special`: it begins the sequence or
        follows a special token.
        """

    def _prefix(self) -> list[int]:
        return [self.bos_id] if self.add_bos and self.bos_id is not None else []

    def _suffix(self) -> list[int]:
        return [self.eos_id] if self.add_eos and self.eos_id is not None else []

    def _decode_token(self, token: int) -> bytes:
        stored = self.vocabulary.tokens[token]
        attributes = int(self.vocabulary.attributes[token])
        if attributes & Attribute.SPECIAL:
            return stored
        if attributes & Attribute.NORMAL:
            return self._decode_normal(stored)
        if attributes & Attribute.BYTE:
            return bytes([int(stored[3:5], 16)])
        return b""  # unused: nothing ever trained on it

    def _decode_normal(self, stored: bytes) -> bytes:
        return stored.replace(_SPACE_BYTES, b" ")
