"""Text of the user's as sequences to evaluate: read and encoded by rank 0, given to all, and kept nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from unipool_dist.comm.agreement import on_rank_0
from unipool_dist.data import Batch, Tokenizer
from unipool_dist.data.batches import windows
from unipool_dist.data.documents import clean
from unipool_dist.data.sources import Source
from unipool_dist.data.sources.tally import Tally
from unipool_dist.errors import DataError
from unipool_dist.inference.opened import OpenedRun

_DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class OtherText:
    """Sequences of a text that is in no corpus, and how many bytes of UTF-8 a token has on average.

    ``notes``: what the user should know of rows that were dropped, on rank 0.
    """

    batch: Batch
    bytes_per_token: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Encoded:
    tokens: npt.NDArray[np.int32]
    bytes_per_token: float
    notes: tuple[str, ...]


def other_text(
    run: OpenedRun, sources: Mapping[str, Callable[[], Source]], sequences: int | None
) -> dict[str, OtherText]:
    """Read the text of each source as the first ``sequences`` windows of its tokens, or all.

    Documents follow one another in the order of the source, each ended as in training; equal ones are all kept.

    Args:
        sources: functions that open a source, by name; called on rank 0.

    Collectives, over ``storage``: those of :func:`on_rank_0`; then two broadcasts for each source.

    Raises:
        DataError: a source cannot be read, or has no text.
    """
    length = run.plan.model.sequence_length
    most = None if sequences is None else sequences * length + 1

    def read() -> dict[str, _Encoded]:
        return {name: _encoded(open_source(), run.corpus.tokenizer, most) for name, open_source in sources.items()}

    found = on_rank_0("reading the sources", read, run.groups.storage)
    texts = {}
    for name in sources:
        mine = found[name] if found is not None else None
        tokens, bytes_per_token = _given(mine, run.groups.storage)
        texts[name] = OtherText(windows(tokens.long(), length), bytes_per_token, mine.notes if mine else ())
    return texts


def _encoded(source: Source, tokenizer: Tokenizer, most: int | None) -> _Encoded:
    """Return at most ``most`` tokens of a source, and the bytes per token of the documents that were read."""
    tally = Tally()
    texts = filter(None, (clean(document.text) for document in tally.documents(source.units, source.domain, None)))
    parts: list[npt.NDArray[np.int32]] = []
    num_bytes = num_tokens = 0
    while some := list(islice(texts, _DOCUMENTS_AT_ONCE)):
        for text, ids in zip(some, tokenizer.encode_batch(some), strict=True):
            parts.append(np.array([*ids, tokenizer.eod], dtype=np.int32))
            num_bytes += len(text.encode())
            num_tokens += len(parts[-1])
        if most is not None and num_tokens >= most:
            break
    if num_tokens < 2:
        raise DataError(f"--source {source.domain} has no text to evaluate: name another, or its --text-field")
    notes = [
        f"note: {source.domain}: {number:,} rows passed over: {reason}, such as {tally.examples[reason][0]}"
        for reason, number in tally.dropped.items()
    ]
    return _Encoded(np.concatenate(parts)[:most], num_bytes / num_tokens, tuple(notes))


def _given(found: _Encoded | None, group: dist.ProcessGroup) -> tuple[torch.Tensor, float]:
    """Return on every rank the tokens and the bytes per token that rank 0 has found.

    Collectives: two broadcasts over ``group``, first of the number of tokens.
    """
    sizes = torch.zeros(2, dtype=torch.float64)  # exact below 2^53
    if found is not None:
        sizes = torch.tensor([len(found.tokens), found.bytes_per_token], dtype=torch.float64)
    dist.broadcast(sizes, group_src=0, group=group)
    tokens = torch.empty(int(sizes[0]), dtype=torch.int32) if found is None else torch.from_numpy(found.tokens)
    dist.broadcast(tokens, group_src=0, group=group)
    return tokens, float(sizes[1])
