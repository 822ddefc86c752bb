"""The folder in which a preparation keeps what is done, so that it continues after an interruption.

Every file in it is written whole and named by what it is made from: the options, the sources and the versions of what
reads and tokenizes them. So a file that is there is right, whoever made it, and other options find nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from unipool_dist.base.belongings import Folder, any_file, discard, remove
from unipool_dist.data.sources.base import Source
from unipool_dist.data.text_pieces import TextPiece
from unipool_dist.data.tokenizer import TOKENIZER_FILES

_FORM = 1
"""To be raised when pieces are read or written in another way."""
_LIBRARIES = ("datasets", "numpy", "pyarrow", "sentencepiece", "tokenizers")
_NAME = "[0-9a-f]{24}"
_TOKENIZER = Folder({name.replace(".", r"\."): any_file for names in TOKENIZER_FILES.values() for name in names})
WORK = Folder(
    {
        "text": Folder({rf"{_NAME}\.(text|names|keys)": any_file}),
        "tokens": Folder({rf"{_NAME}\.tokens": any_file}),
        rf"tokenizer-{_NAME}(\.[0-9a-f]{{12}})?": _TOKENIZER,
    }
)


def identity_of(recorded: dict[str, Any], sources: Iterable[Source], *, repeatable: bool) -> str:
    """Return a hash of all that decides what the pieces hold.

    Args:
        recorded: the options, as the manifest has them.
        repeatable: whether the sources are known to be the same the next time; else no other preparation has this hash.
    """
    facts = {
        "form": _FORM,
        "versions": {name: _version(name) for name in _LIBRARIES},
        "options": recorded,
        "sources": [[source.domain, [origin.model_dump() for origin in source.origins]] for source in sources],
        "once": "" if repeatable else token_hex(16),
    }
    return _hash(facts)


class Work:
    """The folder ``path``, as seen by the preparation of this identity."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self.text, self.tokens = path / "text", path / "tokens"
        self.tokenizer = path / f"tokenizer-{identity[:24]}"
        for folder in (self.text, self.tokens):
            folder.mkdir(parents=True, exist_ok=True)

    def piece(self, source: Source, *place: object) -> TextPiece:
        """Return the piece of text for a place in ``source``: the name of a unit, for example."""
        return TextPiece(self.text / _hash([self._identity, source.domain, *map(str, place)])[:24])

    def make_tokenizer(self, write: Callable[[Path], None]) -> None:
        """Have ``write`` put the tokenizer's files into a folder, unless that was done before."""
        if not self.tokenizer.exists():
            making = self.tokenizer.with_name(f"{self.tokenizer.name}.{token_hex(6)}")
            making.mkdir()
            try:
                write(making)
                making.rename(self.tokenizer)
            except OSError:
                if not self.tokenizer.exists():  # else another process was faster, and its files are the same
                    raise
            finally:
                discard(making)

    def keep_texts(self, pieces: Iterable[TextPiece]) -> None:
        """Remove all other pieces of text, and tokenizers of other preparations."""
        self._keep(self.text, {path.name for piece in pieces for path in (piece.text, piece.names, piece.keys)})
        for folder in sorted(self._path.glob("tokenizer-*")):
            if folder != self.tokenizer:
                discard(folder)

    def keep_tokens(self, paths: Iterable[Path]) -> None:
        """Remove all other pieces of tokens."""
        self._keep(self.tokens, {path.name for path in paths})

    def _keep(self, folder: Path, names: set[str]) -> None:
        for path in sorted(folder.iterdir()):
            if path.name not in names:
                remove(path, any_file)


def _hash(facts: dict[str, Any] | Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
