"""Continue a text, token by token, on any layout.

No keys or values are cached: every token is a forward pass over the text so far, or over its last
``model.sequence_length`` tokens once it is longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.data import Tokenizer
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.errors import DataError
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampler, Sampling


def continuation(run: OpenedRun, prompt: list[int], max_tokens: int, sampling: Sampling) -> Iterator[int]:
    """Yield at most ``max_tokens`` tokens that follow ``prompt``, up to the end of the document, which is left out.

    All ranks iterate in step and get the same tokens. An empty prompt is the beginning of a document.

    Raises:
        DataError: the prompt is empty, and the model was never trained to begin a document.

    Collectives, for each token: those of :meth:`Pipeline.forward`; on the last stage an all-gather over the
    tensor-parallel group; then one broadcast over the world.
    """
    sampler, end = Sampler(sampling), run.corpus.tokenizer.eod
    text = prompt or [end]
    if not prompt and run.plan.document_end is not None:
        raise DataError(
            "the prompt is empty: this model was trained with data.reset_at_documents, so that it has not learned what "
            "a document begins with; give the first word or more"
        )
    for _ in range(max_tokens):
        token = _next_token(run, text[-run.plan.model.sequence_length :], sampler)
        if token == end:
            return
        yield token
        text = [*text, token]


def as_text(tokenizer: Tokenizer, prompt: list[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yield what each of ``tokens`` adds to the text of ``prompt``, as soon as its characters are complete."""
    text = list(prompt)
    done = tokenizer.decode(text)
    for token in tokens:
        text.append(token)
        now = tokenizer.decode(text)
        if not now.endswith("\ufffd"):  # else bytes of a character are still to come, or it is invalid
            yield now[len(done) :]
            done = now
    yield tokenizer.decode(text)[len(done) :]


def _next_token(run: OpenedRun, text: list[int], sampler: Sampler) -> int:
    """Choose the next token on one rank of the last stage, for all. Every data-parallel replica runs the text."""
    grid, device = run.groups.grid, run.groups.device
    length = -(-len(text) // grid.tp) * grid.tp
    padded = torch.zeros(1, length, dtype=torch.int64, device=device)
    padded[0, : len(text)] = torch.tensor(text)  # no token sees the padding, which comes after it
    chooser = (grid.pp - 1) * grid.dp * grid.tp
    token = torch.zeros((), dtype=torch.int64, device=device)

    def use(microbatch: int, logits: Tensor) -> None:
        last = logits[len(text) - 1, 0]
        logits_V = last.new_empty(grid.tp * len(last))
        dist.all_gather_into_tensor(logits_V, last.contiguous(), group=run.groups.tp)
        if run.groups.rank == chooser:
            token.fill_(sampler.draw(logits_V[: run.corpus.vocab_size].cpu()))  # the rest is padding

    run.pipeline.forward([StageBatch(padded, None, None)], use)
    dist.broadcast(token, src=chooser, group=run.groups.world)
    return int(token)
