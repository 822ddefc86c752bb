"""GPT-2's own files: ``encoder.json`` and ``vocab.bpe``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import read_json
from unipool_dist.data.tokenizer import MAX_GAPS, NO_PAD
from unipool_dist.errors import DataError

GPT2_EOD = "<|endoftext|>"


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
        self.special_tokens: dict[str, int] = {GPT2_EOD: self.eod}
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
    if max(ids.values()) >= MAX_GAPS * len(ids):
        raise ValueError(f"the vocabulary has {len(ids)} pieces and ids up to {max(ids.values())}")
    return ids
