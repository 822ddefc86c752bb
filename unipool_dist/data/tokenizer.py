"""Tokenizers: the interface that the trainer and Megatron-core's datasets need, and the two kinds a corpus can have.

A tokenizer is identified by the hash of its files, never by their path, so that moving a corpus changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from unipool_dist.base.reading import read_json
from unipool_dist.errors import DataError

TokenizerKind = Literal["sentencepiece", "gpt2"]
TOKENIZER_FILES: dict[TokenizerKind, tuple[str, ...]] = {
    "sentencepiece": ("tokenizer.model",),
    "gpt2": ("encoder.json", "vocab.bpe"),
}
GPT2_EOD = "<|endoftext|>"
_MAX_GAPS = 4  # ids for each piece of a vocabulary, whose ids need not follow one another
NO_PAD = -1
"""There is no padding token: packed sequences need none, and elsewhere a mask marks the padding."""


class Tokenizer(Protocol):
    """A map from text to token ids in ``[0, vocab_size)`` and back.

    ``decode(encode(text)) == text`` up to the kind's limits.
    """

    unique_identifiers: OrderedDict[str, Any]

    @property
    def vocab_size(self) -> int: ...

    @property
    def eod(self) -> int:
        """Id that ends every document; no text encodes to it."""

    @property
    def pad(self) -> int:
        """``-1``: see :data:`NO_PAD`."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class SentencePieceTokenizer:
    """BPE with byte fallback: text outside the vocabulary becomes its bytes, so nothing is ever unknown.

    Not kept by a round trip: U+2581, which SentencePiece uses for the space.

    Raises:
        DataError: the model cannot be read.
    """

    pad = NO_PAD

    def __init__(self, model: Path, *, sha256: str) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        except (OSError, RuntimeError) as error:
            raise DataError(f"cannot read the tokenizer {model}: {error}; prepare the corpus again") from None
        self.vocab_size: int = self._processor.vocab_size()
        self.eod: int = self._processor.eos_id()
        self.unique_identifiers: OrderedDict[str, Any] = OrderedDict([("class", "sentencepiece"), ("sha256", sha256)])

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text, out_type=int))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self._processor.encode(list(texts), out_type=int))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([int(i) for i in ids if i != self.eod]))


class Gpt2Tokenizer:
    """GPT-2's byte-level BPE, from its vocabulary (JSON) and merges files; needs the package ``tokenizers``.

    Raises:
        DataError: the package is missing, the files cannot be read, or the vocabulary lacks ``<|endoftext|>`` or one of
            the 256 bytes (text holding that byte would lose it silently).
    """

    pad = NO_PAD

    def __init__(self, vocab: Path, merges: Path, *, sha256: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise DataError("a GPT-2 tokenizer needs the package 'tokenizers': pip install tokenizers") from None
        try:
            ids = _checked(read_json(vocab))
            self._bpe = tokenizers.ByteLevelBPETokenizer(vocab=str(vocab), merges=str(merges))
        except Exception as error:  # tokenizers raises bare Exceptions for malformed files
            raise DataError(
                f"cannot read the GPT-2 files {vocab} and {merges}: {error}; check which is which"
            ) from None
        missing = [piece for piece in [GPT2_EOD, *tokenizers.pre_tokenizers.ByteLevel.alphabet()] if piece not in ids]
        if missing:
            raise DataError(
                f"the vocabulary {vocab} lacks {len(missing)} required pieces, among them {sorted(missing)[0]!r}: "
                f"use GPT-2's encoder.json, or one with all 256 bytes and {GPT2_EOD}"
            )
        self.vocab_size: int = max(ids.values()) + 1
        self.eod: int = ids[GPT2_EOD]
        self.unique_identifiers: OrderedDict[str, Any] = OrderedDict([("class", "gpt2"), ("sha256", sha256)])

    def encode(self, text: str) -> list[int]:
        return list(self._bpe.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(encoding.ids) for encoding in self._bpe.encode_batch(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._bpe.decode([int(i) for i in ids if i != self.eod]))


def _checked(ids: Any) -> dict[str, int]:
    """Return GPT-2's vocabulary if it is valid; its ids decide the size of the model's embedding.

    Raises:
        ValueError: it is not a dictionary of ids that are close together.
    """
    if not isinstance(ids, dict) or not ids or not all(type(i) is int and i >= 0 for i in ids.values()):
        raise ValueError("the vocabulary does not map pieces to ids")
    if max(ids.values()) >= _MAX_GAPS * len(ids):
        raise ValueError(f"the vocabulary has {len(ids)} pieces and ids up to {max(ids.values())}")
    return ids


def load_tokenizer(kind: TokenizerKind, directory: Path, sha256: str) -> Tokenizer:
    """Load the tokenizer of ``kind`` from its files in ``directory``; ``sha256`` becomes its identity."""
    files = [directory / name for name in TOKENIZER_FILES[kind]]
    if kind == "sentencepiece":
        return SentencePieceTokenizer(files[0], sha256=sha256)
    return Gpt2Tokenizer(files[0], files[1], sha256=sha256)
