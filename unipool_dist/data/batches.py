"""Batches of sequences, and a rank's share of a micro-batch: arithmetic on sample numbers, without communication.

Sample ``consumed + microbatch * b * dp_size + dp_rank * b + i`` is row i of the rank's micro-batch (b rows), so that a
global batch is the same run of consecutive samples for every number of data-parallel ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from unipool_dist.errors import DataError


class SampleDataset(Protocol):
    """A source of micro-batches: items with ``tokens``, ``labels`` (int64 [S]), ``loss_mask`` (float32 [S])."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Batch:
    """A batch of sequences; ``labels[r, s]`` is the token after ``tokens[r, s]``, counted where the mask is 1."""

    tokens: torch.Tensor  # [b, S] int64
    labels: torch.Tensor  # [b, S] int64
    loss_mask: torch.Tensor  # [b, S] float32

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def rows(self, start: int, stop: int) -> Batch:
        """Return rows ``start`` to ``stop`` (exclusive, may exceed the last), as views."""
        return Batch(self.tokens[start:stop], self.labels[start:stop], self.loss_mask[start:stop])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on ``device``; tensors that are there already are not copied."""
        tensors = (self.tokens, self.labels, self.loss_mask)
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def pinned(self) -> Batch:
        """Return a copy in pinned memory, from which a GPU copies by itself."""
        return Batch(self.tokens.pin_memory(), self.labels.pin_memory(), self.loss_mask.pin_memory())


def micro_batch(
    dataset: SampleDataset,
    *,
    consumed_samples: int,
    microbatch: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
    device: torch.device | str = "cpu",
) -> Batch:
    """Return the ``micro_batch_size`` rows of data-parallel rank ``dp_rank`` in micro-batch ``microbatch`` of a step.

    ``consumed_samples`` counts the samples of all earlier steps over all ranks. Collectives: none.

    Raises:
        DataError: the dataset ends before the last row, or its index points outside the tokens.
    """
    assert 0 <= dp_rank < dp_size
    assert min(consumed_samples, microbatch) >= 0
    assert micro_batch_size >= 1
    first = consumed_samples + (microbatch * dp_size + dp_rank) * micro_batch_size
    if first + micro_batch_size > len(dataset):
        raise DataError(
            f"sample {first + micro_batch_size - 1} is wanted but the training data was indexed for num_samples="
            f"{len(dataset)} (consumed_samples={consumed_samples}, microbatch={microbatch}): "
            f"index it for steps * global_batch_size samples"
        )
    try:
        items = [dataset[first + i] for i in range(micro_batch_size)]
        tokens, labels, loss_mask = (
            torch.stack([item[key] for item in items]) for key in ("tokens", "labels", "loss_mask")
        )
    except (IndexError, ValueError, RuntimeError) as error:  # RuntimeError: rows of different lengths
        raise DataError(
            f"samples {first} to {first + micro_batch_size - 1} cannot be read ({error}): the index of the training "
            f"data does not fit the tokens; remove the folder cache/ of the corpus, and the next start rebuilds it"
        ) from None
    return Batch(tokens, labels, loss_mask).to(device)


def check_tokens(tokens: torch.Tensor, vocab_size: int, where: str) -> None:
    """Raise a :class:`DataError` naming ``where`` if an element of ``tokens`` is outside ``[0, vocab_size)``."""
    for token in map(int, torch.aminmax(tokens)):
        if not 0 <= token < vocab_size:
            raise DataError(
                f"{where} has token {token}, outside vocab_size={vocab_size}: the token store is damaged; "
                f"open it with data.verify=hash to see which file"
            )


def windows(stream: torch.Tensor, sequence_length: int) -> Batch:
    """Return the tokens ``stream`` [n] int64, two at least, in windows ``[rows, sequence_length]`` one after the other.

    The last window may be partial, its rest filled with token 0 and a loss mask of 0.
    """
    predicted = len(stream) - 1
    rows = -(-predicted // sequence_length)
    tokens, labels = torch.zeros(2, rows * sequence_length, dtype=torch.int64)
    loss_mask = torch.zeros(rows * sequence_length)
    tokens[:predicted], labels[:predicted], loss_mask[:predicted] = stream[:-1], stream[1:], 1.0
    shape = (rows, sequence_length)
    return Batch(tokens.view(shape), labels.view(shape), loss_mask.view(shape))
