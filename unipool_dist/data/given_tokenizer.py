"""A tokenizer that the user already has, recognized by its content: ``--tokenizer PATH``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unipool_dist.base.reading import read_bytes, read_json
from unipool_dist.data.corpus_manifest import MANIFEST_NAME, combined_hash
from unipool_dist.data.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_FILES, TokenizerKind
from unipool_dist.data.tokenizer_kinds.gpt2 import GPT2_EOD
from unipool_dist.data.tokenizer_kinds.sentencepiece import with_end
from unipool_dist.data.tokenizer_kinds.tokenizer_json import TokenizerJson, config_text, end_of_document
from unipool_dist.errors import DataError

_DEFINITION, _CONFIG = TOKENIZER_FILES["huggingface"]
(_MODEL,) = TOKENIZER_FILES["sentencepiece"]
_GPT2_NAMES = (TOKENIZER_FILES["gpt2"], ("vocab.json", "merges.txt"))
"""GPT-2's files as OpenAI and as Hugging Face call them."""
_EXPORT_RECORD = "export.json"


@dataclass(frozen=True)
class GivenTokenizer:
    """A tokenizer's kind, and the content of its files under the names that a corpus gives them."""

    kind: TokenizerKind
    files: dict[str, bytes]

    @property
    def sha256(self) -> str:
        """The tokenizer's identity, as in the manifest of a corpus."""
        return combined_hash({name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()})

    def write(self, directory: Path) -> None:
        """Write the files into ``directory``."""
        for name, data in self.files.items():
            (directory / name).write_bytes(data)


def given_tokenizer(path: Path, eod_token: str | None = None) -> GivenTokenizer:
    """Read the tokenizer at ``path``; nothing in it is executed, and nothing is downloaded.

    Args:
        path: a ``tokenizer.json``, a SentencePiece model, or a folder with one of these or with GPT-2's files: that of
            a Hugging Face model, a corpus, or an export.
        eod_token: the token that ends documents, instead of the tokenizer's own.

    Raises:
        DataError: nothing is there, it is of no kind that is known, or it is not known which token ends a document.
    """
    try:
        if path.is_dir():
            return _of_folder(path, eod_token)
        data = read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES)
        if data.lstrip()[:1] == b"{":
            return _huggingface(data, path.parent, eod_token)
        return _sentencepiece(data, eod_token)
    except FileNotFoundError as error:
        raise DataError(f"--tokenizer {path}: {error.filename or path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"--tokenizer {path} cannot be used: {error}") from None


def _of_folder(folder: Path, eod_token: str | None) -> GivenTokenizer:
    """Read the tokenizer in ``folder``; of several, the one that a corpus or export names, else the first in order."""
    makers = list(_found(folder))
    if not makers:
        raise ValueError(
            "it has no tokenizer; give a tokenizer.json, a SentencePiece model, or the folder of a model, corpus or "
            "export with tokenizer.json, tokenizer.model, or vocab.json and merges.txt"
        )
    if (stated := _stated_hash(folder)) is not None:
        named = [make for make in makers if _has_hash(make, stated)]
        if not named and (folder / MANIFEST_NAME).exists():
            raise ValueError("the tokenizer of this corpus is damaged (its sha256 differs): have it copied again")
        makers = named or makers
    return makers[0](eod_token)


Make = Callable[[str | None], GivenTokenizer]


def _found(folder: Path) -> Iterator[Make]:
    """Yield for each tokenizer in ``folder`` a function that makes it, given the token that ends documents."""

    def read(name: str) -> bytes:
        return read_bytes(folder / name, max_bytes=MAX_TOKENIZER_BYTES)

    if (folder / _DEFINITION).exists():
        yield partial(_huggingface, read(_DEFINITION), folder)
    if (folder / _MODEL).exists():
        yield partial(_sentencepiece, read(_MODEL))
    for vocab, merges in _GPT2_NAMES:
        if (folder / vocab).exists() and (folder / merges).exists():
            yield partial(_gpt2, read(vocab), read(merges))


def _has_hash(make: Make, sha256: str) -> bool:
    try:
        return make(None).sha256 == sha256
    except (OSError, ValueError):
        return False


def _stated_hash(folder: Path) -> str | None:
    """Return the tokenizer's hash that a corpus or an export in ``folder`` states.

    Raises:
        ValueError: the file that should state it is damaged.
    """
    name = next((name for name in (MANIFEST_NAME, _EXPORT_RECORD) if (folder / name).exists()), None)
    if name is None:
        return None
    values = read_json(folder / name)
    try:
        stated = values["tokenizer"]["sha256"] if name == MANIFEST_NAME else values["tokenizer_hash"]
    except (KeyError, TypeError):
        raise ValueError(f"{name} does not say which tokenizer it has") from None
    return None if stated is None else str(stated)


def _huggingface(data: bytes, folder: Path, eod_token: str | None) -> GivenTokenizer:
    token = end_of_document(TokenizerJson.parse(data), folder, eod_token)
    return GivenTokenizer("huggingface", {_DEFINITION: data, _CONFIG: config_text(token).encode()})


def _sentencepiece(data: bytes, eod_token: str | None) -> GivenTokenizer:
    return GivenTokenizer("sentencepiece", {_MODEL: with_end(data, eod_token)})


def _gpt2(vocab: bytes, merges: bytes, eod_token: str | None) -> GivenTokenizer:
    if eod_token not in (None, GPT2_EOD):
        raise ValueError(f"GPT-2's files end documents with {GPT2_EOD}: leave out --eod-token")
    return GivenTokenizer("gpt2", dict(zip(TOKENIZER_FILES["gpt2"], (vocab, merges), strict=True)))
