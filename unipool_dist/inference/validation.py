"""Validation loss of a run's model, by domain and over all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unipool_dist.base.progress_bars import Count, uncounted
from unipool_dist.data import Corpus, Rows, StoredSequences
from unipool_dist.engine.callback import SILENT, Callback
from unipool_dist.engine.evaluate import Evaluation
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.model.documents import within_documents

AT_ONCE = 256
"""Sequences of one evaluation: a progress bar moves in between, and token losses are summed in fp32 within it."""


@dataclass(frozen=True)
class Loss:
    """Mean loss ``nats_per_token`` over ``tokens`` predicted tokens of validation text.

    With ``data.reset_at_documents`` the first token of a document is not among them.

    ``num_bytes`` is the share of these tokens in the bytes of their text, ends of documents included.
    """

    tokens: int
    nats_per_token: float
    num_bytes: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_token * self.tokens / math.log(2) / self.num_bytes


def together(losses: Iterable[Loss]) -> Loss:
    """Return the loss over all these texts, every token counting the same."""
    losses = list(losses)
    tokens = sum(loss.tokens for loss in losses)
    nats = sum(loss.nats_per_token * loss.tokens for loss in losses)
    return Loss(tokens, nats / tokens, sum(loss.num_bytes for loss in losses))


def validation_batches(run: OpenedRun, count: int | None) -> dict[str, StoredSequences]:
    """Return by domain the first ``count`` validation sequences, which training evaluates too, or all for ``None``."""
    length = run.plan.model.sequence_length
    return {name: StoredSequences(run.corpus, name, sequence_length=length, count=count) for name in run.corpus.domains}


def validation_losses(
    run: OpenedRun,
    batches: Mapping[str, Rows],
    count: Count = uncounted,
    callback: Callback = SILENT,
    bytes_per_token: Mapping[str, float] | None = None,
) -> dict[str, Loss]:
    """Measure the loss of every domain; the result is the same on every rank.

    Args:
        batches: by domain, the same on every rank.
        bytes_per_token: of each domain's text, ends of documents included; ``None``: the run's corpus has the domains.
        count: called with numbers of sequences done.
        callback: its ``sequences`` is called.

    Collectives: for each domain, and 256 sequences of it, those of :meth:`Evaluation.run`.
    """
    if bytes_per_token is None:
        bytes_per_token = {name: _bytes_per_token(run.corpus, name) for name in batches}
    losses = {}
    for name, batch in batches.items():
        parts = []
        for start in range(0, len(batch), AT_ONCE):
            evaluation = Evaluation(run.plan, run.groups, run.pipeline, callback)
            part = batch.rows(start, start + AT_ONCE)
            tokens = int(within_documents(part.loss_mask, part.tokens, run.plan.document_end).sum())
            nats = evaluation.run({name: part}, start)[name]
            parts.append(Loss(tokens, nats, tokens * bytes_per_token[name]))
            run.model.exchange.reset_traffic()  # or it would grow for ever
            count(len(part))
        losses[name] = together(parts)
    return losses


def _bytes_per_token(corpus: Corpus, domain: str) -> float:
    """Return how many bytes of UTF-8 a token of a domain's validation text has on average."""
    record = corpus.domain(domain)
    return record.validation_bytes / record.validation_tokens
