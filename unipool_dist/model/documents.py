"""Where the documents of a micro-batch begin and end, found in its tokens.

The rows of a micro-batch are laid end to end: token t of row r has the place ``r * s + t``. A document begins with a
row, and after every end-of-document token. Every rank finds the same ones from the same tokens, without communication.

Shapes: b rows, s sequence, N documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """The documents of a micro-batch of ``rows`` rows of ``length`` tokens: at least two in one of the rows."""

    rows: int
    length: int
    cumulative: Tensor
    """int32 [N + 1]: the place where each document begins, and b * s."""
    begin: Tensor
    """int64 [b * s]: for each token, the place where its document begins."""

    @classmethod
    def of(cls, tokens: Tensor, end: int) -> Documents | None:
        """Find the documents in tokens [b, s]; ``None`` where every row is one document.

        Args:
            end: the token that ends a document, and belongs to it.

        On a GPU the host waits for the number of documents.
        """
        rows, length = tokens.shape
        begins = torch.ones(rows, length, dtype=torch.bool, device=tokens.device)
        begins[:, 1:] = tokens[:, :-1] == end
        places = begins.flatten().nonzero().flatten()
        if len(places) == rows:
            return None
        cumulative = torch.cat([places, places.new_tensor([rows * length])])
        begin = places.repeat_interleave(cumulative.diff(), output_size=rows * length)
        return cls(rows, length, cumulative.to(torch.int32), begin)

    @cached_property
    def positions(self) -> Tensor:
        """How many tokens of its document are before each token: int64 [b, s]."""
        places = torch.arange(len(self.begin), device=self.begin.device)
        return (places - self.begin).view(self.rows, self.length)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document. On a GPU the host waits for it."""
        return int(self.cumulative.diff().max())

    @cached_property
    def visible(self) -> Tensor:
        """Whether query q of a row may see key k, which is before it in its document, or itself: bool [b, s, s]."""
        place = torch.arange(self.length, device=self.begin.device)
        first = place.unsqueeze(0) - self.positions  # of the query's document, within its row
        return (place >= first.unsqueeze(2)) & (place <= place.unsqueeze(1))


def within_documents(loss_mask: Tensor, tokens: Tensor, end: int | None) -> Tensor:
    """Return the mask without the loss of predicting what follows ``end``, which begins another document; both [b, s].

    ``None``: as it was.
    """
    return loss_mask if end is None else loss_mask * (tokens != end)
