"""A training order that is computed: sample n is found by arithmetic, so a corpus of any size is opened at once.

Each domain's training tokens, in the order of the corpus, are cut into windows of S tokens and their successors. An
epoch holds every window once, in the order of a :class:`~unipool_dist.data.permutation.Permutation` of its own; a
:class:`~unipool_dist.data.blend.Blend` says which domain's next window a sample is. What remains after the last window,
fewer than S tokens, is left out where an epoch begins and where it ends, in proportions that differ by epoch.

Guarantee: sample n depends on the corpus, the seed, S, the weights and what earlier segments drew; not on the number of
samples. Nothing is built, and nothing kept but an open file for each domain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

import torch

from unipool_dist.data.blend import Blend
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.permutation import Permutation
from unipool_dist.data.token_file import TokenFile
from unipool_dist.errors import DataError


class ComputedSamples:
    """The samples of a blend: ``self[n]`` has ``tokens`` and ``labels`` (int64 [S]).

    Args:
        drawn: windows of each domain that are passed over, because earlier samples were drawn from them.

    Raises:
        DataError: a domain has fewer than S + 1 training tokens, or its file cannot be opened.
    """

    def __init__(
        self, corpus: Corpus, blend: Blend, *, sequence_length: int, seed: int, drawn: Mapping[str, int]
    ) -> None:
        self._blend, self._drawn = blend, drawn
        self._domains = {name: _Windows(corpus, name, sequence_length, seed) for name in blend.names}

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        name, number = self._blend.place(sample)
        try:
            window = self._domains[name].read(self._drawn.get(name, 0) + number)
        except DataError as error:
            raise DataError(f"training sample {sample}, of domain {name!r}: {error}") from None
        return {"tokens": window[:-1], "labels": window[1:]}


class _Windows:
    """The windows of one domain: all of an epoch, then all of the next, each epoch in an order of its own."""

    def __init__(self, corpus: Corpus, name: str, length: int, seed: int) -> None:
        self._file = TokenFile(corpus, name, "train")
        self._length, self._identity = length, [seed, name, length]
        self._per_epoch, self._rest = divmod(self._file.num_tokens - 1, length)  # the last token is only predicted
        if not self._per_epoch:
            raise DataError(
                f"domain {name!r} of corpus {corpus.path} has {self._file.num_tokens:,} training tokens, and with "
                f"data.order=computed a sequence of {length:,} takes {length + 1:,}: leave the domain out of "
                f"data.weights, or set data.order=indexed, which repeats a text within a sequence"
            )
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)  # two: threads may be on both sides of a border

    def read(self, number: int) -> torch.Tensor:
        """Return the tokens [S + 1] of window ``number``, counted from the first of the first epoch."""
        epoch, index = divmod(number, self._per_epoch)
        first, order = self._epoch(epoch)
        return torch.from_numpy(self._file.read(first + order[index] * self._length, self._length + 1))

    def _make_epoch(self, epoch: int) -> tuple[int, Permutation]:
        """Return where the first window of an epoch begins, and the order of its windows."""
        key = hashlib.blake2b(json.dumps([*self._identity, epoch]).encode()).digest()
        return int.from_bytes(key[:8], "little") % (self._rest + 1), Permutation(self._per_epoch, key)
