"""Which documents of all sources are kept, and which of them are validation: from their keys alone, in one process.

The order of the decisions is that of :mod:`unipool_dist.data.sources.base`. 120 bytes per document are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unipool_dist.base.printable import short
from unipool_dist.data.corpus_manifest import RowCounts
from unipool_dist.data.documents import Split, check_enough, split_documents, split_given
from unipool_dist.data.keys import Keys
from unipool_dist.data.sources.base import Source
from unipool_dist.data.sources.tally import EXAMPLES, MAX_EXAMPLE, Tally
from unipool_dist.data.spool import Spool
from unipool_dist.data.texts import Texts

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Read:
    """What was read of a source. ``num_held_out``: the first documents of ``texts``, which are a validation of its own.

    ``tally`` counts the rows and the problems.
    """

    source: Source
    texts: Texts
    num_held_out: int
    tally: Tally


@dataclass(frozen=True)
class Choice:
    """Options of choosing."""

    fraction: float
    max_bytes: int | None
    dedup: bool


def select(everything: Sequence[Read], choice: Choice) -> list[Spool]:
    """Choose and split the documents of each source.

    Raises:
        DataError: a source has too few documents.
    """
    empty = [one.texts.keys.sizes == 0 for one in everything]
    equal = _duplicates(everything, empty, dedup=choice.dedup)
    return [
        _spool(one, its_empty, its_equal, choice)
        for one, its_empty, its_equal in zip(everything, empty, equal, strict=True)
    ]


def _duplicates(everything: Sequence[Read], empty: Sequence[Mask], *, dedup: bool) -> list[Mask]:
    """Return which documents equal an earlier one, where validations of all sources come before all other documents.

    Without ``dedup`` only those that equal a document of such a validation, and are not in one, are meant.
    """
    order = [(i, slice(0, one.num_held_out)) for i, one in enumerate(everything)]
    order += [(i, slice(one.num_held_out, None)) for i, one in enumerate(everything)]
    parts = [everything[i].texts.keys for i, _ in order]
    parts = [Keys(part.digests[rows], part.sizes[rows]) for part, (_, rows) in zip(parts, order, strict=True)]
    filled = [part for part in parts if len(part)]
    keys = filled[0] if len(filled) == 1 else Keys.joined(parts)
    first, itself = keys.first_of_equal(), np.arange(len(keys))
    num_held_out = sum(one.num_held_out for one in everything)
    again = first < itself if dedup else (first < num_held_out) & (itself >= num_held_out)
    duplicates = [np.zeros_like(mask) for mask in empty]
    start = 0
    for i, rows in order:
        part = duplicates[i][rows]
        part[:] = again[start : start + len(part)]
        start += len(part)
    return [mask & ~its_empty for mask, its_empty in zip(duplicates, empty, strict=True)]


def _spool(one: Read, empty: Mask, equal: Mask, choice: Choice) -> Spool:
    source, keys = one.source, one.texts.keys
    kept = np.flatnonzero(~(empty | equal))
    num_validation = int(np.searchsorted(kept, one.num_held_out))
    if source.validation is not None:
        check_enough(num_validation, source.domain, 1)
    check_enough(len(kept) - num_validation, source.domain)
    if source.validation is None:
        split = split_documents(keys.subset(kept), source.domain, choice.fraction, choice.max_bytes)
    else:
        split = split_given(keys.subset(kept), num_validation, source.domain, choice.max_bytes)
    capped = len(kept) - len(split.train) - len(split.validation)
    split = Split(kept[split.train], kept[split.validation])
    return Spool(source.domain, source.origins, one.texts, split, _counts(one, empty, equal, capped))


def _counts(one: Read, empty: Mask, equal: Mask, capped: int) -> RowCounts:
    dropped, examples = dict(one.tally.dropped), dict(one.tally.examples)
    for reason, mask in (("empty", empty), ("duplicate", equal)):
        rows = np.flatnonzero(mask)
        if len(rows):
            dropped[reason] = len(rows)
            examples[reason] = [short(one.texts.name_of(int(row)), MAX_EXAMPLE) for row in rows[:EXAMPLES]]
    if capped:
        dropped["beyond max_bytes_per_domain"] = capped
    passed = one.source.passed_over
    files = {"of the operating system": len(passed.system), "unknown": len(passed.unknown)}
    return RowCounts(
        read=one.tally.read,
        dropped=dict(sorted(dropped.items())),
        examples=dict(sorted(examples.items())),
        files_passed_over={kind: number for kind, number in files.items() if number},
    )
