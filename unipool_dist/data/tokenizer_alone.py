"""A tokenizer without the corpus that was packed with it: enough to use a model, not to train or evaluate it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unipool_dist.data.given_tokenizer import given_tokenizer
from unipool_dist.data.tokenizer import Tokenizer, load_tokenizer
from unipool_dist.errors import DataError


class Vocabulary(Protocol):
    """What a model's tokens are: a :class:`unipool_dist.data.Corpus`, or a :class:`TokenizerAlone`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def tokenizer_hash(self) -> str: ...

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``[0, vocab_size)``."""

    @property
    def document_end(self) -> int:
        """The token that ends every document."""


@dataclass(frozen=True)
class TokenizerAlone:
    """A tokenizer that was found at ``path``.

    Collectives: none. Every rank opens it for itself.
    """

    path: Path
    tokenizer: Tokenizer
    tokenizer_hash: str

    @classmethod
    def open(cls, path: Path) -> TokenizerAlone:
        """Load the tokenizer at ``path``: that of a corpus, an export, a Hugging Face model, or a file of it.

        Raises:
            DataError: as :func:`given_tokenizer`, or its files are not what they seem.
        """
        given = given_tokenizer(path)
        with tempfile.TemporaryDirectory() as folder:  # under the names that a corpus gives the files
            given.write(Path(folder))
            return cls(path, load_tokenizer(given.kind, Path(folder), given.sha256), given.sha256)

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``[0, vocab_size)``."""
        return self.tokenizer.vocab_size

    @property
    def document_end(self) -> int:
        """The token that ends every document."""
        return self.tokenizer.eod

    def check(self, expected: str | None, vocab_size: int) -> None:
        """Check that this is the tokenizer of a model.

        Args:
            expected: hash of the model's tokenizer; ``None``: not known.
            vocab_size: tokens of the model, those that only pad it included.

        Raises:
            DataError: it is another one.
        """
        if expected not in (None, self.tokenizer_hash):
            raise DataError(
                f"--tokenizer {self.path} is another one than the run's; give the corpus that the run was trained on, "
                f"an export of the run, or a copy of its tokenizer"
            )
        if self.vocab_size > vocab_size:
            raise DataError(
                f"--tokenizer {self.path} has {self.vocab_size:,} tokens and the model {vocab_size:,}: give that of "
                f"the model"
            )
