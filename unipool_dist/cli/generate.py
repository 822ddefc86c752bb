"""``unipool-dist generate``: continue a text with a run's model."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import click

from unipool_dist.base.console import put, say
from unipool_dist.cli.inference import Use, on_every_rank, use_options
from unipool_dist.cli.option_types import COUNT, SEED, Finite
from unipool_dist.errors import UnipoolError

if TYPE_CHECKING:
    from unipool_dist.inference.opened import OpenedRun

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e6
"""Beyond these the quotients overflow, or all tokens are alike."""
_MAX_PROMPT_BYTES = 64 << 20


@click.command()
@click.option("--prompt", required=True, metavar="TEXT", help="What is to be continued; - reads it from stdin.")
@click.option("--max-tokens", type=COUNT, default=100, show_default=True, help="Stop after so many.")
@click.option(
    "--temperature",
    type=Finite(min=0, max=MAX_TEMPERATURE),
    default=1.0,
    show_default=True,
    callback=lambda context, parameter, value: _temperature(value),
    help="Divides the logits; 0 takes the likeliest token always.",
)
@click.option(
    "--top-p",
    type=Finite(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens that have this probability together.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the draws.")
@use_options
def generate(prompt: str, max_tokens: int, temperature: float, top_p: float, seed: int, **use: Any) -> None:
    """Continue a text with the model of RUN.

    Prints the continuation as it comes, up to the end of the document or --max-tokens. The same seed gives the same
    text, on any layout.

    Keeps no keys and values: each token costs a forward pass over the text so far, at most model.sequence_length
    tokens of it.
    """

    def work(run: OpenedRun) -> None:
        from unipool_dist.inference.generation import as_text, continuation
        from unipool_dist.inference.sampler import Sampling

        tokenizer = run.corpus.tokenizer
        tokens = tokenizer.encode(_shared(run, prompt))
        follow = continuation(run, tokens, max_tokens, Sampling(temperature, top_p, seed))
        for piece in as_text(tokenizer, tokens, follow):
            if run.is_main:
                put(piece)
        if run.is_main:
            say()

    on_every_rank(Use(**use), work)


def _shared(run: OpenedRun, prompt: str) -> str:
    """Return the prompt on every rank; only rank 0 reads stdin. Collectives: one broadcast_object_list."""
    import torch.distributed as dist

    box = [_from_stdin() if prompt == "-" and run.is_main else prompt]
    dist.broadcast_object_list(box, group_src=0, group=run.groups.storage)
    return box[0]


def _from_stdin() -> str:
    """Read the text from stdin.

    Raises:
        UnipoolError: it is not UTF-8, or endless.
    """
    data = sys.stdin.buffer.read(_MAX_PROMPT_BYTES + 1)
    if len(data) > _MAX_PROMPT_BYTES:
        raise UnipoolError(
            f"--prompt=-: the text on stdin has more than {_MAX_PROMPT_BYTES:,} bytes; give the end of it"
        )
    try:
        return io.StringIO(data.decode("utf-8"), newline=None).read()  # line ends as in text files
    except UnicodeDecodeError as error:
        raise UnipoolError(
            f"--prompt=-: the text on stdin is not UTF-8 (byte 0x{data[error.start]:02x} at position {error.start}); "
            f"convert it, for example with iconv"
        ) from None


def _temperature(value: float) -> float:
    if 0 < value < MIN_TEMPERATURE:
        raise click.BadParameter(f"{value} is below {MIN_TEMPERATURE}: give 0, which takes the likeliest token always")
    return value
