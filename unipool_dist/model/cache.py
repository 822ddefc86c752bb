"""Keys and values of tokens that a stage has run, so that the tokens after them need not run these again.

Rows have lengths of their own: a row's next token goes to the place after its last, whatever the other rows hold, and
sees what is before it in its row alone. So prompts of different lengths are padded at the end, never at the beginning,
and every token has the position that it has without other rows.

Shapes: b rows, n new tokens of each row, g key/value groups of this rank, r queries per group, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.model.attention import Scope, causal_attention
from unipool_dist.model.rotary import RotaryTable


@dataclass
class KeyValueCache:
    """Keys and values of one stage's layers, on one rank; allocated once.

    Takes ``2 * layers * rows * length * g * d`` numbers of the model's type. The caller runs rows with
    :meth:`Pipeline.forward` and then says with :meth:`hold` how many of a row's tokens count: those after them, which
    were padding, are overwritten by the next.
    """

    keys: Tensor
    """[layers, g, rows, length, d], and so are the values."""
    values: Tensor
    filled: list[int]
    """Tokens held of each row, the same in every layer."""

    @classmethod
    def empty(
        cls, layers: int, groups: int, rows: int, length: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> KeyValueCache:
        """Allocate the cache of ``rows`` rows that hold at most ``length`` tokens, padding included."""
        shape = (layers, groups, rows, length, head_dim)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values, [0] * rows)

    def part(self, rows: slice) -> KeyValueCache:
        """Return the cache of these rows; it shares memory with this one, and lengths as they are now."""
        return KeyValueCache(self.keys[:, :, rows], self.values[:, :, rows], self.filled[rows])

    def hold(self, row: int, tokens: int) -> None:
        """Count the first ``tokens`` of a row as held, which have been run."""
        self.filled[row] = tokens

    def drop(self, row: int) -> None:
        """Forget a row; the last one takes its place. Nothing is allocated."""
        last = len(self.filled) - 1
        if row < last:
            used = slice(self.filled[last])
            for held in (self.keys, self.values):
                held[:, :, row, used] = held[:, :, last, used]
            self.filled[row] = self.filled[last]
        self.filled.pop()

    def scopes(self, rotary: RotaryTable, x: Tensor, tokens: int) -> Iterator[Scope]:
        """Yield for each layer the scope of the next ``tokens`` of every row, for which it has space.

        Args:
            x: an activation of these tokens.
        """
        new = _NewTokens(tuple(self.filled), tokens, x.device)
        rotation = rotary.rotation(new.places.clamp(max=len(rotary.cos) - 1), x.dtype)  # beyond it there is padding
        for keys, values in zip(self.keys, self.values, strict=True):
            yield Scope(rotation, _CachedAttention(keys, values, new))


@dataclass(frozen=True)
class _NewTokens:
    """Where the new tokens of a pass go; the same for all layers."""

    filled: Sequence[int]
    number: int
    device: torch.device

    @cached_property
    def places(self) -> Tensor:
        """Place of each token in its row: int64 [b, n]."""
        first = torch.tensor(self.filled, device=self.device).unsqueeze(1)
        return first + torch.arange(self.number, device=self.device)

    @property
    def end(self) -> int:
        """Place after the last of the longest row."""
        return max(self.filled) + self.number

    @cached_property
    def visible(self) -> Tensor:
        """Whether a token sees a place, which is before it in its row, or its own: bool [b, n, end]."""
        return torch.arange(self.end, device=self.device) <= self.places.unsqueeze(2)


@dataclass(frozen=True)
class _CachedAttention:
    """Attention of new tokens to those of their row: keeps their keys and values, then looks at all."""

    keys: Tensor  # of one layer: [g, rows, length, d]
    values: Tensor
    new: _NewTokens

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with queries [g, r, b, n, d] to their keys and values [g, b, n, d] and those held; as the queries."""
        row = torch.arange(key.shape[1], device=key.device).unsqueeze(1)
        self.keys[:, row, self.new.places] = key
        self.values[:, row, self.new.places] = value
        groups, heads, rows, number, _ = query.shape
        if not any(self.new.filled):  # nothing but these: as without a cache
            q = query.permute(2, 0, 1, 3, 4)
            first = causal_attention(q, key.transpose(0, 1), value.transpose(0, 1))
            return first.unflatten(1, (groups, heads)).permute(1, 2, 0, 3, 4)
        # Heads of a group share keys and values, so their queries stand below each other.
        q = query.permute(2, 0, 1, 3, 4).flatten(2, 3)  # [b, g, r n, d]
        k, v = (held[:, :rows, : self.new.end].transpose(0, 1) for held in (self.keys, self.values))
        mask = self.new.visible.repeat(1, heads, 1).unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.unflatten(2, (heads, number)).permute(1, 2, 0, 3, 4)
