"""Any ``tokenizer.json`` of Hugging Face, through the package ``tokenizers``."""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unipool_dist.data.tokenizer import MAX_GAPS, NO_PAD
from unipool_dist.data.tokenizer_kinds.tokenizer_json import TokenizerJson, end_of_document
from unipool_dist.errors import DataError


class HuggingFaceTokenizer:
    """A ``tokenizer.json``, and a ``tokenizer_config.json`` that says which token ends documents.

    Gives the ids of ``tokenizers.Tokenizer`` without special tokens around the text, with these differences: a special
    token that is spelled out in a text is text; nothing is cut off or padded; BPE merges are never left out at random
    (``dropout``). Decodes as that library does, special tokens included except the end of a document.

    Raises:
        DataError: the package is missing, or the files cannot be read.
    """

    pad = NO_PAD

    def __init__(self, definition: Path, config: Path, *, sha256: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise DataError("a tokenizer.json needs the package 'tokenizers': pip install tokenizers") from None
        with _refused(definition, "read"):
            parsed = TokenizerJson.read(definition)
            token = end_of_document(parsed, config.parent, None)
            self.eod: int = parsed.ids[token]
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_prepared(parsed, token)))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = True  # as text: a document cannot end itself
            self.vocab_size: int = _checked_size(parsed, self._tokenizer, token)
        self._path = definition
        self.special_tokens: dict[str, int] = {token: self.eod, **parsed.special}
        self.unique_identifiers: OrderedDict[str, Any] = OrderedDict([("class", "huggingface"), ("sha256", sha256)])

    def encode(self, text: str) -> list[int]:
        with _refused(self._path, "used for text"):
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with _refused(self._path, "used for text"):
            encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        with _refused(self._path, "used for text"):
            text = self._tokenizer.decode([int(i) for i in ids if i != self.eod], skip_special_tokens=False)
        return str(text)


@contextmanager
def _refused(path: Path, purpose: str) -> Iterator[None]:
    """Turn what the library raises into a :class:`DataError`: bare Exceptions, and panics of Rust."""
    try:
        yield
    except Exception as error:  # tokenizers raises bare Exceptions for malformed files
        raise DataError(f"the tokenizer {path} cannot be {purpose}: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which has no public name
            raise
        raise DataError(f"the tokenizer {path} cannot be {purpose}: {error}") from None


def _prepared(parsed: TokenizerJson, eod_token: str) -> dict[str, Any]:
    """Return the file's values with an end of document that no text can spell, and without chance.

    A library that finds the end's name in a text could give its id, whether it is a special token, an added one, or
    only a piece of the vocabulary. So the name is replaced by one that nobody can know; ids stay.
    """
    unspeakable = f"{eod_token}{secrets.token_hex(16)}"
    model = dict(parsed.values["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {unspeakable if piece == eod_token else piece: i for piece, i in vocab.items()}
    else:
        model["vocab"] = [[unspeakable if piece == eod_token else piece, score] for piece, score in vocab]
    if "dropout" in model:
        model["dropout"] = None
    added = [
        {**token, "content": unspeakable} if token["content"] == eod_token else token
        for token in parsed.values["added_tokens"]
    ]
    return {**parsed.values, "model": model, "added_tokens": added}


def _checked_size(parsed: TokenizerJson, tokenizer: Any, eod_token: str) -> int:
    """Return the size of the vocabulary, which decides that of the model's embedding.

    Raises:
        ValueError: the library gives a token another id than the file, or ids are far apart.
    """
    for token, i in parsed.ids.items():
        if token != eod_token and tokenizer.token_to_id(token) != i:
            raise ValueError(f"the token {token!r} has the id {tokenizer.token_to_id(token)} instead of {i}")
    size = max(parsed.ids.values()) + 1
    if size > MAX_GAPS * len(parsed.ids):
        raise ValueError(f"it has {len(parsed.ids):,} tokens and ids up to {size - 1:,}")
    return size
