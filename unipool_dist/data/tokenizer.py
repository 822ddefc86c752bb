"""Tokenizers: the interface that the trainer and Megatron-core's datasets need, and the kinds that a corpus can have.

A tokenizer is identified by the hash of its files, never by their path, so that moving a corpus changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

TokenizerKind = Literal["sentencepiece", "gpt2", "huggingface"]
TOKENIZER_FILES: dict[TokenizerKind, tuple[str, ...]] = {
    "huggingface": ("tokenizer.json", "tokenizer_config.json"),
    "sentencepiece": ("tokenizer.model",),
    "gpt2": ("encoder.json", "vocab.bpe"),
}
"""The files of each kind, under the names that they have in a corpus and in an export."""
MAX_TOKENIZER_BYTES = 256 << 20
"""The largest known tokenizer.json has about 35 MB."""
MAX_GAPS = 4
"""A vocabulary's ids need not follow one another: there may be so many ids for each piece."""
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

    @property
    def special_tokens(self) -> dict[str, int]:
        """The ids of the tokens that are marks rather than text, by their names; the end of a document among them."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def load_tokenizer(kind: TokenizerKind, directory: Path, sha256: str) -> Tokenizer:
    """Load the tokenizer of ``kind`` from its files in ``directory``; ``sha256`` becomes its identity.

    Raises:
        DataError: a package is missing, or the files cannot be read or are not of that kind.
    """
    files = [directory / name for name in TOKENIZER_FILES[kind]]
    if kind == "sentencepiece":
        from unipool_dist.data.tokenizer_kinds.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(files[0], sha256=sha256)
    if kind == "gpt2":
        from unipool_dist.data.tokenizer_kinds.gpt2 import Gpt2Tokenizer

        return Gpt2Tokenizer(files[0], files[1], sha256=sha256)
    from unipool_dist.data.tokenizer_kinds.huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer(files[0], files[1], sha256=sha256)
