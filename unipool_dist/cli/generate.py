"""``unipool-dist generate``: continue texts with a run's model."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
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
@click.option(
    "--prompt",
    "prompts",
    required=True,
    multiple=True,
    metavar="TEXT",
    help="What is to be continued; - reads it from stdin. Repeatable.",
)
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
@click.option("--top-k", type=COUNT, metavar="N", help="Draw from the N likeliest tokens.  [default: all]")
@click.option("--stop", "stops", multiple=True, metavar="TEXT", help="End before this text. Repeatable.")
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Of the draws; of the second prompt it is one more."
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The run's tokenizer, where its corpus is no more: in an export, another corpus, or a file.",
)
@use_options
def generate(
    prompts: tuple[str, ...],
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int | None,
    stops: tuple[str, ...],
    seed: int,
    tokenizer: Path | None,
    **use: Any,
) -> None:
    """Continue a text with the model of RUN.

    Prints the continuation as it comes, up to the end of the document, --stop, or --max-tokens. Several prompts are
    continued together, and printed at the end, one JSON document a line. The same seed gives the same text, on any
    layout.

    Keys and values are kept: a token costs a pass over itself, until the text is longer than model.sequence_length;
    then it costs a pass over the last so many tokens.
    """

    def work(run: OpenedRun) -> None:
        from unipool_dist.inference.generation import generated
        from unipool_dist.inference.sampler import Sampling

        given = _shared(run, prompts)
        follow = [""] * len(given)
        for piece in generated(run, given, max_tokens, Sampling(temperature, top_p, seed, top_k), stops):
            follow[piece.prompt] += piece.text
            if run.is_main and len(given) == 1:
                put(piece.text)
        if not run.is_main:
            return
        if len(given) == 1:
            say()
        else:
            for prompt, text in zip(given, follow, strict=True):
                say(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False))

    on_every_rank(Use(**use), work, tokenizer=tokenizer)


def _shared(run: OpenedRun, prompts: tuple[str, ...]) -> list[str]:
    """Return the prompts on every rank; only rank 0 reads stdin, once. Collectives: one broadcast_object_list."""
    import torch.distributed as dist

    box: list[str] = list(prompts)
    if run.is_main and "-" in prompts:
        text = _from_stdin()
        box = [text if prompt == "-" else prompt for prompt in prompts]
    dist.broadcast_object_list(box, group_src=0, group=run.groups.storage)
    return box


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
