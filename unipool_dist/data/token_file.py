"""The tokens of a token store (Megatron-core's ``.bin``), any of them at once, whatever the size of the file.

Read by ``pread`` and not through a memory map: what a disk cannot give is then an error with its place, where a map
would end the process by a signal; nothing is kept in memory; and any number of threads may read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from unipool_dist.base.names import regular_inside
from unipool_dist.base.reading import open_regular
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.corpus_manifest import store_dtype
from unipool_dist.errors import DataError


class TokenFile:
    """The tokens of one domain and split of a corpus; the file stays open as long as this exists.

    Raises:
        DataError: it cannot be opened, or does not have the size that the manifest says.
    """

    def __init__(self, corpus: Corpus, domain: str, split: Literal["train", "validation"]) -> None:
        record = corpus.domain(domain)
        self.num_tokens = record.train_tokens if split == "train" else record.validation_tokens
        self.path = Path(f"{corpus.prefix(domain, split)}.bin")
        self._dtype = np.dtype(store_dtype(corpus.vocab_size))
        try:
            self._file = open_regular(regular_inside(self.path.parent, self.path.name))
            num_bytes = os.fstat(self._file.fileno()).st_size
        except (OSError, ValueError) as error:
            raise DataError(f"corpus file {self.path} cannot be opened ({error}): restore it") from None
        if num_bytes != self.num_tokens * self._dtype.itemsize:
            raise DataError(
                f"corpus file {self.path} has {num_bytes:,} bytes instead of those of {self.num_tokens:,} tokens: "
                f"prepare the corpus again, or have it copied again"
            )

    def read(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return ``count`` tokens from number ``first`` on; they are not compared with the vocabulary.

        Raises:
            DataError: they cannot be read; the message says from where to where in which file.
        """
        assert min(first, count) >= 0
        assert first + count <= self.num_tokens
        offset, wanted = first * self._dtype.itemsize, count * self._dtype.itemsize
        data = bytearray()
        try:
            while len(data) < wanted:  # one call hardly ever gives less than was asked for
                part = os.pread(self._file.fileno(), wanted - len(data), offset + len(data))
                if not part:
                    raise OSError(f"it ends at byte {offset + len(data):,}")
                data += part
        except OSError as error:
            raise DataError(
                f"bytes {offset:,} to {offset + wanted:,} of corpus file {self.path} cannot be read ({error}): see to "
                f"the disk or the file, then --resume"
            ) from None
        return np.frombuffer(data, self._dtype).astype(np.int64)
