"""The next tokens of several texts, on any layout, with what the model has computed of them before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampler
from unipool_dist.model.cache import KeyValueCache


@dataclass(eq=False)
class Text:
    """A text that is being continued: a prompt, and then what was drawn."""

    number: int
    """Of the prompt."""
    tokens: list[int]
    left: int
    """Tokens that may still be drawn."""
    sampler: Sampler


class Decoder:
    """Draws tokens for texts, all ranks in step. Every data-parallel replica runs every text.

    A text within ``model.sequence_length`` has its keys and values kept, so that a token costs a pass over itself
    alone. A longer one is run again for every token, over its last ``sequence_length`` tokens: each of them has another
    position than before, and nothing that was computed for it still holds. ``cached=False`` runs all texts like that.

    Memory on a rank, from the beginning: ``2 * layers * texts * longest * hidden / heads * groups`` numbers of the
    model's type, with the layers of its stage, its share of the key/value groups, and the longest text with all that
    may be drawn, at most ``sequence_length``.
    """

    def __init__(self, run: OpenedRun, texts: Sequence[Text], *, cached: bool = True) -> None:
        self._run, self._length = run, run.plan.model.sequence_length
        texts = [text for text in texts if text.left > 0]
        self._kept = [text for text in texts if cached and len(text.tokens) <= self._length]
        """In the order of the cache's rows."""
        self._whole = [text for text in texts if text not in self._kept]
        longest = max((len(text.tokens) + text.left for text in self._kept), default=0)
        self._cache = _empty_cache(run, len(self._kept), min(longest, self._length))

    @property
    def texts(self) -> list[Text]:
        """Those that are being continued."""
        return [*self._kept, *self._whole]

    def end(self, text: Text) -> None:
        """Do not continue ``text`` any more."""
        if text in self._whole:
            self._whole.remove(text)
        else:
            self._forget(text)

    def draw(self) -> list[tuple[Text, int]]:
        """Draw the next token of every text, and add it; the same on every rank.

        Collectives, for every micro-batch: those of :meth:`Pipeline.forward`; on the last stage an all-gather over the
        tensor-parallel group; then one broadcast over the world.
        """
        drawn = []
        new = [len(text.tokens) - held for text, held in zip(self._kept, self._cache.filled, strict=True)]
        for rows in _parts(new, self._tokens_at_once):
            texts = self._kept[rows]
            drawn += self._pass(texts, self._cache.part(rows))
            for row, text in enumerate(texts, rows.start):
                self._cache.hold(row, len(text.tokens))
        for rows in _parts([min(len(text.tokens), self._length) for text in self._whole], self._tokens_at_once):
            drawn += self._pass(self._whole[rows], None)
        for text, token in drawn:
            text.tokens.append(token)
            if text in self._kept and len(text.tokens) > self._length:
                self._forget(text)
                self._whole.append(text)
        return drawn

    @property
    def _tokens_at_once(self) -> int:
        """As many as training has in a micro-batch: a pass needs no more memory."""
        return self._run.plan.train.micro_batch_size * self._length

    def _forget(self, text: Text) -> None:
        row = self._kept.index(text)
        self._cache.drop(row)
        self._kept[row] = self._kept[-1]
        self._kept.pop()

    def _pass(self, texts: list[Text], cache: KeyValueCache | None) -> list[tuple[Text, int]]:
        """Choose the next token of each text on one rank of the last stage, for all."""
        groups, vocabulary = self._run.groups, self._run.vocabulary
        grid = groups.grid
        if cache is None:
            new = [text.tokens[-self._length :] for text in texts]
        else:
            new = [text.tokens[held:] for text, held in zip(texts, cache.filled, strict=True)]
        chooser = (grid.pp - 1) * grid.dp * grid.tp
        tokens = torch.zeros(len(texts), dtype=torch.int64, device=groups.device)

        def use(microbatch: int, logits: Tensor) -> None:
            row = torch.arange(len(texts), device=groups.device)
            last = logits[torch.tensor([len(each) - 1 for each in new], device=groups.device), row]  # [b, v / tp]
            parts = last.new_empty(grid.tp * len(texts), last.shape[1])
            dist.all_gather_into_tensor(parts, last.contiguous(), group=groups.tp)
            if groups.rank == chooser:
                logits_bV = parts.unflatten(0, (grid.tp, -1)).transpose(0, 1).flatten(1)
                logits_bV = logits_bV[:, : vocabulary.vocab_size].cpu()  # the rest is padding
                drawn = [text.sampler.draw(logits_V) for text, logits_V in zip(texts, logits_bV, strict=True)]
                tokens.copy_(torch.tensor(drawn))

        batch = StageBatch(_padded(new, grid.tp).to(groups.device), None, None)
        self._run.pipeline.forward([batch], use, caches=None if cache is None else [cache])
        self._run.model.exchange.reset_traffic()  # or it would grow for ever
        dist.broadcast(tokens, src=chooser, group=groups.world)
        return list(zip(texts, tokens.tolist(), strict=True))


def _empty_cache(run: OpenedRun, rows: int, length: int) -> KeyValueCache:
    plan, tp = run.plan.model, run.groups.grid.tp
    return KeyValueCache.empty(
        layers=len(run.model.layer_range),
        groups=plan.num_query_groups // tp,
        rows=rows,
        length=length + tp - 1,  # a pass is padded to a multiple of tp
        head_dim=plan.hidden_size // plan.num_attention_heads,
        dtype=run.model.dtype,
        device=run.groups.device,
    )


def _padded(rows: Sequence[Sequence[int]], multiple: int) -> Tensor:
    """Return [b, s] with s a multiple, padded at the end, which no token before it sees."""
    padded = torch.zeros(len(rows), -(-max(map(len, rows)) // multiple) * multiple, dtype=torch.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row)
    return padded


def _parts(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Cut rows of these lengths into neighbours that have at most ``most`` tokens, padding included; at least one."""
    start = 0
    while start < len(lengths):
        end, longest = start + 1, lengths[start]
        while end < len(lengths) and max(longest, lengths[end]) * (end + 1 - start) <= most:
            longest, end = max(longest, lengths[end]), end + 1
        yield slice(start, end)
        start = end
